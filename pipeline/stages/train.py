"""Stage `train`: the network, from patches and policy; resumes where it was stopped."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from safetensors.torch import save
from torch import Tensor

from pipeline.atomic import (
    atomic_path,
    read_json,
    remove_partial,
    sha256_code,
    sha256_file,
    sha256_json,
    write_json,
)
from pipeline.errors import DataError
from pipeline.inference.model import CONFIG, WEIGHTS, build
from pipeline.inference.sliding_window import probabilities
from pipeline.metrics.overlap import dice
from pipeline.networks import plan_network
from pipeline.networks.base import Network
from pipeline.params import AugmentParams, TrainParams
from pipeline.progress import console
from pipeline.training.beginning import begin_from
from pipeline.training.data import PatchReader, unknown_classes
from pipeline.training.loop import Curve, train
from pipeline.training.normalisation import normalise
from pipeline.training.profile import Profile, choose_profile, device, precision, reading_threads
from pipeline.training.setting import Setting
from pipeline.validation.drift import FINGERPRINT, fingerprint
from pipeline.volumes.store import SUFFIX, StoredCase
from pipeline.workspace import home, project_root

WATCHED = 12
"""Cases of the watched fold that are looked at while training; the test set is judged by `evaluate`."""
CODE = (
    "training",
    "networks",
    "losses",
    "augmentation",
    "sampling",
    "inference",
    "metrics",
    "stages/train.py",
)


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
    profile, where = choose_profile(params), device()
    params = params.model_copy(update={"learning_rate": profile.learning_rate})
    # On a GPU pooling and cross-entropy have no deterministic form: PyTorch would refuse to train.
    torch.use_deterministic_algorithms(where.type == "cpu")
    # Nothing here reads memory it has not written; filling it costs a twentieth of a step.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    torch.manual_seed(params.seed)
    plan, policy, table = read_json(plans), read_json(augmentation), pd.read_parquet(patches)
    learned, watched = _folds(organ, table, params.fold)
    config = _config(organ, params, profile, plan, table)
    config[FINGERPRINT] = fingerprint(pd.read_parquet(accepted), plan)
    network = build(config)
    if params.start != "scratch":
        begin_from(network, home(project_root()) / "champions" / params.start)
    trusted = where.type != "cpu" or network.bfloat16_on_cpu
    computed = precision(params, where) if trusted or params.precision != "auto" else torch.float32
    key = _key(config, policy, table, f"{where.type} {computed}")
    setting = Setting(
        params=params,
        augment=AugmentParams.model_validate(policy["params"]),
        steps=profile.steps,
        spacing=tuple(plan["spacing"]),
        normalisation=plan["normalisation"],
        device=where,
        precision=computed,
        checkpoints=home(project_root()) / "checkpoints" / organ / key,
    )
    console.print(
        f"{organ}: {profile.name} profile, {sum(p.numel() for p in network.parameters()):,} weights, "
        f"{profile.steps} steps of {profile.batch_size} patches on {where.type} in {setting.precision}"
    )
    classes = sorted(config["labels"], key=lambda name: config["labels"][name])
    reader = PatchReader(
        learned,
        volumes,
        profile.batch_size,
        params.seed,
        classes,
        form=network.form,
        threads=reading_threads(where),
        pinned=where.type == "cuda",
    )
    cases = _opened(table, watched, volumes, classes)
    weights, curve = train(network, reader, _watch(cases, config, setting), setting)
    _save(models, config, weights)
    _save_curve(curves, curve)


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


def _opened(
    table: pd.DataFrame, cases: list[str], volumes: Path, classes: list[str]
) -> list[tuple[StoredCase, list[bool]]]:
    """The volume of each case, and which classes nobody looked for in it."""
    annotated = table.drop_duplicates("case").set_index("case")["annotated"]
    return [
        (StoredCase(volumes / f"{case}{SUFFIX}"), unknown_classes(annotated[case], classes)) for case in cases
    ]


def _config(
    organ: str, params: TrainParams, profile: Profile, plan: dict[str, Any], table: pd.DataFrame
) -> dict[str, Any]:
    """All that is needed to use the model, and what it was made of."""
    z, y, x = (int(table[f"size_{axis}"].iloc[0]) for axis in "zyx")
    network, small = params.network, profile.name == "small"
    options = plan_network(network.name, network.options, (z, y, x), plan["spacing"], small=small)
    return {
        "organ": organ,
        "modality": plan["modality"],
        "labels": plan["labels"],
        "recipe": plan["recipe"],
        "spacing": plan["spacing"],
        "patch_size": [z, y, x],
        "normalisation": plan["normalisation"],
        "network": {"name": network.name} | options,
        "training": params.model_dump(mode="json")
        | {"profile": profile.name, "steps": profile.steps, "batch_size": profile.batch_size},
    }


def _key(config: dict[str, Any], policy: dict[str, Any], table: pd.DataFrame, arithmetic: str) -> str:
    """Hash of all the training is made of; the table carries the keys of the volumes."""
    rows = pd.util.hash_pandas_object(table, index=False).to_numpy().tobytes().hex()
    return sha256_json([config, policy, rows, arithmetic, sha256_code(*CODE)])[:32]


def _watch(
    cases: list[tuple[StoredCase, list[bool]]], config: dict[str, Any], setting: Setting
) -> Callable[[Network], float]:
    """A function that gives the mean Dice of a network over whole volumes of the watched fold.

    With each case come the classes that nobody looked for in it; they do not count.
    """
    classes = len(config["labels"]) + 1

    def watch(network: Network) -> float:
        scores = []
        for case, unknown in cases:
            image = normalise(torch.from_numpy(case.image()).to(setting.device), setting.normalisation)
            share = probabilities(network, image, config["patch_size"], classes, setting.precision)
            predicted, truth = share.argmax(dim=0).cpu().numpy(), case.label()
            known = [value for value in range(1, classes) if not unknown[value]]
            scores += [dice(truth, predicted, value) for value in known]
        return float(np.nanmean(scores))

    return watch


def _save(models: Path, config: dict[str, Any], weights: dict[str, Tensor]) -> None:
    """Weights first, then the configuration that holds their checksum and makes the model whole."""
    # The folder is an output as a whole: what a killed run left there would belong to it.
    remove_partial(models)
    with atomic_path(models / WEIGHTS) as temporary:
        # Not `save_file`: killed while it writes, it leaves a file of a name of its own behind.
        temporary.write_bytes(save({name: weight.contiguous().cpu() for name, weight in weights.items()}))
    write_json(models / CONFIG, config | {"sha256": {WEIGHTS: sha256_file(models / WEIGHTS)}})


def _save_curve(path: Path, curve: Curve) -> None:
    with atomic_path(path) as temporary:
        pd.DataFrame(curve).to_csv(temporary, index=False, float_format="%.6g")
