"""All networks beside each other: what they are, and what a training step of a reference patch costs here."""

import time
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from rich.table import Table
from torch import Tensor

from pipeline.losses.supervised import supervised_loss
from pipeline.networks import build_network, names, plan_network
from pipeline.networks.base import Index, Network
from pipeline.params import LossParams

PATCH: Index = (32, 48, 48)
"""(z, y, x) voxels of 1 mm, one channel, three classes, one patch a step."""
CLASSES = 3
STEPS = 2
"""Of which the faster one is told: the first one allocates."""


@dataclass(frozen=True)
class Row:
    """One network."""

    name: str
    dims: int
    parameters: int
    receptive_field: Index
    """0: as far as the patch goes."""
    margin: Index
    outputs: int
    activation_mb: float
    """What a step keeps for its way back, 10^6 bytes in float32."""
    seconds: float
    """Of a step, forward and backward, on the CPU."""


def rows(asked: list[str], small: bool) -> Iterator[Row]:
    """The networks of the catalogue, or those that were asked for, measured one after the other."""
    for name in asked or names():
        torch.manual_seed(0)
        options = plan_network(name, {}, PATCH, (1.0, 1.0, 1.0), small=small)
        yield measure(name, build_network(name, 1, CLASSES, options))


def measure(name: str, network: Network) -> Row:
    """What a network is and costs."""
    form = network.form
    output = form.fit(PATCH)
    generator = torch.Generator().manual_seed(0)
    image = torch.randn(1, 1, *form.input_size(output), generator=generator)
    label = torch.randint(CLASSES, (1, *output), generator=generator)
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    seconds = []
    for _ in range(STEPS):
        kept.clear()
        begin = time.perf_counter()
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            loss = supervised_loss(network(image), form.outputs, label, LossParams())
        loss.backward()  # type: ignore[no-untyped-call]
        seconds.append(time.perf_counter() - begin)
    weights = {weight.untyped_storage().data_ptr() for weight in network.parameters()}
    activations = sum(size for place, size in kept.items() if place not in weights)
    parameters = sum(weight.numel() for weight in network.parameters())
    return Row(
        name,
        form.dims,
        parameters,
        form.receptive_field,
        form.margin,
        len(form.outputs),
        activations / 1e6,
        min(seconds),
    )


def as_table(measured: list[Row]) -> Table:
    """The rows, for a terminal."""
    table = Table(box=None, pad_edge=False)
    table.add_column("network", no_wrap=True)
    for column in ("dims", "parameters", "receptive field", "margin", "outputs", "activations", "a step"):
        # On a narrow terminal a heading is broken, or what stands between blanks, but no number.
        whole = column in ("parameters", "activations", "a step")
        table.add_column(column, justify="right", overflow="fold", no_wrap=whole)
    for row in measured:
        field, margin = (
            " x ".join(str(edge) if edge else "all" for edge in row.receptive_field),
            " x ".join(map(str, row.margin)),
        )
        table.add_row(
            row.name,
            f"{row.dims}D",
            f"{row.parameters:,}",
            field,
            margin if any(row.margin) else "none",
            str(row.outputs),
            f"{row.activation_mb:,.0f} MB",
            f"{row.seconds:.2f} s",
        )
    return table
