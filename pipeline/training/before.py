"""Networks whose predictions another one is given, and their predictions of cases they have not learned from.

What a network says of a case it has learned from is better than what it will say of a new one: a network
that learned from such maps would trust them too much (Tu and Bai, PAMI 32, 2010).
"""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from pipeline.atomic import atomic_path, remove_partial, sha256_json
from pipeline.errors import DataError
from pipeline.inference.composition import Given, given_by
from pipeline.params import BeforeParams, TrainParams
from pipeline.progress import track
from pipeline.training.data import check_taught
from pipeline.training.distributed import first, rank, world
from pipeline.training.exchange import from_first, wait
from pipeline.training.fit import checkpoints, fit
from pipeline.training.material import Material, Trained, as_model
from pipeline.training.watching import WATCHED
from pipeline.volumes.store import SUFFIX, StoredCase


def fit_before(
    material: Material, params: TrainParams, before: BeforeParams
) -> tuple[tuple[Trained, ...], Mapping[str, Given]]:
    """Train the networks that come before, and have each case predicted by one that does not know it.

    The folds but the watched one are dealt to `before.folds` groups. A network learns from all groups but
    one and predicts that; the watched fold, like a new case, is predicted by the mean of all networks.

    Args:
        material: what they are made from.
        params: of the network that follows.
        before: of these.

    Returns:
        The networks, and what is handed on of each case, as `given_by` returns it.

    Raises:
        DataError: there are fewer folds than groups, a label is in none that is learned from, or a training
            breaks down.
    """
    own = params.model_copy(
        update={
            "network": before.network,
            "loss": before.loss,
            "steps": params.steps if before.steps == "auto" else before.steps,
            "before": None,
            "start": "scratch",
            "transfer": "full",
        }
    )
    table = material.table
    groups = groups_of(material, params.fold, before)
    trained = []
    for group in groups:
        rows = _learned(table, group, params.fold)
        watched = sorted(table[table["fold"].isin(group)]["case"].unique())[:WATCHED]
        trained.append(fit(material, own, rows, watched))
    folder = checkpoints(material.organ) / _name(trained, before)
    handed = _predicted(material, before, groups, trained, folder)
    return tuple(trained), handed


def groups_of(material: Material, fold: int, before: BeforeParams) -> list[list[int]]:
    """The folds that each of the networks before does not learn from, besides the watched one.

    Raises:
        DataError: there are fewer folds than groups, or a label is in none that is learned from.
    """
    table = material.table
    folds = sorted(set(table["fold"].tolist()) - {fold})
    if len(folds) < before.folds:
        learned = "1 fold is" if len(folds) == 1 else f"{len(folds)} folds are"
        # Two are the least that before.folds may be.
        lower = f", or lower organs.{material.organ}.train.before.folds" if len(folds) > 1 else ""
        raise DataError(
            f"{material.organ}: before.folds is {before.folds}, but {learned} learned from",
            f"raise validate.folds{lower}",
        )
    groups = [folds[number :: before.folds] for number in range(before.folds)]
    for group in groups:
        check_taught(material.organ, _learned(table, group, fold), material.plan["labels"])
    return groups


def _learned(table: pd.DataFrame, group: list[int], fold: int) -> pd.DataFrame:
    """The rows that a network learns from which does without a group of folds and the watched one."""
    return table[~table["fold"].isin([*group, fold])].reset_index(drop=True)


def _name(trained: list[Trained], before: BeforeParams) -> str:
    return sha256_json([[one.key for one in trained], before.gives, before.grow_mm])[:32]


def _predicted(
    material: Material, before: BeforeParams, groups: list[list[int]], trained: list[Trained], folder: Path
) -> dict[str, Given]:
    """What is handed on of each case; files, so that memory does not grow with the number of cases.

    Several processes predict some cases each, into a folder that they share.
    """
    if first():
        folder.mkdir(parents=True, exist_ok=True)
        remove_partial(folder)
    models = [as_model(one) for one in trained]
    folds = material.table.drop_duplicates("case").set_index("case")["fold"]
    files = {str(case): folder / f"{case}.npy" for case in folds.index}
    # A network file system would go on telling the others that a file they asked for is not there.
    missing = from_first([case for case, file in files.items() if not file.is_file()] if first() else None)
    missing = missing[rank() :: world()]
    how = before.model_dump(include={"gives", "grow_mm"})
    for case in track(missing, "predict", len(missing)):
        asked = [model for model, group in zip(models, groups, strict=True) if folds[case] in group] or models
        image = torch.from_numpy(StoredCase(material.volumes / f"{case}{SUFFIX}").image())
        found = torch.stack([model.shares(image) for model in asked]).mean(0)
        with atomic_path(files[case]) as temporary, open(temporary, "wb") as file:
            np.save(file, given_by(found, how, material.plan["spacing"]), allow_pickle=False)
    wait()
    return {case: np.load(file, mmap_mode="r", allow_pickle=False) for case, file in files.items()}
