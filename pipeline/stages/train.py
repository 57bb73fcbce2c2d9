"""Stage `train`: the network, from patches and policy; resumes where it was stopped."""

import shutil
from pathlib import Path

import pandas as pd
import torch
from safetensors.torch import save

from pipeline.atomic import atomic_path, read_json, remove_partial, sha256_file, write_json
from pipeline.errors import DataError
from pipeline.inference.model import BEFORE, CONFIG, WEIGHTS, parts
from pipeline.inference.rule_out import labelled_range
from pipeline.params import TrainParams
from pipeline.training.before import fit_before
from pipeline.training.fit import WATCHED, Material, Trained, fit
from pipeline.training.loop import Curve
from pipeline.training.profile import device
from pipeline.validation.drift import fingerprint


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
    """Train on all folds but the watched one and save the model.

    Raises:
        DataError: a fold is empty, or the training breaks down.
    """
    # On a GPU pooling and cross-entropy have no deterministic form: PyTorch would refuse to train.
    torch.use_deterministic_algorithms(device().type == "cpu")
    # Nothing here reads memory it has not written; filling it costs a twentieth of a step.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    plan, cases = read_json(plans), pd.read_parquet(accepted)
    material = Material(
        organ, plan, read_json(augmentation), pd.read_parquet(patches), volumes, fingerprint(cases, plan)
    )
    learned, watched = _folds(organ, material.table, params.fold)
    if params.before is None:
        trained = fit(material, params, learned, watched)
        before: list[Trained] = []
    else:
        before, handed = fit_before(material, params, params.before)
        trained = fit(material, params, learned, watched, before=before, handed=handed)
    if params.inference.rule_out:
        trained.config["rule_out"] = labelled_range(cases[cases["split"] == "train"])
    if params.inference.mirror_axes:
        trained.config["mirror_axes"] = list(params.inference.mirror_axes)
    _save(models, trained, before)
    _save_curve(curves, trained.curve)


def _folds(organ: str, table: pd.DataFrame, fold: int) -> tuple[pd.DataFrame, list[str]]:
    """The patches to learn from, and the cases of the watched fold."""
    watched = table["fold"] == fold
    if not watched.any() or watched.all():
        count = table["case"].nunique()
        raise DataError(
            f"{organ}: fold {fold} holds {'no' if not watched.any() else 'every'} case of {count}",
            f"set organs.{organ}.train.fold to one of {sorted(table['fold'].unique().tolist())}",
        )
    return table[~watched].reset_index(drop=True), sorted(table[watched]["case"].unique())[:WATCHED]


def _save(models: Path, trained: Trained, before: list[Trained]) -> None:
    """Weights first, then the configuration that holds checksums of all files and makes the model whole."""
    # The folder is an output as a whole: what a killed run left there would belong to it.
    shutil.rmtree(models / BEFORE, ignore_errors=True)
    remove_partial(models)
    places = [models / place for place in parts(trained.config)]
    for place, first in zip(places, before, strict=True):
        _save(place, first, [])
    with atomic_path(models / WEIGHTS) as temporary:
        # Not `save_file`: killed while it writes, it leaves a file of a name of its own behind.
        temporary.write_bytes(
            save({name: weight.contiguous().cpu() for name, weight in trained.weights.items()})
        )
    files = [models / WEIGHTS, *(place / CONFIG for place in places)]
    hashes = {file.relative_to(models).as_posix(): sha256_file(file) for file in files}
    write_json(models / CONFIG, trained.config | {"sha256": hashes})


def _save_curve(path: Path, curve: Curve) -> None:
    with atomic_path(path) as temporary:
        pd.DataFrame(curve).to_csv(temporary, index=False, float_format="%.6g")
