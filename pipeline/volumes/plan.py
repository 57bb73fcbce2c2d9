"""The plan: what the data look like, and the choices that follow, each with its reason."""

from dataclasses import asdict
from typing import Any, Literal

import numpy as np
import pandas as pd

from pipeline.params import Windows
from pipeline.volumes.calibration import SOFT_TISSUE
from pipeline.volumes.cases import Recipe
from pipeline.volumes.geometry import Triple, resampled_shape

PATCH_VOXELS = 110_000
"""Voxels of a planned patch: a step of the small network on two such takes half a second on two cores."""
MULTIPLE = 8
"""Patch edges are multiples of this, so that a network can halve them three times."""


def planned_spacing(spacings: list[Triple]) -> Triple:
    """The median spacing of the data, rounded to 0.05 mm.

    Rounding keeps the plan, and with it every volume made, as it is when a few new cases move the
    median by a hair.
    """
    z, y, x = np.median(np.array(spacings), axis=0)
    return _round(z), _round(y), _round(x)


def _round(millimetres: float) -> float:
    return max(0.05, round(float(millimetres) * 20) / 20)


def planned_patch(shape: tuple[int, int, int], spacing: Triple) -> tuple[int, int, int]:
    """A patch that covers the median case if that is small, else one as cubic in millimetres as it can be.

    Args:
        shape: the median case at the planned spacing, (z, y, x) voxels.
        spacing: millimetres, (z, y, x).
    """
    whole = [-(-edge // MULTIPLE) * MULTIPLE for edge in shape]
    edges = np.array(whole, float)
    while np.prod(edges) > PATCH_VOXELS:
        longest = int(np.argmax(edges * np.array(spacing) * (edges > MULTIPLE)))
        edges[longest] -= MULTIPLE
    z, y, x = (int(edge) for edge in edges)
    return z, y, x


def make_plan(
    accepted: pd.DataFrame, recipe: Recipe, normalisation: Literal["auto"] | Windows = "auto"
) -> dict[str, Any]:
    """Fingerprint and plan of the accepted cases, JSON-like.

    Args:
        accepted: rows of the case table, at least one.
        recipe: by which their volumes were made.
        normalisation: windows of a CT, or auto.
    """
    spacing = recipe.spacing
    shapes = [
        resampled_shape(shape, old, spacing)
        for shape, old in zip(_triples(accepted, "shape"), _triples(accepted, "spacing"), strict=True)
    ]
    z, y, x = (int(edge) for edge in np.ceil(np.median(np.array(shapes), axis=0)))
    patch = planned_patch((z, y, x), spacing)
    return {
        "modality": recipe.modality,
        "labels": recipe.labels,
        "recipe": asdict(recipe),
        "spacing": list(spacing),
        "patch_size": list(patch),
        "normalisation": _normalisation(accepted, recipe, normalisation),
        "fingerprint": {
            "cases": len(accepted),
            "median_shape": [z, y, x],
            "median_ml": {name: _median(accepted[f"ml_{name}"]) for name in recipe.labels},
        },
        "reasons": {
            "spacing": "the median of the cases, or as params.yaml says",
            "patch_size": f"the median case is {z} x {y} x {x} voxels; at most {PATCH_VOXELS} voxels a patch",
            "interpolation": "cubic; linear across slices over three times as thick as the plane is fine",
            "normalisation": "as params.yaml says; else CT by the labelled voxels; MR is scaled already",
            "offset": _why_offset(recipe),
        },
    }


def _why_offset(recipe: Recipe) -> str:
    if recipe.offset.where == "unsigned":
        added = f"{recipe.offset.hu:g} added where no value is negative"
        return f"soft tissue lies near {SOFT_TISSUE:g} HU with {added}"
    return "as params.yaml says" if recipe.offset.hu else "none is needed"


def _normalisation(
    accepted: pd.DataFrame, recipe: Recipe, wanted: Literal["auto"] | Windows
) -> list[dict[str, Any]]:
    """What a network sees, a channel each: of which image, clipped, then shifted and scaled."""
    channels = range(recipe.channels)
    if recipe.modality == "MR":
        return [_channel(channel, (-5.0, 5.0), 0.0, 1.0) for channel in channels]
    if wanted != "auto":
        return [
            _channel(channel, (low, high), (low + high) / 2, (high - low) / 2)
            for channel in channels
            for low, high in wanted.windows
        ]
    return [_by_foreground(accepted, channel) for channel in channels]


def _by_foreground(accepted: pd.DataFrame, channel: int) -> dict[str, Any]:
    """By the labelled voxels of the first image; of other channels nothing is measured."""
    measured = accepted.dropna(subset=["fg_mean"])
    if measured.empty or channel:
        # Nothing labelled to go by: from air to bone.
        return _channel(channel, (-1000.0, 1000.0), 0.0, 500.0)
    mean = float(measured["fg_mean"].mean())
    deviation = float(np.sqrt(max(float(measured["fg_square"].mean()) - mean**2, 1.0)))
    clip = float(measured["fg_low"].median()), float(measured["fg_high"].median())
    return _channel(channel, clip, mean, deviation)


def _channel(image: int, clip: tuple[float, float], mean: float, deviation: float) -> dict[str, Any]:
    return {"image": image, "clip": list(clip), "mean": mean, "std": deviation}


def _triples(table: pd.DataFrame, name: str) -> list[Any]:
    return [tuple(row) for row in table[[f"{name}_{axis}" for axis in "zyx"]].to_numpy()]


def _median(column: pd.Series) -> float:
    return float(column.median())
