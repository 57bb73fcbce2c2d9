"""The plan: what the data look like, and the choices that follow, each with its reason."""

import math
from dataclasses import asdict
from typing import Any, Literal

import numpy as np
import pandas as pd

from pipeline.errors import ParamsError
from pipeline.params import IngestParams, Normalisation
from pipeline.volumes.calibration import SOFT_TISSUE
from pipeline.volumes.geometry import Triple, resampled_shape
from pipeline.volumes.recipe import Recipe

PATCH_VOXELS = 110_000
"""Voxels of a patch for few CPU cores: a step of the small network on two such takes half a second on two."""
BYTES_A_VOXEL = 2_000
"""Of a GPU's memory, for each voxel of a step's patches. The full `residual_unet` keeps 920 for its gradients
in bfloat16; what is computed in float32 on the way, and the convolutions' own memory, is as much again."""
BYTES_OF_WEIGHTS = 500_000_000
"""Of a GPU's memory: weights, gradients, optimiser and moving average of that network."""
LEAST_BATCH, MOST_BATCH = 2, 8
MULTIPLES = ((128, 32), (64, 16), (1, 8))
"""Patch edges from so many voxels on are multiples of this, so that a network can halve them often enough."""


def planned_spacing(spacings: list[Triple]) -> Triple:
    """The median spacing of the data, rounded to 0.05 mm.

    Rounding keeps the plan, and with it every volume made, as it is when a few new cases move the
    median by a hair.
    """
    z, y, x = np.median(np.array(spacings), axis=0)
    return _round(z), _round(y), _round(x)


def _round(millimetres: float) -> float:
    return max(0.05, round(float(millimetres) * 20) / 20)


