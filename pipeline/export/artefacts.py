"""A network as safetensors, as a `torch.export` program and as ONNX, and whether the three say the same.

The input of all is float32, (batch, channels, z, y, x), of the one size in which the model looks at an image;
the batch is free. The output is logits.
"""

import io
import json
import logging
import warnings
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from pipeline.errors import DataError
from pipeline.inference.model import build
from pipeline.networks.base import Network
from pipeline.networks.weights import load_weights

SAFETENSORS, PROGRAM, ONNX = "model.safetensors", "model.pt2", "model.onnx"
LIMIT = 1e-4
"""How far apart class probabilities may be. Where they are nearer, a voxel's class can only differ between
two that are nearly as probable."""
TRACED, TRIED = 2, (1, 3)
"""Images in a batch: while the network is recorded, and when its artefacts are held against each other."""
OPERATIONS = 5000
"""In a program at most: a recurrence is written out step by step, and ONNX takes minutes for thousands."""
ONNX_OPERATORS = 20
"""The version of ONNX's operators."""
REMEDY = "its weights can be used by this pipeline as they are; for the other formats train another network"

Answer = Callable[[Tensor], Tensor]
Agreement = dict[str, dict[str, float | int]]
"""By artefact: largest_difference of the probabilities, and voxels_of_another_class."""


def network_of(config: dict[str, Any], weights: Path) -> Network:
    """The network of a model's configuration with the weights of a file, on the CPU, in evaluation mode."""
    network = build(config).cpu()
    load_weights(network, load_file(weights))
    return network.eval()


def write_artefacts(config: dict[str, Any], folder: Path) -> Agreement:
    """Write program and ONNX beside the safetensors in `folder`, and hold all three against each other.

    Args:
        config: of the model.
        folder: holds `model.safetensors`.

    Raises:
        DataError: the network cannot be recorded, or an artefact gives another answer.
        OSError: they cannot be written.
    """
    name = config["network"]["name"]
    network = network_of(config, folder / SAFETENSORS)
    shape = input_shape(config, network)
    with _quiet(), torch.no_grad():
        recorded = _recorded(network, name, _images(TRACED, shape))
        _write_onnx(recorded, name, shape, folder / ONNX)
        # An example is of no use to a reader, and the only thing in the file that would be a pickle.
        recorded._example_inputs = None
        # By way of memory: what torch writes to a full disk itself ends the process, with no error to tell.
        content = io.BytesIO()
        torch.export.save(recorded, content)
        (folder / PROGRAM).write_bytes(content.getbuffer())
    return agreement(config, folder)


def input_shape(config: dict[str, Any], network: Network) -> tuple[int, int, int, int]:
    """(channels, z, y, x) of what the network is given, its margin included."""
    z, y, x = network.form.input_size(network.form.fit(config["patch_size"]))
    return len(config["normalisation"]), z, y, x


def agreement(config: dict[str, Any], folder: Path) -> Agreement:
    """How far the answers of program and ONNX are from those of the safetensors.

    Args:
        config: of the model.
        folder: with the three artefacts.

    Raises:
        DataError: one is damaged, or says something else.
    """
    network = network_of(config, folder / SAFETENSORS)
    images = [_images(count, input_shape(config, network)) for count in TRIED]
    if network.form.missing_channels:
        # A network that can do without a channel takes another way there.
        images[-1][0, -1] = 0
    with _quiet(), torch.inference_mode():
        expected = [network(image) for image in images]
        found = {}
        for name, load in {PROGRAM: _program, ONNX: _onnx}.items():
            try:
                answer = load(folder / name)
                given = [answer(image) for image in images]
            except DataError:
                raise
            except Exception as error:
                raise DataError(f"{folder / name} cannot be used: {_line(error)}", "export again") from error
            found[name] = _apart(expected, given)
    for name, apart in found.items():
        if not apart["largest_difference"] < LIMIT:
            raise DataError(
                f"{name} gives other class probabilities than {SAFETENSORS}: they are up to "
                f"{apart['largest_difference']:.2g} apart, where {LIMIT:g} is allowed, and "
                f"{apart['voxels_of_another_class']} voxels are of another class",
                REMEDY,
            )
    return found


def pickled(path: Path) -> list[str]:
    """What in a `torch.export` file would be unpickled when it is loaded; nothing in those written here."""
    found = []
    with zipfile.ZipFile(path) as archive:
        for entry in archive.infolist():
            if entry.filename.endswith("_config.json"):
                held = json.loads(archive.read(entry))["config"]
                found += [name for name, payload in held.items() if payload["use_pickle"]]
            elif entry.filename.endswith(".pt") and entry.file_size:
                found.append(entry.filename)
    return found


def _recorded(network: Network, name: str, image: Tensor) -> torch.export.ExportedProgram:
    batch = torch.export.Dim("batch", min=1)
    try:
        recorded = torch.export.export(network, (image,), dynamic_shapes=({0: batch},))
    except Exception as error:
        raise DataError(
            f"the network '{name}' cannot be recorded by torch.export: {_line(error)}", REMEDY
        ) from error
    operations = len(recorded.graph.nodes)
    if operations > OPERATIONS:
        raise DataError(
            f"the network '{name}' is {operations} operations when it is written out for a patch of "
            f"{' x '.join(map(str, image.shape[2:]))}, and {OPERATIONS} are exported",
            REMEDY,
        )
    return recorded


def _write_onnx(
    recorded: torch.export.ExportedProgram, name: str, shape: tuple[int, ...], path: Path
) -> None:
    try:
        program = torch.onnx.export(
            recorded,
            (_images(TRACED, shape),),
            dynamo=True,
            verbose=False,
            input_names=["image"],
            output_names=["pred"],
            opset_version=ONNX_OPERATORS,
        )
        assert program is not None, "dynamo gives a program"
        program.save(path, external_data=False)
    except OSError:
        # Of the disk, not of the network.
        raise
    except Exception as error:
        raise DataError(f"the network '{name}' cannot be written as ONNX: {_line(error)}", REMEDY) from error


def _program(path: Path) -> Answer:
    held = pickled(path)
    if held:
        raise DataError(f"{path} holds pickled objects ({', '.join(held)})", "do not load it; export again")
    module: Answer = torch.export.load(path).module()
    return module


def _onnx(path: Path) -> Answer:
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda image: torch.from_numpy(session.run(None, {name: image.numpy()})[0])


def _images(count: int, shape: tuple[int, ...]) -> Tensor:
    return torch.randn(count, *shape, generator=torch.Generator().manual_seed(count))


def _apart(expected: list[Tensor], given: list[Tensor]) -> dict[str, float | int]:
    """The largest difference of class probabilities; NaN if there is one, or another shape, anywhere."""
    if any(one.shape != other.shape for one, other in zip(expected, given, strict=True)):
        return {"largest_difference": float("nan"), "voxels_of_another_class": 0}
    pairs = [(one.softmax(1), other.softmax(1)) for one, other in zip(expected, given, strict=True)]
    largest = torch.stack([(one - other).abs().max() for one, other in pairs]).max()
    moved = sum(int((one.argmax(1) != other.argmax(1)).sum()) for one, other in pairs)
    return {"largest_difference": float(largest), "voxels_of_another_class": moved}


def _line(error: Exception) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)


@contextmanager
def _quiet() -> Iterator[None]:
    """Without what the exporters tell of their own future, and of libraries that no network here needs."""
    log = logging.getLogger("torch.onnx._internal.exporter._registration")
    before = log.level
    log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        log.setLevel(before)
