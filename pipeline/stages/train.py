"""Stage `train`: the network, from patches and policy; resumes where it was stopped."""

import shutil
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from math import isnan, nan
from pathlib import Path
from statistics import fmean as mean

import pandas as pd
import torch
from safetensors.torch import save

from pipeline.atomic import atomic_path, locked, read_json, remove_partial, sha256_file, write_json
from pipeline.augmentation.sides import check_mirrors
from pipeline.errors import DataError, MissingError
from pipeline.inference.model import BEFORE, CONFIG, FOLDS, WEIGHTS, parts
from pipeline.inference.rule_out import labelled_range
from pipeline.metrics.bootstrap import patients_of
from pipeline.params import InferenceParams, TrainParams
from pipeline.registry.folders import champions_in
from pipeline.sampling.split import RULE
from pipeline.training.before import fit_before, groups_of
from pipeline.training.beginning import check_start
from pipeline.training.cross_validation import helpful_cleaning
from pipeline.training.data import check_taught
from pipeline.training.distributed import first, processes
from pipeline.training.fit import check_follows, fit
from pipeline.training.material import Material, Trained
from pipeline.training.profile import device
from pipeline.training.state import Curve
from pipeline.training.watching import WATCHED
from pipeline.validation.drift import fingerprint
from pipeline.volumes.recipe import Recipe
from pipeline.workspace import home, project_root


@processes()
def run(
    organ: str,
    params: TrainParams,
    *,
    accepted: Path,
    patches: Path,
    augmentation: Path,
    plans: Path,
    volumes: Path,
    models: Path,
    curves: Path,
) -> None:
    """Train on all folds but the watched one, or several times so, and save the model.

    Of several processes, which torchrun starts, the first one saves it.

    Raises:
        DataError: a fold is empty, a label is in none that is learned from, or the training breaks down.
        MissingError: the model that it starts from is not there, or the cases are of an earlier release.
        ParamsError: what is mirrored would be taken for the other side, or it cannot begin or be built so.
    """
    # On a GPU pooling and cross-entropy have no deterministic form: PyTorch would refuse to train.
    torch.use_deterministic_algorithms(device().type == "cpu")
    # Nothing here reads memory it has not written; filling it costs a twentieth of a step.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    plan, cases = read_json(plans), pd.read_parquet(accepted)
    mirrors = f"organs.{organ}.train.inference.mirror_axes"
    check_mirrors(mirrors, params.inference.mirror_axes, plan["labels"])
    material = Material(
        organ,
        plan,
        read_json(augmentation),
        pd.read_parquet(patches),
        volumes,
        fingerprint(cases, plan),
        _split_rule(organ, accepted, cases),
    )
    folds = _left_out(organ, material.table, params)
    if params.transfer != "zero":
        for fold in folds:
            check_taught(organ, material.table[material.table["fold"] != fold], plan["labels"])
    check_start(organ, params, folds, material.split_rule, champions_in(home(project_root())))
    if params.before is not None:
        for fold in folds:
            groups_of(material, fold, params.before)
        check_follows(material, params)
    with _alone(organ, models):
        members = [_fit(material, params, fold) for fold in folds]
        if not first():
            return
        trained = _as_one(members, material, params.inference, cases)
        _save(models, trained)
        _save_curve(curves, trained.curve)


def _alone(organ: str, models: Path) -> AbstractContextManager[object]:
    """Wait for a training that is at work in the same folder, as one is that outlived its killed DVC.

    Both would write one checkpoint. Of several processes the first waits, and the others for it.
    """
    if not first():
        return nullcontext()
    return locked(models.with_name(f".{models.name}.lock"), f"training {organ}")


def _split_rule(organ: str, accepted: Path, cases: pd.DataFrame) -> str:
    """By what the patients were dealt to folds."""
    if RULE not in cases:
        raise MissingError(
            f"{accepted} does not say how patients were dealt to folds: it is of an earlier release",
            f"run dvc repro augment@{organ}",
        )
    return str(cases[RULE].iloc[0])


def _fit(material: Material, params: TrainParams, fold: int) -> Trained:
    """The network that does not learn from a fold, with those that come before it."""
    params = params.model_copy(update={"fold": fold})
    table = material.table
    watched = table["fold"] == fold
    learned = table[~watched].reset_index(drop=True)
    looked_at = sorted(table[watched]["case"].unique())[:WATCHED]
    if params.before is None:
        return fit(material, params, learned, looked_at)
    before, handed = fit_before(material, params, params.before)
    return fit(material, params, learned, looked_at, before, handed)


