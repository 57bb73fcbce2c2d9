"""A trained model on disk, and what it says of a scan."""

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from pipeline.atomic import read_json, sha256_file
from pipeline.errors import DataError, MissingError, ParamsError
from pipeline.inference.cleaning import clean
from pipeline.inference.composition import given_by, look_with
from pipeline.inference.constant_windows import OnceIfConstant
from pipeline.inference.rule_out import ruled_in
from pipeline.inference.sliding_window import joined, slabs, softmax
from pipeline.networks import build_network
from pipeline.networks.base import Network
from pipeline.networks.channels_last import prepare
from pipeline.networks.weights import load_weights
from pipeline.training.normalisation import normalise
from pipeline.training.profile import device, precision
from pipeline.volumes.calibration import Miscalibrated
from pipeline.volumes.cases import calibrate
from pipeline.volumes.geometry import (
    Floats,
    Geometry,
    Triple,
    from_canonical,
    resampled_shape,
    to_canonical,
)
from pipeline.volumes.masks import check_aligned
from pipeline.volumes.readers import Scan, check_memory
from pipeline.volumes.recipe import Recipe
from pipeline.volumes.resampling import interpolation, most_probable, resample_image

CONFIG, WEIGHTS, BEFORE, FOLDS = "config.json", "weights.safetensors", "before", "folds"
NEEDED = ("labels", "modality", "recipe", "spacing", "patch_size", "normalisation", "network", "sha256")
"""What a configuration must hold for its model to be used."""
RESTORE = "restore it with dvc checkout, or train again"


