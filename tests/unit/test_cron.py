import random

from croniter import croniter

from pipeline.cron import is_cron


def test_what_is_taken_has_a_next_time_to_the_library_that_airflow_asks() -> None:
    draw = random.Random(0)
    taken = 0
    for _ in range(20000):
        text = " ".join("".join(draw.choices("12347-*/,0", k=draw.randint(1, 4))) for _ in range(5))
        if draw.random() < 0.5:
            # Most of it right, so that much is taken.
            text = f"0 3 {draw.randint(25, 33)} {draw.choice('2469')} {text.split()[4]}"
        try:
            is_cron(text)
        except ValueError:
            continue
        taken += 1
        clock = croniter(text)
        assert clock.get_next() > clock.get_prev()
    assert taken > 500