def planned_patch(
    shape: tuple[int, int, int], spacing: Triple, voxels: int = PATCH_VOXELS
) -> tuple[int, int, int]:
    """A patch that covers the median case if that is small, else one as cubic in millimetres as it can be.

    Args:
        shape: the median case at the planned spacing, (z, y, x) voxels.
        spacing: millimetres, (z, y, x).
        voxels: that a patch has at most.
    """
    edges = np.array([-(-edge // _multiple(edge)) * _multiple(edge) for edge in shape])
    while math.prod(map(int, edges)) > voxels:
        longest = int(np.argmax(edges * np.array(spacing) * (edges > _multiple(1))))
        edges[longest] -= _multiple(edges[longest] - 1)
    z, y, x = map(int, edges)
    return z, y, x


def _multiple(edge: int) -> int:
    return next(multiple for least, multiple in MULTIPLES if edge >= least)


def planned_voxels(memory_gb: float) -> int:
    """Voxels of all patches of a step that a GPU's memory, or the part of it that is given, holds."""
    return int((memory_gb * 1e9 - BYTES_OF_WEIGHTS) / BYTES_A_VOXEL)


def make_plan(
    accepted: pd.DataFrame,
    recipe: Recipe,
    normalisation: Literal["auto"] | Normalisation = "auto",
    memory_gb: float | None = None,
) -> dict[str, Any]:
    """Fingerprint and plan of the accepted cases, JSON-like.

    Args:
        accepted: rows of the case table, at least one.
        recipe: by which their volumes were made.
        normalisation: channels that are wanted (of windows: of a CT), or auto.
        memory_gb: of a GPU, 10^9 bytes, that a step of training may take; None: it is made for few CPU cores.

    Raises:
        ParamsError: a channel is wanted of an image that the cases do not have.
    """
    spacing = recipe.spacing
    shapes = [
        resampled_shape(shape, old, spacing)
        for shape, old in zip(_triples(accepted, "shape"), _triples(accepted, "spacing"), strict=True)
    ]
    z, y, x = (int(edge) for edge in np.ceil(np.median(np.array(shapes), axis=0)))
    step, why = _planned_step((z, y, x), spacing, memory_gb)
    return {
        "modality": recipe.modality,
        "labels": recipe.labels,
        "recipe": asdict(recipe),
        "spacing": list(spacing),
        **step,
        "normalisation": _normalisation(accepted, recipe, normalisation),
        "fingerprint": {
            "cases": len(accepted),
            "median_shape": [z, y, x],
            "median_ml": {name: _median(accepted[f"ml_{name}"]) for name in recipe.labels},
        },
        "reasons": {
            "spacing": "the median of the cases, or as params.yaml says",
            **why,
            "interpolation": "cubic; linear across slices over three times as thick as the plane is fine",
            "normalisation": _why_normalisation(recipe, normalisation),
            "offset": _why_offset(recipe),
        },
    }


def asked(params: IngestParams) -> dict[str, Any]:
    """What of the parameters a plan follows, JSON-like: with others it would be another."""
    return params.model_dump(
        mode="json", include={"spacing", "hu_offset", "normalisation", "train_memory_gb"}
    )


def _planned_step(
    shape: tuple[int, int, int], spacing: Triple, memory_gb: float | None
) -> tuple[dict[str, Any], dict[str, str]]:
    """Size and number of the patches of a step, and why; the number may be left to the training's profile."""
    median = f"the median case is {' x '.join(map(str, shape))} voxels"
    if memory_gb is None:
        patch = planned_patch(shape, spacing)
        why = f"{median}; at most {PATCH_VOXELS} voxels a patch, for few CPU cores"
        return {"patch_size": list(patch), "batch_size": None}, {
            "patch_size": why,
            "batch_size": "as the profile of the training says",
        }
    voxels = planned_voxels(memory_gb)
    patch = planned_patch(shape, spacing, voxels // LEAST_BATCH)
    batch = min(MOST_BATCH, voxels // math.prod(patch))
    most = voxels // LEAST_BATCH
    why = f"{median}; {LEAST_BATCH} patches of {most} voxels fit into {memory_gb:g} GB of a GPU"
    return {"patch_size": list(patch), "batch_size": batch}, {
        "patch_size": why,
        "batch_size": f"as many as fit, {MOST_BATCH} at most",
    }


def _why_offset(recipe: Recipe) -> str:
    if recipe.offset.where == "unsigned":
        added = f"{recipe.offset.hu:g} added where no value is negative"
        return f"soft tissue lies near {SOFT_TISSUE:g} HU with {added}"
    return "as params.yaml says" if recipe.offset.hu else "none is needed"


def _why_normalisation(recipe: Recipe, wanted: Literal["auto"] | Normalisation) -> str:
    if wanted != "auto" and (wanted.channels or recipe.modality == "CT"):
        return "as params.yaml says"
    if recipe.modality == "MR":
        return "every case is scaled by its own voxels already"
    if recipe.annotation.kind == "image":
        return "from air to bone: a mark may lie anywhere in a slice that holds its label"
    return "percentiles, mean and deviation of the labelled voxels"


def _normalisation(
    accepted: pd.DataFrame, recipe: Recipe, wanted: Literal["auto"] | Normalisation
) -> list[dict[str, Any]]:
    """What a network sees, a channel each: of which image, clipped, then shifted and scaled."""
    channels = range(recipe.channels)
    if wanted != "auto" and wanted.channels:
        beyond = next((one.image for one in wanted.channels if one.image not in channels), None)
        if beyond is not None:
            raise ParamsError(
                f"ingest.normalisation.channels has image {beyond}, but a case has {recipe.channels}",
                "count images from 0",
            )
        return [_channel(one.image, one.clip, one.mean, one.std) for one in wanted.channels]
    if recipe.modality == "MR":
        return [_channel(channel, (-5.0, 5.0), 0.0, 1.0) for channel in channels]
    if wanted != "auto":
        return [
            _channel(channel, (low, high), (low + high) / 2, (high - low) / 2)
            for channel in channels
            for low, high in wanted.windows
        ]
    if recipe.annotation.kind == "image":
        return [_air_to_bone(channel) for channel in channels]
    return [_by_foreground(accepted, channel) for channel in channels]


def _by_foreground(accepted: pd.DataFrame, channel: int) -> dict[str, Any]:
    """By the labelled voxels of the first image; of other channels nothing is measured."""
    measured = accepted.dropna(subset=["fg_mean"])
    low, high = float(measured["fg_low"].median()), float(measured["fg_high"].median())
    # Labels of one value would leave one value of everything.
    if measured.empty or channel or low >= high:
        return _air_to_bone(channel)
    mean = float(measured["fg_mean"].mean())
    deviation = float(np.sqrt(max(float(measured["fg_square"].mean()) - mean**2, 1.0)))
    return _channel(channel, (low, high), mean, deviation)


def _air_to_bone(channel: int) -> dict[str, Any]:
    """Where nothing that is labelled says what to look at."""
    return _channel(channel, (-1000.0, 1000.0), 0.0, 500.0)


def _channel(image: int, clip: tuple[float, float], mean: float, deviation: float) -> dict[str, Any]:
    return {"image": image, "clip": list(clip), "mean": mean, "std": deviation}


def _triples(table: pd.DataFrame, name: str) -> list[Any]:
    return [tuple(row) for row in table[[f"{name}_{axis}" for axis in "zyx"]].to_numpy()]


def _median(column: pd.Series) -> float | None:
    """None of a label that nobody looked for in any case."""
    middle = float(column.astype(float).median())
    return None if math.isnan(middle) else middle
