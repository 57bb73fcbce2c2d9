"""Stage `augment`: the augmentation policy, checked against the data, with a picture of what it does."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from pipeline.atomic import atomic_path, read_json, write_json
from pipeline.augmentation.policy import apply, draw
from pipeline.augmentation.sides import check_mirrors
from pipeline.params import AugmentParams
from pipeline.progress import console
from pipeline.training.data import PatchReader
from pipeline.training.normalisation import normalise

ROWS, COLUMNS, ENLARGED = 4, 6, 3
COLOURS = np.array([[0, 0, 0], [230, 159, 0], [86, 180, 233], [0, 158, 115], [204, 121, 167]], np.float32)
"""Of classes, distinct to colour-blind eyes (Okabe & Ito); they repeat after the fourth."""


def run(
    organ: str,
    params: AugmentParams,
    *,
    patches: Path,
    plans: Path,
    volumes: Path,
    augmentation: Path,
    preview: Path,
) -> None:
    """Check the policy, write it down resolved, and draw a few patches many times over."""
    plan = read_json(plans)
    check_mirrors(f"organs.{organ}.augment.mirror_axes", params.mirror_axes, plan["labels"])
    write_json(augmentation, {"params": params.model_dump(mode="json"), "spacing": plan["spacing"]})
    picture = _preview(params, plan, pd.read_parquet(patches), volumes)
    with atomic_path(preview) as temporary:
        temporary.write_bytes(_png(picture))
    console.print(f"{organ}: policy in {augmentation}, picture in {preview}")


def _preview(
    params: AugmentParams, plan: dict[str, Any], table: pd.DataFrame, volumes: Path
) -> NDArray[np.uint8]:
    """A row a patch: as it is, then augmented in several ways; the middle slice, labels as a tint."""
    foreground = table[table["kind"] == "foreground"]
    chosen = (foreground if len(foreground) else table).drop_duplicates("case").head(ROWS)
    # Each once, however often it is learned from.
    reader = PatchReader(chosen.assign(weight=1.0).reset_index(drop=True), volumes, 1, seed=0)
    rows = []
    for step in range(len(chosen)):
        both = torch.from_numpy(np.repeat(reader.batch(step), COLUMNS, axis=0))
        image, label = normalise(both[:, :-1], plan["normalisation"]), both[:, -1].long()
        batch, channels, z, y, x = image.shape
        generator = torch.Generator().manual_seed(step)
        drawn = draw(params, (batch, channels, z, y, x), tuple(plan["spacing"]), generator)
        changed_image, changed_label = apply(image, label, drawn)
        changed_image[0], changed_label[0] = image[0], label[0]
        tiles = zip(changed_image[:, 0, z // 2].numpy(), changed_label[:, z // 2].numpy(), strict=True)
        rows.append(np.concatenate([_tile(one, classes) for one, classes in tiles], axis=1))
    return np.concatenate(rows, axis=0)


def _tile(image: NDArray[np.float32], label: NDArray[np.int64]) -> NDArray[np.uint8]:
    """One slice (Y, X) as colours (Y, X, 3), front up, the patient's right on the left."""
    grey = np.clip((image + 2) / 4, 0, 1)[..., None] * 255
    tint = COLOURS[np.where(label > 0, 1 + (label - 1) % (len(COLOURS) - 1), 0)]
    mixed = np.where(label[..., None] > 0, 0.65 * grey + 0.35 * tint, grey)
    return np.pad(mixed.astype(np.uint8)[::-1, ::-1], ((1, 1), (1, 1), (0, 0)))


def _png(picture: NDArray[np.uint8]) -> bytes:
    from PIL import Image

    size = picture.shape[1] * ENLARGED, picture.shape[0] * ENLARGED
    enlarged = Image.fromarray(picture).resize(size, Image.Resampling.NEAREST)
    buffer = io.BytesIO()
    enlarged.save(buffer, "PNG")
    return buffer.getvalue()