class Model:
    """A network with all that is needed to use it.

    Args:
        config: of the model, as `train` wrote it.
        network: on the device, in evaluation mode.
        before: models whose mean says what the network is given besides the image.
        folds: models that learned from other folds; what all of them say, on average, is what it says.
    """

    def __init__(
        self,
        config: dict[str, Any],
        network: Network,
        before: Sequence["Model"] = (),
        folds: Sequence["Model"] = (),
    ) -> None:
        self.config = config
        self.network = network
        self.before = before
        self.folds = folds
        self._device = device()
        if self._device.type == "cpu":
            # What a GPU gains by it comes from a compiler, which a prediction does not wait for.
            prepare(network)
        self.recipe = Recipe.of(config)

    def predict(
        self, name: str, scans: Sequence[Scan | None], watch: Callable[[Floats], None] | None = None
    ) -> NDArray[np.uint8]:
        """The label map (I, J, K) of a case, in the geometry of its scan, with the values of `labels`.

        Args:
            name: for messages.
            scans: a channel each; None: it is missing, which only some networks can do with.
            watch: is given each slab of class probabilities (classes, planes, Y, X) at the model's spacing.

        Raises:
            DataError: the scan's values are not what the model was trained on, a channel is missing that it
                cannot do without, or it is too large at the model's spacing; `name` says which.
        """
        geometry = self.given(name, scans)[0].geometry
        seen = resampled_shape(geometry.canonical_shape, geometry.spacing, self.recipe.spacing)
        check_memory(f"{name}: at the model's spacing it has", seen)
        # Of a function of its own: the image is gone before label maps are tidied up.
        classes = self._most_probable(self._seen(name, scans, geometry.spacing), geometry, watch)
        clean(classes, self.config.get("clean", {}), list(self.recipe.classes), geometry.spacing)
        values = np.array([0, *sorted(self.recipe.labels.values())], np.uint8)
        return np.ascontiguousarray(from_canonical(values[classes], geometry))

    def _most_probable(
        self, image: Floats, geometry: Geometry, watch: Callable[[Floats], None] | None
    ) -> NDArray[np.uint8]:
        """The class of each voxel of the scan, (Z, Y, X)."""
        shares = (slab.cpu().numpy() for slab in self.slabs(torch.from_numpy(image)))
        watched = shares if watch is None else _watched(shares, watch)
        z, y, x = image.shape[1:]
        spacing = self.recipe.spacing
        return most_probable(watched, (z, y, x), spacing, geometry.spacing, geometry.canonical_shape)

    def _seen(self, name: str, scans: Sequence[Scan | None], spacing: Triple) -> Floats:
        """The image (C, Z, Y, X) at the model's spacing."""
        images = self.calibrated(name, scans)
        kinds = interpolation(spacing)
        # One after the other: what is as large as the scan itself goes as soon as it is of no more use.
        resampled = []
        while images:
            resampled.append(resample_image(images.pop(0), spacing, self.recipe.spacing, kinds=kinds))
        return resampled[0][None] if len(resampled) == 1 else np.stack(resampled)

    def given(self, name: str, scans: Sequence[Scan | None]) -> list[Scan]:
        """The scans that are there.

        Raises:
            DataError: too few for the model.
        """
        there = [scan for scan in scans if scan is not None]
        every, asked = self.recipe.channels, len(scans)
        # Those of other folds are as this one.
        can_lack = all(one.network.form.missing_channels for one in (self, *self.before))
        if not there or asked != every or (len(there) < every and not can_lack):
            told = "1 channel" if len(there) == 1 else f"{len(there)} channels"
            raise DataError(
                f"{name}: {told}, but the model was trained on {every}",
                "give all channels of a case, or use a model of a network that can do without (multistream)"
                if len(there) < every
                else "give those it was trained on, or use a model of as many",
            )
        return there

    def calibrated(self, name: str, scans: Sequence[Scan | None]) -> list[Floats]:
        """Each channel as a canonical array (Z, Y, X) in HU or z-scores; one that is missing is 0 everywhere.

        Raises:
            DataError: as `predict`.
        """
        there = self.given(name, scans)
        geometry = there[0].geometry
        for number, scan in enumerate(scans):
            if scan is not None:
                check_aligned(name, geometry, scan.geometry, f"channel {number}")
        arrays = [to_canonical(scan.array, geometry) for scan in there]
        try:
            images = iter(calibrate(name, arrays, there, self.recipe)[0])
        except Miscalibrated as error:
            # No parameter changes how the cases of a model that is trained were read.
            raise DataError(
                error.reason,
                f"give {self.recipe.modality} with values as in the cases that the model was trained on",
            ) from None
        return [
            np.zeros(geometry.canonical_shape, np.float32) if scan is None else next(images) for scan in scans
        ]

    def shares(self, image: Tensor) -> Tensor:
        """Class probabilities (classes, Z, Y, X) of an image (C, Z, Y, X), calibrated and resampled."""
        image = image.to(self._device)
        return joined(self.slabs(image), len(self.recipe.classes) + 1, image)

    def slabs(self, image: Tensor) -> Iterator[Tensor]:
        """The class probabilities slab by slab, from the first plane on: (classes, planes, Y, X).

        What another network has to see of them before, or what is a mean of such, comes as a whole.
        """
        image = image.to(self._device)
        if not self.before:
            yield from self._look((self, *self.folds), image, self._possible(image))
        elif self.folds:
            alone = Model(self.config, self.network, self.before)
            yield torch.stack([one.shares(image) for one in (alone, *self.folds)]).mean(0)
        else:
            yield self._composed(image)

    def _composed(self, image: Tensor) -> Tensor:
        """What the network says of an image, given what those before it say."""
        how = self.config["before"]
        found = torch.stack([model.shares(image) for model in self.before]).mean(0)
        given = given_by(found, how, self.config["spacing"])

        def look(seen: Tensor, where: Tensor | None = None) -> Tensor:
            return joined(self._look((self,), seen, where), len(self.recipe.classes) + 1, seen)

        return look_with(given, how["gives"], image, look, self._possible(image))

    def _possible(self, image: Tensor) -> Tensor | None:
        held = self.config.get("rule_out")
        # Of a first channel that is missing, which is 0 everywhere, the intensity says nothing.
        return ruled_in(image, held) if held is not None and image[0].any() else None

    def _look(self, models: Sequence["Model"], image: Tensor, where: Tensor | None) -> Iterator[Tensor]:
        """The mean of several networks, of windows as they are and mirrored."""
        config = self.config
        mirrored = ["zyx".index(axis) - 3 for axis in config.get("mirror_axes", [])]
        sides = range(len(mirrored) + 1)
        flips = [axes for count in sides for axes in itertools.combinations(mirrored, count)]

        def look(seen: Tensor) -> Tensor:
            total: Tensor | None = None
            for model, axes in itertools.product(models, flips):
                share = _flipped(softmax(model.network(_flipped(seen, axes))), axes)
                total = share if total is None else total + share
            assert total is not None
            count = len(models) * len(flips)
            return total / count if count > 1 else total

        once = OnceIfConstant(look)
        return slabs(
            lambda windows: once(normalise(windows, config["normalisation"])),
            self.network.form,
            image,
            config["patch_size"],
            len(self.recipe.classes) + 1,
            precision(None, self._device),
            where=where,
        )


