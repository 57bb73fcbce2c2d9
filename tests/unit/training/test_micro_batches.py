import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from pipeline.errors import DataError, ResourceError
from pipeline.losses.supervised import supervised_loss
from pipeline.networks import build_network
from pipeline.params import LossParams, TrainParams
from pipeline.training.micro_batches import MicroBatches, is_out_of_memory, told_if_no_memory
from tests.unit.training.conftest import OPTIONS, assert_same

BATCH, EDGE = 5, 16
RESIDUAL = ("residual_unet", OPTIONS)
SUPERVISED = ("unet_mds", {"width": 1 / 16, "norm": "instance"})
COUNTING = ("unet", {"width": 1 / 16, "levels": 2, "norm": "batch", "dropout": 0.5})
CPU = (
    "[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to "
    "allocate 268435456 bytes. Error code 12 (Cannot allocate memory)"
)
RETURNED = {"MALLOC_MMAP_THRESHOLD_": "65536"}
"""Has the C library give freed memory back at once; otherwise it is in pieces, and limits count them."""
NO_MEMORY = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate"),
    RuntimeError(CPU),
    MemoryError(),
]


def built(name, options):
    torch.manual_seed(0)
    return build_network(name, 1, 3, options)


def batch():
    generator = torch.Generator().manual_seed(1)
    image = torch.randn((BATCH, 1, EDGE, EDGE, EDGE), generator=generator)
    # A class that two of five patches have: its Dice is no mean over patches.
    label = torch.randint(2, (BATCH, EDGE, EDGE, EDGE), generator=generator)
    label[:2, :3] = 2
    label[4, :, :2] = 255
    return image, label


def gradients(network, outputs, loss, **given):
    image, label = batch()
    network.zero_grad()
    torch.manual_seed(3)
    supervised_loss(outputs(image), network.form.outputs, label, loss, **given).backward()
    return {name: weight.grad.clone() for name, weight in network.named_parameters()}


@pytest.mark.parametrize("size", [1, 2, 4])
@pytest.mark.parametrize(
    ("network", "loss", "given"),
    [
        pytest.param(RESIDUAL, LossParams(), {}, id="Dice over the batch"),
        pytest.param(SUPERVISED, LossParams(), {}, id="three outputs"),
        pytest.param(RESIDUAL, LossParams(sample={"share": 0.1, "of": "hardest"}), {}, id="hardest of all"),
        pytest.param(RESIDUAL, LossParams(sample={"share": 0.1}), {}, id="random voxels"),
        pytest.param(
            RESIDUAL, LossParams(focal_gamma=2), {"boundary": torch.ones(BATCH, EDGE, EDGE, EDGE)}, id="focal"
        ),
        pytest.param(RESIDUAL, LossParams(presence=0.1), {}, id="presence"),
        pytest.param(
            RESIDUAL, LossParams(), {"unknown": torch.tensor([[False, False, True]] * BATCH)}, id="unknown"
        ),
    ],
)
def test_in_parts_the_gradient_is_that_of_the_whole_batch(network, loss, given, size):
    network = built(*network)
    micro = MicroBatches(network, BATCH, TrainParams(micro_batch=size))
    whole = gradients(network, network, loss, **given)
    parts = gradients(network, micro.outputs, loss, **given)
    assert any(gradient.abs().max() > 1e-3 for gradient in whole.values())
    for name, gradient in whole.items():
        torch.testing.assert_close(parts[name], gradient, rtol=1e-3, atol=1e-6, msg=name)


def test_each_patch_alone_would_teach_something_else():
    """Which is why the loss is taken of all outputs together, and not added up over parts."""
    network = built(*RESIDUAL)
    image, label = batch()
    whole = gradients(network, network, LossParams())
    network.zero_grad()
    for number in range(BATCH):
        one = slice(number, number + 1)
        loss = supervised_loss(network(image[one]), network.form.outputs, label[one], LossParams())
        (loss / BATCH).backward()
    weights = dict(network.named_parameters())
    assert any(not torch.allclose(weights[name].grad, each, rtol=0.05) for name, each in whole.items())


