"""Labels that tell left from right: what is mirrored along x would be taken for the other side."""

import re
from collections.abc import Iterable

from pipeline.errors import ParamsError

LOWER, UPPER = "a-zß-öø-ÿ", "A-ZÀ-ÖØ-Þ"
WORD = re.compile(rf"[{UPPER}]?[{LOWER}]+\d*|[{UPPER}]+(?![{LOWER}])\d*")
"""Of a label's name: LeftKidney has two, and so have left_kidney, Kidney-Left and KIDNEY_L."""
SIDE = re.compile(r"(?:left|right)\d*|[lr]t?", re.IGNORECASE)
"""Written in full, or as radiotherapy does (AAPM TG-263): Kidney_L, Lt Kidney; not the vertebra L1."""
LYMPH = re.compile(r"(?<![^\W_])LNodes?(?![a-z])")
"""The L of lymph nodes is no side."""


def check_mirrors(parameter: str, axes: Iterable[str], labels: Iterable[str]) -> None:
    """Refuse to mirror left and right where labels tell them apart.

    Args:
        parameter: that asks for it.
        axes: that are mirrored.
        labels: their names.

    Raises:
        ParamsError: naming the labels that would become the other side.
    """
    sided = [name for name in labels if any(map(SIDE.fullmatch, WORD.findall(LYMPH.sub("", name))))]
    if "x" in axes and sided:
        raise ParamsError(
            f"{parameter} has x, but {', '.join(sided)} would become the other side", "remove x"
        )