def _watched(shares: Iterable[Floats], watch: Callable[[Floats], None]) -> Iterator[Floats]:
    for slab in shares:
        watch(slab)
        yield slab


def _flipped(volume: Tensor, axes: tuple[int, ...]) -> Tensor:
    """Mirrored along `axes`; without any it is not copied."""
    return volume.flip(axes) if axes else volume


def build(config: dict[str, Any]) -> Network:
    """The network of a model's configuration, on the device, with fresh weights."""
    options = {key: value for key, value in config["network"].items() if key != "name"}
    channels, classes = len(config["normalisation"]), len(config["labels"]) + 1
    return build_network(config["network"]["name"], channels, classes, options).to(device())


def load_model(folder: Path) -> Model:
    """Load the model in `folder`, after checking that its weights are the ones it was saved with.

    Raises:
        MissingError: there is no model.
        DataError: a file was changed or cut short, or it is of a version that knew more or less.
    """
    if not (folder / CONFIG).is_file() or not (folder / WEIGHTS).is_file():
        raise MissingError(f"{folder} holds no model", f"run dvc repro train@{folder.name}")
    config = _read_config(folder / CONFIG)
    if sha256_file(folder / WEIGHTS) != config["sha256"].get(WEIGHTS):
        raise DataError(f"{folder / WEIGHTS} is not the file that was saved (its checksum differs)", RESTORE)
    for name, digest in config["sha256"].items():
        if name != WEIGHTS and (not (folder / name).is_file() or sha256_file(folder / name) != digest):
            raise DataError(f"{folder / name} is not the file that was saved (its checksum differs)", RESTORE)
    network = _understood(folder / CONFIG, config)
    try:
        load_weights(network, load_file(folder / WEIGHTS))
    except (SafetensorError, ValueError):
        raise DataError(f"{folder / WEIGHTS} does not fit its {CONFIG}", RESTORE) from None
    before, folds = ([load_model(folder / place) for place in places] for places in parts(config))
    return Model(config, network.eval(), before, folds)


def _understood(path: Path, config: dict[str, Any]) -> Network:
    """The network of a configuration that this version of the pipeline knows all of."""
    try:
        Recipe.of(config)
        return build(config)
    except (ParamsError, TypeError, KeyError) as error:
        raise DataError(
            f"{path} is of another version of Hounsfield ({type(error).__name__}: {error})",
            "use the version that trained it, or train again; if it is the champion, take that alias away in "
            "MLflow",
        ) from error


def parts(config: dict[str, Any]) -> tuple[list[str], list[str]]:
    """Where, in the folder of a model, the models lie that come before it, and those of other folds."""
    before, folds = config["before"]["models"] if "before" in config else 0, config.get("folds", 1)
    return [f"{BEFORE}/{n}" for n in range(before)], [f"{FOLDS}/{n}" for n in range(1, folds)]


def _read_config(path: Path) -> dict[str, Any]:
    try:
        config = dict(read_json(path))
    except (ValueError, TypeError):
        raise DataError(f"{path} is damaged", RESTORE) from None
    missing = [key for key in NEEDED if key not in config]
    if missing:
        raise DataError(f"{path} lacks {', '.join(missing)}", RESTORE)
    return config
