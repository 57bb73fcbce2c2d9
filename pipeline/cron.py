"""Schedules: what Airflow would refuse is refused before a DAG is made of it.

All organs have their DAGs from one file, which cannot be imported if Airflow does not take one of them.
"""

import calendar
import re

WORDS = ("@hourly", "@daily", "@weekly", "@monthly", "@quarterly", "@yearly")
RANGES = ((0, 59), (0, 23), (1, 31), (1, 12), (0, 7))
"""Least and greatest number of minute, hour, day, month and weekday."""
ELEMENT = re.compile(r"(?:\*|(\d+)(?:-(\d+))?)(?:/(\d+))?")
A_LEAP_YEAR = 2024


def is_cron(text: str) -> str:
    """`text`, if it is a schedule whose time comes.

    Raises:
        ValueError: it is not.
    """
    if text in WORDS:
        return text
    fields = text.split()
    numbers = [_numbers(*field) for field in zip(fields, RANGES, strict=False)]
    if len(fields) != len(RANGES) or not all(numbers):
        raise ValueError("write five fields of cron in numbers, such as '0 3 * * 1', or @weekly")
    days, months, weekdays = numbers[2:]
    longest = max(calendar.monthrange(A_LEAP_YEAR, month)[1] for month in months)
    # Days of the week that are named come as well, whatever the day of the month.
    if min(days) > longest and {day % 7 for day in weekdays} == set(range(7)):
        raise ValueError(f"month {fields[3]} has no day {fields[2]}: write, for its first day, '0 3 1 * *'")
    return text


def _numbers(field: str, ends: tuple[int, int]) -> set[int]:
    """What a field stands for; nothing if an element of it is none of cron's."""
    found: set[int] = set()
    for element in field.split(","):
        parts = ELEMENT.fullmatch(element)
        if parts is None:
            return set()
        first, last, step = (None if part is None else int(part) for part in parts.groups())
        low = ends[0] if first is None else first
        # A number with a step begins a range, and one without is alone.
        high = last if last is not None else first if first is not None and step is None else ends[1]
        if not all(ends[0] <= end <= ends[1] for end in (low, high)) or step == 0:
            return set()
        # What ends before it begins goes on from the least number, as the hours of a night do.
        size = ends[1] - ends[0] + 1
        count = (high - low) % size + 1
        found |= {ends[0] + (low - ends[0] + nth) % size for nth in range(0, count, step or 1)}
    return found
