"""The page about drift: a table and a plot of the current data beside those of the champion."""

import io
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

from pipeline.reports.page import emphasis, facts, page, paragraph, picture, section, table
from pipeline.validation.drift import Drift, Fingerprint, bins, verdict

TONES = {"none": "good", "some": "warn", "strong": "bad"}
WORDS = {
    "none": "The data are like those the champion was trained on.",
    "some": "The data have changed somewhat since the champion was trained: look at what is marked.",
    "strong": "The data have changed much since the champion was trained: look at the marked, and retrain.",
}
NOW, THEN = "#d55e00", "#0072b2"
"""Told apart with any colour vision: M. Okabe and K. Ito, Color Universal Design (2008)."""


def drift_page(
    organ: str, rows: Sequence[Drift], now: Fingerprint, then: Fingerprint, version: int | None
) -> str:
    """The page as HTML, offline, the same for the same content."""
    overall = verdict(rows)
    champion = f"version {version}" if version is not None else "the champion"
    figures = [
        (str(now["cases"]), "accepted cases now"),
        (str(then["cases"]), f"accepted cases when {champion} was trained"),
        (overall, "drift"),
    ]
    cells = [
        [
            row.what,
            f"{row.distance:.2f}",
            row.measure,
            emphasis(row.verdict, TONES[row.verdict]),
            row.sentence,
        ]
        for row in rows
    ]
    columns = ["subject", "distance", "measure", "drift", "in words"]
    blocks = [
        facts(figures),
        paragraph(WORDS[overall], TONES[overall]),
        section("Subject by subject", table(columns, cells, numbers=["distance"])),
    ]
    if now["modality"] == then["modality"]:
        blocks.append(section("Side by side", picture(drift_png(now, then), "The data of now and of then.")))
    told = f"The accepted cases of now, to learn from and to test with, beside those of {champion}."
    return page(f"{organ}: drift", told, blocks)


def drift_png(now: Fingerprint, then: Fingerprint) -> bytes:
    """Histogram, spacing, volumes and scanners of both, as PNG; the same content gives the same bytes."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 7), dpi=90, layout="constrained")
    canvas = FigureCanvasAgg(figure)
    axes = figure.subplots(2, 2)
    _histogram(axes[0, 0], now, then)
    _ranges(axes[0, 1], "spacing (mm)", now["spacing"], then["spacing"])
    _ranges(axes[1, 0], "volume (ml)", now["volumes"], then["volumes"])
    _scanners(axes[1, 1], now["scanners"], then["scanners"])
    file = io.BytesIO()
    with warnings.catch_warnings():
        # A name whose letters its font lacks can be read in the table.
        warnings.filterwarnings("ignore", "Glyph .* missing from")
        # Without its own name matplotlib writes nothing that changes from version to version or run to run.
        canvas.print_png(file, metadata={"Software": None})
    return file.getvalue()


def _histogram(axes: Any, now: Fingerprint, then: Fingerprint) -> None:
    for part, colour, name in ((then, THEN, "then"), (now, NOW, "now")):
        if part["histogram"]:
            axes.step(bins(part["modality"]), part["histogram"], where="mid", color=colour, label=name)
    axes.set_xlabel("HU" if now["modality"] == "CT" else "z-score")
    axes.set_ylabel("share of the voxels")
    if now["histogram"] or then["histogram"]:
        axes.legend(frameon=False)


def _ranges(
    axes: Any, words: str, now: Mapping[str, Sequence[float]], then: Mapping[str, Sequence[float]]
) -> None:
    """Bars from the 5th to the 95th percentile with the median as a dot: then above, now below."""
    names = list(now)[:20]
    for row, name in enumerate(names):
        for part, colour, above in ((then, THEN, 0.15), (now, NOW, -0.15)):
            quantiles = part.get(name) or []
            if quantiles:
                height = len(names) - row + above
                axes.plot([quantiles[1], quantiles[-2]], [height, height], color=colour, linewidth=3)
                axes.plot(quantiles[len(quantiles) // 2], height, "o", color=colour)
    axes.set_yticks(range(len(names), 0, -1), names, parse_math=False)
    axes.set_xlabel(words)


def _scanners(axes: Any, now: Mapping[str, int], then: Mapping[str, int]) -> None:
    names = sorted({*now, *then}, key=lambda name: (-(now.get(name, 0) + then.get(name, 0)), name))[:10]
    for part, colour, above in ((then, THEN, 0.2), (now, NOW, -0.2)):
        total = sum(part.values()) or 1
        heights = [len(names) - row + above for row in range(len(names))]
        axes.barh(heights, [part.get(name, 0) / total for name in names], 0.35, color=colour)
    axes.set_yticks(range(len(names), 0, -1), [name[:28] for name in names], parse_math=False)
    axes.set_xlabel("share of the cases")
