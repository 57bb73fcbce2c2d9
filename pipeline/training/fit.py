"""The training of one network on what the stages before have made."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

import pandas as pd
import torch
from torch import Tensor

from pipeline.errors import ParamsError
from pipeline.inference.composition import Given
from pipeline.inference.model import build
from pipeline.losses.on_data import loss_on
from pipeline.networks.base import Form, Network
from pipeline.networks.weights import stored
from pipeline.params import AugmentParams, TrainParams
from pipeline.progress import console
from pipeline.registry.folders import champions_in
from pipeline.training.allocation import memory_kept
from pipeline.training.batch_statistics import told_if_too_small
from pipeline.training.beginning import begin
from pipeline.training.data import PatchReader
from pipeline.training.distributed import part, world
from pipeline.training.exchange import agree
from pipeline.training.loop import train
from pipeline.training.material import Material, Trained, channels_of, config_of, key_of
from pipeline.training.micro_batches import told_if_no_memory
from pipeline.training.profile import Profile, choose_profile, device, precision, reading_threads
from pipeline.training.regularisation import drop_outputs
from pipeline.training.schedule import Schedule
from pipeline.training.setting import Setting
from pipeline.training.state import Curve
from pipeline.training.views import VIEWS, Volume, rows_within
from pipeline.training.watching import affordable, looked_at, watched_dice
from pipeline.volumes.store import SUFFIX, StoredCase
from pipeline.workspace import home, project_root


def checkpoints(organ: str) -> Path:
    """Where the checkpoints of an organ's trainings lie."""
    return home(project_root()) / "checkpoints" / organ


def fit(
    material: Material,
    params: TrainParams,
    learned: pd.DataFrame,
    watched: Sequence[str],
    before: tuple[Trained, ...] = (),
    handed: Mapping[str, Given] = MappingProxyType({}),
) -> Trained:
    """Train one network, going on from its last checkpoint if there is one.

    Args:
        material: what it is made from.
        params: of this network.
        learned: rows of the patch table to learn from.
        watched: cases that are looked at meanwhile.
        before: networks whose predictions it is given.
        handed: those of every case, as `given_by` returned them.

    Raises:
        DataError: the training breaks down.
        ParamsError: a batch is smaller than the number of processes, or these would train differently; or
            patches are too small for the network.
        Unfinished: this process was asked to end.
    """
    profile, where = choose_profile(params, material.plan.get("batch_size")), device()
    loss = loss_on(material.plan, params.loss)
    params = params.model_copy(update={"learning_rate": profile.learning_rate, "loss": loss})
    torch.manual_seed(params.seed)
    plan = material.plan
    config = config_of(material, params, profile, before)
    network = build(config)
    with told_if_too_small(config["patch_size"]):
        begin(network, params, config, champions_in(home(project_root())))
    computed = _precision(network, params)
    key = key_of(config, material, learned, f"{where.type} {computed}")
    agree(key)
    setting = Setting(
        params=params,
        augment=AugmentParams.model_validate(material.policy["params"]),
        steps=profile.steps,
        spacing=tuple(plan["spacing"]),
        normalisation=config["normalisation"],
        device=where,
        precision=computed,
        checkpoints=checkpoints(material.organ) / key,
    )
    classes = sorted(config["labels"], key=lambda name: config["labels"][name])
    volumes = _volumes(material, params, {*learned["case"], *watched}, handed)
    patches = profile.batch_size * Schedule(params, profile.steps, []).every
    watched = affordable(watched, volumes, config["patch_size"], network.form, patches)
    watch = watched_dice(looked_at(material.table, watched, volumes, classes), config, setting)
    if params.transfer == "zero":
        return Trained(config, *_as_it_is(network, watch), key, before)
    _tell(material, profile, network, setting)
    rows = learned if params.before is None else rows_within(learned, handed, params.before.gives)
    reader = _reader(rows, volumes, classes, network.form, setting, profile.batch_size)
    with told_if_no_memory(), told_if_too_small(config["patch_size"]), memory_kept(where):
        weights, curve = train(network, reader, watch, setting)
    return Trained(config, weights, curve, key, before)