def test_what_normalisation_counts_it_counts_once_a_part():
    network, other = built(*COUNTING), built(*COUNTING)
    image, _ = batch()
    torch.manual_seed(3)
    MicroBatches(network, BATCH, TrainParams(micro_batch=2)).outputs(image).square().sum().backward()
    torch.manual_seed(3)
    for part in (image[:2], image[2:4], image[4:]):
        other(part)
    counted = dict(network.named_buffers())
    assert any(name.endswith("running_mean") for name in counted)
    assert all(torch.equal(each, counted[name]) for name, each in other.named_buffers())


def short_of_memory(most, error):
    """Has memory end in the midst of a forward pass of more than `most` patches."""

    def prepare(network):
        def fail(module, given, _output):
            if module.training and len(given[0]) > most:
                raise error

        modules = [module for module in network.modules() if isinstance(module, torch.nn.Conv3d)]
        modules[-1].register_forward_hook(fail)

    return prepare


@pytest.mark.parametrize("error", NO_MEMORY, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("network", [RESIDUAL, COUNTING], ids=lambda network: network[0])
def test_out_of_memory_the_step_is_begun_anew_as_if_nothing_had_been(training, capsys, network, error):
    """Dropped weights come back, statistics too, and the same is drawn: as with a size set by hand."""
    given = {"network": network, "batch_size": 4, "steps": 4, "drop_connect": 0.3}
    by_hand = training(checkpoints="by hand", micro_batch=2, **given)
    assert "does not fit" not in capsys.readouterr().err
    found = training(checkpoints="found", before=short_of_memory(2, error), **given)
    assert_same((found[0], []), (by_hand[0], []))
    assert [row["loss"] for row in found[1]] == [row["loss"] for row in by_hand[1]]
    said = capsys.readouterr().err
    assert said.count("a step of 4 patches does not fit into memory: it is computed 2 at a time") == 1


def test_where_there_is_memory_enough_nothing_changes(training):
    given = {"batch_size": 4, "steps": 4}
    one, other = training(checkpoints="auto", **given), training(checkpoints="4", micro_batch=4, **given)
    assert_same(one, other)
    assert_same(training(checkpoints="9", micro_batch=9, **given), one)


def test_halves_are_halved_again_and_one_patch_is_the_end(training, capsys):
    with pytest.raises(ResourceError, match=r"does not fit into memory.*lower patches\.size") as raised:
        training(batch_size=5, before=short_of_memory(0, MemoryError()))
    assert raised.value.exit_code == DataError.exit_code, "no retry mends it"
    sizes = re.findall(r"computed (\d+) at a time", capsys.readouterr().err)
    assert sizes == ["3", "2", "1"]


def test_what_is_no_lack_of_memory_is_not_taken_for_it(training):
    with pytest.raises(RuntimeError, match="shapes differ"):
        training(before=short_of_memory(0, RuntimeError("shapes differ")))


def test_a_lack_of_memory_is_seen_in_what_it_led_to():
    led_to = RuntimeError("a kernel could not be compiled")
    led_to.__cause__ = torch.OutOfMemoryError("CUDA out of memory")
    assert is_out_of_memory(led_to)
    assert not is_out_of_memory(RuntimeError("a kernel could not be compiled"))


def test_elsewhere_it_is_told_what_needs_less():
    with pytest.raises(ResourceError, match=r"DefaultCPUAllocator.*train\.batch_size"), told_if_no_memory():
        raise RuntimeError(CPU)


def test_where_memory_really_ends_the_step_is_computed_in_parts(tmp_path):
    done = subprocess.run(
        [sys.executable, Path(__file__).with_name("limited_memory.py"), tmp_path],
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[3]), "OMP_NUM_THREADS": "1", **RETURNED},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    *fitted, last = json.loads(done.stdout)
    sizes = [found["size"] for found in fitted]
    assert sizes[0] == 8
    assert sizes == sorted(sizes, reverse=True)
    assert min(sizes) < 8
    assert "a step of 8 patches does not fit into memory: it is computed 4 at a time" in done.stderr
    # Nothing has changed but the order of sums.
    assert max(found["off by"] for found in fitted) < 1e-3
    assert "lower patches.size" in last["error"]
