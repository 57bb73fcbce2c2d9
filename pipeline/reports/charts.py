"""Charts as SVG that take their colours from the page around them."""

import math
from collections.abc import Mapping, Sequence

from pipeline.reports.page import Html, markup

WIDTH = 480
"""Units of the drawing; it is scaled to the room there is."""
ROW = 44
"""Height of one group of a strip chart."""
SQUARE, SQUARE_LEFT, SQUARE_BOTTOM = 260, 44, 272
"""Edge of a chart whose axes are alike, and where it stands."""


def strip_chart(groups: Mapping[str, Sequence[tuple[str, float]]]) -> Html:
    """A row of dots for each group, each dot a case, with the median as a bar.

    Args:
        groups: name to (case, value from 0 to 1); a dot says its case when it is pointed at.
    """
    left, right, top = 12, WIDTH - 12, 24
    bottom = top + ROW * len(groups)
    parts = []
    for tick in (0, 0.2, 0.4, 0.6, 0.8, 1):
        x = left + (right - left) * tick
        parts.append(f'<line class="line" x1="{x:.1f}" x2="{x:.1f}" y1="{top - 4}" y2="{bottom}"/>')
        parts.append(f'<text x="{x:.1f}" y="14" text-anchor="middle">{tick:g}</text>')
    for number, (name, points) in enumerate(groups.items()):
        y = top + ROW * number
        parts.append(f'<text class="strong" x="{left}" y="{y + 13}">{markup(name)}</text>')
        parts += _strip(points, left, right, y + 29)
    return _svg(bottom + 4, "Dice of every case, by label", parts)


