"""Stage `patches`: which patches are learned from, a row each."""

import hashlib
from pathlib import Path

import numpy as np
import pandas as pd

from pipeline.atomic import atomic_path, read_json
from pipeline.params import PatchesParams
from pipeline.progress import console, track
from pipeline.sampling.boxes import Index
from pipeline.sampling.centres import draw_centres
from pipeline.volumes.store import SUFFIX, StoredCase


def run(
    organ: str, params: PatchesParams, *, accepted: Path, plans: Path, volumes: Path, patches: Path
) -> None:
    """Draw the patch centres of every case that is not kept back for the test."""
    cases = pd.read_parquet(accepted)
    size = _patch_size(params, plans)
    learned = cases[cases["split"] == "train"]
    rows = []
    for case in track(learned.to_dict("records"), "patches", len(learned)):
        label = StoredCase(volumes / f"{case['case']}{SUFFIX}").label()
        centres = draw_centres(
            label, size, params.shares, params.per_case, _generator(params.seed, case["case"])
        )
        known = {name: case[name] for name in ("case", "fold", "key", "annotated")}
        rows += [known | row for row in centres]
    table = pd.DataFrame(rows).assign(weight=1.0, **_size_columns(size))
    with atomic_path(patches) as temporary:
        table.to_parquet(temporary, index=False)
    kinds = ", ".join(f"{count} {kind}" for kind, count in table["kind"].value_counts().sort_index().items())
    edges = " x ".join(str(edge) for edge in size)
    console.print(f"{organ}: {len(table)} patches of {edges} voxels from {len(learned)} cases ({kinds})")


def _patch_size(params: PatchesParams, plans: Path) -> Index:
    z, y, x = read_json(plans)["patch_size"] if params.size == "auto" else params.size
    return int(z), int(y), int(x)


def _size_columns(size: Index) -> dict[str, int]:
    """The size stands in the table, so that its readers need no second source for it."""
    return {f"size_{axis}": edge for axis, edge in zip("zyx", size, strict=True)}


def _generator(seed: int, case: str) -> np.random.Generator:
    """Randomness of one case: it does not change when other cases come or go."""
    digest = hashlib.sha256(case.encode()).digest()
    return np.random.default_rng([seed, int.from_bytes(digest[:8], "big")])