def _as_one(
    members: Sequence[Trained], material: Material, inference: InferenceParams, cases: pd.DataFrame
) -> Trained:
    """The model of all networks, with how it is used in its configuration."""
    # A mark that only says which slices hold a label lies anywhere in them.
    outlined = Recipe.of(material.plan).annotation.kind != "image"
    for one in members:
        if inference.rule_out and outlined:
            one.config["rule_out"] = labelled_range(cases[cases["split"] == "train"])
        if inference.mirror_axes:
            one.config["mirror_axes"] = list(inference.mirror_axes)
    trained = replace(members[0], folds=tuple(members[1:]), curve=_mean_curve([one.curve for one in members]))
    if len(members) > 1:
        trained.config.update(folds=len(members), fold_dice=_dice_by_fold(members))
    if inference.clean == "auto" and outlined:
        trained.config["clean"] = helpful_cleaning(members, material, patients_of(cases))
    return trained


def _left_out(organ: str, table: pd.DataFrame, params: TrainParams) -> list[int]:
    """The folds that are watched, each by a network of its own."""
    folds = sorted(set(table["fold"].tolist()))
    cases = table["case"].nunique()
    if len(folds) == 1:
        raise DataError(
            f"{organ}: fold {folds[0]} holds every case of {cases}, so that none is left to learn from",
            f"add cases, or set organs.{organ}.validate.split_seed to another number",
        )
    if params.fold not in folds:
        raise DataError(
            f"{organ}: fold {params.fold} holds no case of {cases}",
            f"set organs.{organ}.train.fold to one of {folds}",
        )
    if params.ensemble > len(folds):
        raise DataError(
            f"{organ}: an ensemble of {params.ensemble} networks, but the cases are in {len(folds)} folds",
            f"lower organs.{organ}.train.ensemble, or raise validate.folds",
        )
    first = folds.index(params.fold)
    return [*folds[first:], *folds[:first]][: params.ensemble]


def _save(models: Path, trained: Trained) -> None:
    """Weights first, then the configuration that holds checksums of all files and makes the model whole."""
    # The folder is an output as a whole: what a killed run left there would belong to it.
    for folder in (BEFORE, FOLDS):
        shutil.rmtree(models / folder, ignore_errors=True)
    remove_partial(models)
    before, folds = parts(trained.config)
    places = [models / place for place in (*before, *folds)]
    for place, other in zip(places, (*trained.before, *trained.folds), strict=True):
        _save(place, other)
    with atomic_path(models / WEIGHTS) as temporary:
        # Not `save_file`: killed while it writes, it leaves a file of a name of its own behind.
        temporary.write_bytes(
            save({name: weight.contiguous().cpu() for name, weight in trained.weights.items()})
        )
    files = [models / WEIGHTS, *(place / CONFIG for place in places)]
    hashes = {file.relative_to(models).as_posix(): sha256_file(file) for file in files}
    write_json(models / CONFIG, trained.config | {"sha256": hashes})


def _dice_by_fold(members: Sequence[Trained]) -> dict[str, float]:
    """The last Dice of each network on the fold it left out; not of one whose fold has no label."""
    last = {str(one.config["training"]["fold"]): one.curve[-1]["dice"] for one in members}
    return {fold: dice for fold, dice in last.items() if not isnan(dice)}


def _mean_curve(curves: Sequence[Curve]) -> Curve:
    """The learning curve of an ensemble: each row the mean of its networks' (rows of step, loss, dice).

    A network that has ended early stays as it was in its last row; a Dice that is not known counts nowhere.
    """
    steps = sorted({row["step"] for curve in curves for row in curve})
    rows = [[[row for row in curve if row["step"] <= step][-1] for curve in curves] for step in steps]
    dice = [[row["dice"] for row in last if not isnan(row["dice"])] for last in rows]
    return [
        {"step": step, "loss": mean(row["loss"] for row in last), "dice": mean(known) if known else nan}
        for step, last, known in zip(steps, rows, dice, strict=True)
    ]


def _save_curve(path: Path, curve: Curve) -> None:
    with atomic_path(path) as temporary:
        pd.DataFrame(curve).to_csv(temporary, index=False, float_format="%.6g")