def check_follows(material: Material, params: TrainParams) -> None:
    """Refuse a network that could not be trained before those that come before it are, which takes hours.

    Args:
        material: what it is made from.
        params: of this network, with `before`.

    Raises:
        MissingError: the model that it starts from is not there.
        ParamsError: it cannot be built or begun so, patches are too small for it, its loss has no such label,
            or parts of slices are all that it would be given of what is known of whole ones.
        ResourceError: not even a look at patches fits into memory.
    """
    assert params.before is not None, "something comes before it"
    loss, gives = loss_on(material.plan, params.loss), params.before.gives
    marked = material.plan["recipe"].get("annotation", {}).get("kind") == "image"
    if (gives == "region" and loss.presence) or (gives == "box" and marked):
        raise ParamsError(
            f"train.before.gives is {gives}, but what is known is which labels a whole slice holds, and the "
            "network would see parts of slices",
            "set train.before.gives to maps, or train one network alone",
        )
    profile = choose_profile(params, material.plan.get("batch_size"))
    config = config_of(material, params.model_copy(update={"before": None}), profile, ())
    config["normalisation"] = channels_of(material.plan, gives)
    network = build(config)
    # Batch normalisation needs two values, be they of two patches, or of two processes.
    at_once = profile.batch_size if params.micro_batch == "auto" else params.micro_batch * world()
    patches = min(2, at_once)
    size = network.form.input_size(network.form.fit(config["patch_size"]))
    seen = torch.zeros(patches, len(config["normalisation"]), *size, device=device())
    # What it starts from is said when it does.
    with told_if_no_memory(), told_if_too_small(config["patch_size"]), console.capture():
        begin(network, params, config, champions_in(home(project_root())))
        drop_outputs(network, params.dropout)
        with torch.no_grad():
            network(seen)


def _reader(
    rows: pd.DataFrame,
    volumes: Mapping[str, Volume],
    classes: list[str],
    form: Form,
    setting: Setting,
    batch_size: int,
) -> PatchReader:
    """What reads the batches of a training; of several processes each reads its part."""
    return PatchReader(
        rows,
        volumes,
        batch_size,
        setting.params.seed,
        classes,
        form=form,
        threads=reading_threads(setting.device),
        pinned=setting.on_gpu,
        part=part(batch_size),
    )


def _as_it_is(network: Network, watch: Callable[[Network], float]) -> tuple[dict[str, Tensor], Curve]:
    """Weights and curve of a network that is used untrained."""
    weights = {name: tensor.detach().clone() for name, tensor in stored(network).items()}
    return weights, [{"step": 0, "loss": float("nan"), "dice": watch(network.eval())}]


def _tell(material: Material, profile: Profile, network: Network, setting: Setting) -> None:
    count = sum(weight.numel() for weight in network.parameters())
    console.print(
        f"{material.organ}: {profile.name} profile, {count:,} weights, {profile.steps} steps "
        f"of {profile.batch_size} patches on {setting.device.type} in {setting.precision}"
        + (f" by {world()} processes" if world() > 1 else "")
    )
    if profile.name == "small" and material.plan.get("batch_size"):
        console.print(
            f"{material.organ}: its patches are planned for a GPU, and slow without one; for this machine "
            "remove ingest.train_memory_gb from params.yaml"
        )


def _precision(network: Network, params: TrainParams) -> torch.dtype:
    """What steps compute in: that of the machine where the network may, or as the parameters insist."""
    where = device()
    trusted = where.type != "cpu" or network.bfloat16_on_cpu
    return precision(params, where) if trusted or params.precision != "auto" else torch.float32


def _volumes(
    material: Material, params: TrainParams, cases: Iterable[str], handed: Mapping[str, Given]
) -> dict[str, Volume]:
    """Each case as the network sees it: as it is stored, or with what the networks before hand on."""
    plain = {case: StoredCase(material.volumes / f"{case}{SUFFIX}") for case in cases}
    if params.before is None:
        return dict(plain)
    view = VIEWS[params.before.gives]
    return {case: view(volume, handed[case]) for case, volume in plain.items()}