def _strip(points: Sequence[tuple[str, float]], left: float, right: float, y: float) -> list[str]:
    """Dots that would hide each other are put above and below the line in turn."""
    parts = []
    last, level = -1.0, 0
    for case, value in sorted(points, key=lambda point: (point[1], point[0])):
        x = left + (right - left) * value
        level = (level + 1) % 3 if x - last < 7 else 0
        last = x
        shift = (0, -6, 6)[level]
        tip = f"<title>{markup(case)}: {value:.3f}</title>"
        parts.append(f'<circle class="dot" cx="{x:.1f}" cy="{y + shift:.1f}" r="4">{tip}</circle>')
    values = sorted(value for _, value in points)
    if values:
        middle = (values[(len(values) - 1) // 2] + values[len(values) // 2]) / 2
        x = left + (right - left) * middle
        parts.append(f'<line class="median" x1="{x:.1f}" x2="{x:.1f}" y1="{y - 12}" y2="{y + 12}"/>')
    return parts


def line_chart(points: Sequence[tuple[float, float]], low: float, high: float, name: str) -> Html:
    """A curve through (x, y), y drawn from `low` to `high`, x from 0 to the last."""
    left, right, top, bottom = 44, WIDTH - 12, 12, 190
    end = max((x for x, _ in points), default=0) or 1
    spread = (high - low) or 1
    places = [
        (left + (right - left) * x / end, bottom - (bottom - top) * (min(max(y, low), high) - low) / spread)
        for x, y in points
    ]
    parts = []
    for part in (0, 0.25, 0.5, 0.75, 1):
        y = bottom - (bottom - top) * part
        parts.append(f'<line class="line" x1="{left}" x2="{right}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(
            f'<text x="{left - 6}" y="{y + 4:.1f}" text-anchor="end">{low + spread * part:.3g}</text>'
        )
    for part in (0, 0.5, 1):
        x = left + (right - left) * part
        parts.append(f'<text x="{x:.1f}" y="{bottom + 18}" text-anchor="middle">{end * part:.0f}</text>')
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
    parts.append(f'<polyline class="curve" points="{path}"/>')
    if len(places) <= 40:
        parts += [f'<circle class="dot" cx="{x:.1f}" cy="{y:.1f}" r="3.5"/>' for x, y in places]
    return _svg(bottom + 26, name, parts)


def reliability_chart(points: Sequence[tuple[float, float, float]], name: str) -> Html:
    """A reliability diagram: dots of (probability, observed share, voxels), and the line where both agree.

    Args:
        points: the first two from 0 to 1; a dot grows with the logarithm of its voxels.
        name: of what the probability is.
    """
    parts = _square(0, (0, 0.2, 0.4, 0.6, 0.8, 1), ("observed, by", "probability"))
    for said, so, voxels in points:
        radius = 2 + math.log10(max(voxels, 1))
        tip = f"<title>predicted {said:.0%}, observed {so:.0%} of {voxels:,.0f} voxels</title>"
        parts.append(f'<circle class="dot" {_in_square(said, so)} r="{radius:.1f}">{tip}</circle>')
    return _svg(SQUARE_BOTTOM + 26, f"{name}: observed share by predicted probability", parts)


def difference_chart(rows: Sequence[tuple[str, float, float]], margin: float, name: str) -> Html:
    """A row for each (name, difference, lower bound): a dot, and a line from the bound on upwards.

    Args:
        rows: the differences and bounds are finite.
        margin: that the upper rows may lose; where it lies is marked, as is 0.
        name: of what is compared.
    """
    left, right, top = 12, WIDTH - 12, 24
    bottom = top + ROW * len(rows)
    values = [0.0, -margin, *(value for _, *pair in rows for value in pair)]
    room = 0.08 * ((max(values) - min(values)) or 1)
    low, high = min(values) - room, max(values) + room

    def place(value: float) -> float:
        return left + (right - left) * (value - low) / (high - low)

    parts = []
    for mark, words in [(-margin, f"−{margin:g}")] * (margin > 0) + [(0.0, "0")]:
        kind = "axis" if mark == 0 else "line"
        x = place(mark)
        parts.append(f'<line class="{kind}" x1="{x:.1f}" x2="{x:.1f}" y1="{top - 4}" y2="{bottom}"/>')
        parts.append(f'<text x="{x:.1f}" y="14" text-anchor="middle">{words}</text>')
    for number, (label, difference, bound) in enumerate(rows):
        y = top + ROW * number
        words = f"<title>{markup(label)}: {difference:+.4f}, above {bound:+.4f}</title>"
        parts.append(f'<text class="strong" x="{left}" y="{y + 13}">{markup(label)}</text>')
        parts.append(
            f'<line class="curve" x1="{place(bound):.1f}" x2="{right}" y1="{y + 29}" y2="{y + 29}"/>'
        )
        parts.append(f'<circle class="dot" cx="{place(difference):.1f}" cy="{y + 29}" r="5">{words}</circle>')
    return _svg(bottom + 4, name, parts)


def paired_chart(points: Sequence[tuple[str, float, float]], across: str, up: str) -> Html:
    """Dots of (name, x, y), both from 0 to 1, with the line where both are the same.

    Args:
        points: the axes begin at the tenth below the lowest value.
        across: what x is.
        up: what y is.
    """
    lowest = min((value for _, *pair in points for value in pair), default=0.0)
    low = min(math.floor(lowest * 10) / 10, 0.9)
    parts = _square(low, (0, 0.25, 0.5, 0.75, 1), (f"up: {up}", f"across: {across}"))
    for name, x, y in points:
        place = _in_square((x - low) / (1 - low), (y - low) / (1 - low))
        words = f"<title>{markup(name)}: {markup(up)} {y:.3f}, {markup(across)} {x:.3f}</title>"
        parts.append(f'<circle class="dot" {place} r="4">{words}</circle>')
    return _svg(SQUARE_BOTTOM + 26, f"{up} against {across}", parts)


def _square(low: float, shares: Sequence[float], words: tuple[str, str]) -> list[str]:
    """A square whose axes go from `low` to 1, marked at `shares` of them, and the line where both are alike.

    The words stand beside it, in two lines.
    """
    right = SQUARE_LEFT + SQUARE
    top = SQUARE_BOTTOM - SQUARE
    parts = []
    for share in shares:
        x, y, tick = SQUARE_LEFT + SQUARE * share, SQUARE_BOTTOM - SQUARE * share, low + (1 - low) * share
        parts.append(f'<line class="line" x1="{SQUARE_LEFT}" x2="{right}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text x="{SQUARE_LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{tick:.3g}</text>')
        parts.append(f'<text x="{x:.1f}" y="{SQUARE_BOTTOM + 18}" text-anchor="middle">{tick:.3g}</text>')
    parts.append(f'<line class="axis" x1="{SQUARE_LEFT}" x2="{right}" y1="{SQUARE_BOTTOM}" y2="{top}"/>')
    for line, said in enumerate(words):
        parts.append(f'<text x="{right + 14}" y="{top + 14 + 17 * line}">{markup(said)}</text>')
    return parts


def _in_square(across: float, up: float) -> str:
    """Where a dot stands, by shares of the axes."""
    return f'cx="{SQUARE_LEFT + SQUARE * across:.1f}" cy="{SQUARE_BOTTOM - SQUARE * up:.1f}"'


def _svg(height: float, name: str, parts: Sequence[str]) -> Html:
    inside = "\n".join(parts)
    return Html(
        f'<svg viewBox="0 0 {WIDTH} {height:g}" role="img" aria-label="{markup(name)}">\n{inside}\n</svg>'
    )
