"""A trained model on disk, and what it says of a scan."""

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from pipeline.atomic import read_json, sha256_file
from pipeline.errors import DataError, MissingError
from pipeline.inference.composition import given_by, look_with
from pipeline.inference.rule_out import ruled_in
from pipeline.inference.sliding_window import probabilities
from pipeline.networks import build_network
from pipeline.networks.base import Network
from pipeline.networks.weights import load_weights
from pipeline.training.normalisation import normalise
from pipeline.training.profile import device, precision
from pipeline.volumes.cases import Recipe, calibrate
from pipeline.volumes.geometry import Floats, from_canonical, to_canonical
from pipeline.volumes.masks import check_aligned
from pipeline.volumes.readers import Scan
from pipeline.volumes.resampling import interpolation, most_probable, resample_image

CONFIG, WEIGHTS, BEFORE = "config.json", "weights.safetensors", "before"
NEEDED = ("labels", "modality", "recipe", "spacing", "patch_size", "normalisation", "network", "sha256")
"""What a configuration must hold for its model to be used."""
RESTORE = "restore it with dvc checkout, or train again"


class Model:
    """A network with all that is needed to use it.

    Args:
        config: of the model, as `train` wrote it.
        network: on the device, in evaluation mode.
        before: models whose mean says what the network is given besides the image.
    """

    def __init__(self, config: dict[str, Any], network: Network, before: Sequence["Model"] = ()) -> None:
        self.config = config
        self._network = network
        self.before = before
        self._device = device()
        self.recipe = Recipe.of(config)

    def predict(self, name: str, scans: Sequence[Scan | None]) -> NDArray[np.uint8]:
        """The label map (I, J, K) of a case, in the geometry of its scan, with the values of `labels`.

        Args:
            name: for messages.
            scans: a channel each; None: it is missing, which only some networks can do with.

        Raises:
            DataError: the scan's values are not what the model was trained on, or a channel is missing that
                it cannot do without; `name` says which.
        """
        geometry, target = self.given(name, scans)[0].geometry, self.recipe.spacing
        images = self.calibrated(name, scans)
        kinds = interpolation(geometry.spacing)
        resampled = np.stack([resample_image(one, geometry.spacing, target, kinds=kinds) for one in images])
        # As large as the scan itself, and of no more use.
        del images
        share = self.shares(torch.from_numpy(resampled)).cpu().numpy()
        classes = most_probable(share, target, geometry.spacing, geometry.canonical_shape)
        values = np.array([0, *sorted(self.recipe.labels.values())], np.uint8)
        return np.ascontiguousarray(from_canonical(values[classes], geometry))

    def given(self, name: str, scans: Sequence[Scan | None]) -> list[Scan]:
        """The scans that are there.

        Raises:
            DataError: too few for the model.
        """
        there = [scan for scan in scans if scan is not None]
        every, asked = self.recipe.channels, len(scans)
        if not there or asked != every or (len(there) < every and not self._network.form.missing_channels):
            raise DataError(
                f"{name}: {len(there)} images, but the model was trained on {every} channels",
                "give all channels of a case, or use a model of a network that can do without (multistream)",
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
        images = iter(calibrate(name, arrays, there, self.recipe)[0])
        return [
            np.zeros(geometry.canonical_shape, np.float32) if scan is None else next(images) for scan in scans
        ]

    def shares(self, image: Tensor) -> Tensor:
        """Class probabilities (classes, Z, Y, X) of an image (C, Z, Y, X), calibrated and resampled."""
        config = self.config
        classes = len(config["labels"]) + 1
        kind = precision(None, self._device)
        mirrored = ["zyx".index(axis) - 3 for axis in config.get("mirror_axes", [])]
        sides = range(len(mirrored) + 1)
        flips = [axes for count in sides for axes in itertools.combinations(mirrored, count)]
        image = image.to(self._device)

        def look(seen: Tensor, where: Tensor | None = None) -> Tensor:
            seen = normalise(seen, config["normalisation"])
            total: Tensor | None = None
            for axes in flips:
                turned = None if where is None else _flipped(where, axes)
                share = probabilities(
                    self._network, _flipped(seen, axes), config["patch_size"], classes, kind, where=turned
                )
                share = _flipped(share, axes)
                total = share if total is None else total + share
            assert total is not None
            return total / len(flips) if mirrored else total

        held = config.get("rule_out")
        possible = None if held is None else ruled_in(image, held)
        if not self.before:
            return look(image, possible)
        found = torch.stack([model.shares(image) for model in self.before]).mean(0)
        given = given_by(found, config["before"], config["spacing"])
        return look_with(given, config["before"]["gives"], image, look, possible)


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
        DataError: a file was changed or cut short.
    """
    if not (folder / CONFIG).is_file() or not (folder / WEIGHTS).is_file():
        raise MissingError(f"{folder} holds no model", f"run dvc repro train@{folder.name}")
    config = _read_config(folder / CONFIG)
    if sha256_file(folder / WEIGHTS) != config["sha256"].get(WEIGHTS):
        raise DataError(f"{folder / WEIGHTS} is not the file that was saved (its checksum differs)", RESTORE)
    for name, digest in config["sha256"].items():
        if name != WEIGHTS and (not (folder / name).is_file() or sha256_file(folder / name) != digest):
            raise DataError(f"{folder / name} is not the file that was saved (its checksum differs)", RESTORE)
    before = [load_model(folder / place) for place in parts(config)]
    network = build(config)
    try:
        load_weights(network, load_file(folder / WEIGHTS))
    except (SafetensorError, ValueError):
        raise DataError(f"{folder / WEIGHTS} does not fit its {CONFIG}", RESTORE) from None
    return Model(config, network.eval(), before)


def parts(config: dict[str, Any]) -> list[str]:
    """Where, in the folder of a model, the models lie that it is given the predictions of."""
    return [f"{BEFORE}/{number}" for number in range(config["before"]["models"] if "before" in config else 0)]


def _read_config(path: Path) -> dict[str, Any]:
    try:
        config = dict(read_json(path))
    except (ValueError, TypeError):
        raise DataError(f"{path} is damaged", RESTORE) from None
    missing = [key for key in NEEDED if key not in config]
    if missing:
        raise DataError(f"{path} lacks {', '.join(missing)}", RESTORE)
    return config
