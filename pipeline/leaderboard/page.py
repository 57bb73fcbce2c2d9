"""A leaderboard as a page: a table, a plot of Dice against cost, a picture of each worst case."""

import io
import os
import platform
import shutil
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from rich.table import Table

from pipeline.atomic import atomic_path, write_json, write_text
from pipeline.gpus import in_use
from pipeline.leaderboard.job import PICTURE
from pipeline.leaderboard.systems import Budget

if TYPE_CHECKING:
    from pipeline.networks.base import Index

Rows = Sequence[dict[str, Any]]
COLUMNS = (
    ("system", "system", "{}"),
    ("Dice", "dice", "{:.3f}"),
    ("worst case", "worst", "{:.3f}"),
    ("HD95 (mm)", "hd95", "{:.2f}"),
    ("NSD", "nsd", "{:.3f}"),
    ("parameters", "parameters", "{:,}"),
    ("GFLOPs", "gflops", "{:.2f}"),
    ("training (s)", "seconds", "{:.0f}"),
    ("a case (s)", "seconds_a_case", "{:.2f}"),
    ("memory (MB)", "memory_mb", "{:,.0f}"),
)
"""Heading, key of a row, format."""
DOTS = "#0072b2"


def write_page(
    folder: Path,
    organ: str,
    rows: Rows,
    budget: Budget,
    profile: str,
    patch: "Index",
    chance: float,
    command: str,
) -> Path:
    """Write page, table and pictures; returns the page.

    Args:
        folder: for the pages of all organs.
        organ: whose.
        rows: as `run_all` returned them.
        budget: of each system.
        profile: small or full.
        patch: (z, y, x) voxels of what they were trained on.
        chance: the Dice of a model that has learned nothing.
        command: that made it.
    """
    done = [row for row in rows if "error" not in row]
    pictures = folder / organ / "worst"
    for row in done:
        source = Path(row["folder"]) / PICTURE
        if source.is_file():
            pictures.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, pictures / f"{_file(row)}.png")
    with atomic_path(folder / organ / "dice.svg") as temporary:
        temporary.write_bytes(dice_against_cost(done))
    content = {
        "organ": organ,
        "budget": {"kind": budget.kind, "amount": budget.amount},
        "profile": profile,
        "patch": list(patch),
        "chance": chance,
        "machine": machine(),
        "date": datetime.now(UTC).date().isoformat(),
        "command": command,
        "systems": [{key: value for key, value in row.items() if key != "folder"} for row in rows],
    }
    write_json(folder / organ / "leaderboard.json", content)
    page = folder / f"{organ}.md"
    write_text(page, _markdown(organ, rows, content, budget))
    return page


def machine() -> str:
    """What it ran on, without a name."""
    cores = len(os.sched_getaffinity(0))
    processor = "1 CPU core" if cores == 1 else f"{cores} CPU cores"
    pytorch = version("torch").partition("+")[0]
    return f"{in_use() or processor}, {platform.system()} {platform.machine()}, PyTorch {pytorch}"


def as_table(rows: Rows) -> Table:
    """For a terminal."""
    table = Table(box=None, pad_edge=False)
    for heading, key, _ in COLUMNS:
        side: Literal["left", "right"] = "left" if key == "system" else "right"
        table.add_column(heading, justify=side, no_wrap=key == "system", overflow="fold")
    for row in rows:
        table.add_row(*_cells(row))
    return table


def dice_against_cost(rows: Rows) -> bytes:
    """Dice over the arithmetic that labelling a patch takes, as SVG; the same rows give the same bytes."""
    import matplotlib as mpl
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    with mpl.rc_context({"svg.hashsalt": "hounsfield", "svg.fonttype": "none"}):
        figure = Figure(figsize=(9, 6), layout="constrained")
        axes = figure.subplots()
        axes.scatter([row["gflops"] for row in rows], [row["dice"] for row in rows], color=DOTS, zorder=2)
        for number, row in enumerate(sorted(rows, key=lambda row: row["gflops"])):
            # Neighbours have their names above and below in turn.
            offset = (4, 5) if number % 2 else (4, -11)
            place = row["gflops"], row["dice"]
            axes.annotate(row["system"], place, offset, textcoords="offset points", fontsize=8)
        axes.set_xscale("log")
        axes.set_xlabel("GFLOPs to label one patch (logarithmic)")
        axes.set_ylabel("mean Dice on the test cases")
        axes.grid(alpha=0.3)
        file = io.BytesIO()
        FigureCanvasSVG(figure).print_svg(file, metadata={"Date": None, "Creator": None})
    return file.getvalue()


def _markdown(organ: str, rows: Rows, content: dict[str, Any], budget: Budget) -> str:
    done = [row for row in rows if "error" not in row]
    cases = max((row["cases"] for row in done), default=0)
    edges = " × ".join(map(str, content["patch"]))
    lines = [
        f"# Leaderboard: {organ}",
        "",
        f"Every system was trained on the same patches, of {edges} voxels, with the same seed and",
        f"budget, {budget} (networks that are composed share it), in the profile `{content['profile']}`, and",
        f"judged on the same {cases} frozen test cases. Calling every voxel one label would give a Dice of",
        f"{content['chance']:.3f}.",
        "",
        f"    {content['command']}",
        "",
        f"{content['machine']}, {content['date']}.",
        "Dice, HD95 and NSD are means over cases, then labels; HD95 over cases where it is finite.",
        "GFLOPs: to label one patch. Memory: the most its training held.",
        "",
        "| " + " | ".join(heading for heading, _, _ in COLUMNS) + " |",
        "|---" + "|---:" * (len(COLUMNS) - 1) + "|",
        *("| " + " | ".join(_cells(row)) + " |" for row in done),
        "",
        f"![Dice against cost]({organ}/dice.svg)",
        "",
        f"The worst case of each system is a picture in `{organ}/worst/` once the command has run; pictures",
        "of real scans are not kept in the repository.",
    ]
    failed = [row for row in rows if "error" in row]
    if failed:
        lines += ["", "Not trained:", "", *(f"* `{row['system']}`: {row['error']}" for row in failed)]
    return "\n".join(lines) + "\n"


def _cells(row: dict[str, Any]) -> list[str]:
    if "error" in row:
        return [row["system"], *["-"] * (len(COLUMNS) - 1)]
    return [
        "-"
        if row.get(key) is None
        else form.format(row[key]) + ("+" if key == "seconds" and row["resumed"] else "")
        for _, key, form in COLUMNS
    ]


def _file(row: dict[str, Any]) -> str:
    return Path(row["folder"]).name.rsplit("-", 1)[0]
