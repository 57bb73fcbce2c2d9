"""Stage `patches`: which patches are learned from, a row each."""

import hashlib
from collections.abc import Callable, Collection, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pipeline.atomic import atomic_path, read_json
from pipeline.errors import ParamsError
from pipeline.labels import UNKNOWN
from pipeline.params import PatchesParams
from pipeline.progress import console, track
from pipeline.registry.folders import champions_in, registered
from pipeline.sampling.boxes import Index
from pipeline.sampling.centres import Case, Mask, draw_centres, grid_centres, hard_range
from pipeline.sampling.supervoxels import supervoxels
from pipeline.sampling.weights import by_label
from pipeline.volumes.geometry import Floats
from pipeline.volumes.store import SUFFIX, StoredCase
from pipeline.workspace import home, project_root

FETCH = "fetch the champion by hounsfield hard-negatives ORGAN, or set patches.hard_negatives.of to range"
Hard = Callable[[StoredCase, str], Mask | None]


def run(
    organ: str, params: PatchesParams, *, accepted: Path, plans: Path, volumes: Path, patches: Path
) -> None:
    """Draw the patch centres of every case that is not kept back for the test.

    Raises:
        ParamsError: a name is no label, or the model whose false positives are asked for sees other images.
        MissingError: the model whose false positives are asked for is not there.
    """
    cases = pd.read_parquet(accepted)
    plan = read_json(plans)
    size = _patch_size(params, plan)
    labels = sorted(plan["labels"], key=lambda name: plan["labels"][name])
    balance, hard = _balance(params, labels), _hard(params, labels)
    learned = cases[cases["split"] == "train"]
    rows = []
    for case in track(learned.to_dict("records"), "patches", len(learned)):
        stored = StoredCase(volumes / f"{case['case']}{SUFFIX}")
        if params.mode == "grid":
            centres = grid_centres(stored.label(), size, params.overlap)
        else:
            regions = None
            if params.supervoxels:
                regions = supervoxels(stored.image()[0], plan["spacing"], params.supervoxels)
            drawn_from = Case(stored.label(), hard(stored, case["annotated"]), regions)
            generator = _generator(params.seed, case["case"])
            centres = draw_centres(drawn_from, size, params, balance, generator)
        known = {name: case[name] for name in ("case", "fold", "key", "annotated")}
        rows += [known | row for row in centres]
    table = pd.DataFrame(rows).assign(**_size_columns(size))
    # What lies on a grid covers every voxel alike.
    centred = table["class"].where(table["kind"] == "foreground", 0)
    table["weight"] = by_label(centred, dict(enumerate(balance, start=1)))
    with atomic_path(patches) as temporary:
        table.to_parquet(temporary, index=False)
    kinds = ", ".join(f"{count} {kind}" for kind, count in table["kind"].value_counts().sort_index().items())
    edges = " x ".join(str(edge) for edge in size)
    console.print(f"{organ}: {len(table)} patches of {edges} voxels from {len(learned)} cases ({kinds})")


def _patch_size(params: PatchesParams, plan: dict[str, Any]) -> Index:
    z, y, x = plan["patch_size"] if params.size == "auto" else params.size
    return int(z), int(y), int(x)


def _balance(params: PatchesParams, labels: list[str]) -> list[float]:
    """What each class counts, in the order of the classes; empty: all the same."""
    _check(params.balance, labels, "balance")
    return [params.balance.get(name, 1.0) for name in labels] if params.balance else []


def _hard(params: PatchesParams, labels: list[str]) -> Hard:
    """A function of a case and what is annotated in it: the voxels that look like the organ and are not."""
    asked = params.hard_negatives
    _check(asked.within, labels, "hard_negatives.within")
    if not params.shares.hard or params.mode == "grid":
        return lambda stored, annotated: None
    classes = [labels.index(name) + 1 for name in asked.within] or [0]
    mistaken = _false_positives(asked.model, labels) if asked.of == "model" else None

    def hard(stored: StoredCase, annotated: str) -> Mask | None:
        image, label = stored.image(), stored.label()
        searched = np.isin(label, classes)
        if mistaken is not None:
            return searched & mistaken(image, label, annotated.split(";") if annotated else labels)
        ends = hard_range(image[0], label) if asked.range == "auto" else asked.range
        return None if ends is None else searched & (image[0] >= ends[0]) & (image[0] <= ends[1])

    return hard


def _false_positives(
    content: str, labels: list[str]
) -> Callable[[Floats, NDArray[np.uint8], Collection[str]], Mask]:
    """A function that gives the voxels that a registered model takes for a label they are not of.

    It is told which labels somebody looked for: of others nobody knows whether the model is wrong.
    """
    import torch

    from pipeline.inference.model import load_model

    champions = champions_in(home(project_root()))
    model = load_model(registered(champions, content, "patches.hard_negatives.model", FETCH))
    own = {name: number for number, name in enumerate(labels, start=1)}

    def mistaken(image: Floats, label: NDArray[np.uint8], looked_for: Collection[str]) -> Mask:
        if len(image) != model.recipe.channels:
            raise ParamsError(
                f"patches.hard_negatives.model names a model of {model.recipe.channels} images a case, but a "
                f"case has {len(image)}",
                "set patches.hard_negatives.of to range until a champion has learned from such cases",
            )
        # Labels may have come or gone since the model was trained.
        known = [own.get(name, 0) if name in looked_for else 0 for name in model.recipe.classes]
        found = np.array([0, *known])[model.shares(torch.from_numpy(image)).argmax(0).cpu().numpy()]
        wrong: Mask = (found > 0) & (found != label) & (label != UNKNOWN)
        return wrong

    return mistaken


def _check(names: Iterable[str], labels: list[str], where: str) -> None:
    stray = sorted(set(names) - set(labels))
    if stray:
        raise ParamsError(
            f"patches.{where} has '{stray[0]}', which is no label", f"it may have {', '.join(labels)}"
        )


def _size_columns(size: Index) -> dict[str, int]:
    """The size stands in the table, so that its readers need no second source for it."""
    return {f"size_{axis}": edge for axis, edge in zip("zyx", size, strict=True)}


def _generator(seed: int, case: str) -> np.random.Generator:
    """Randomness of one case: it does not change when other cases come or go."""
    digest = hashlib.sha256(case.encode()).digest()
    return np.random.default_rng([seed, int.from_bytes(digest[:8], "big")])
