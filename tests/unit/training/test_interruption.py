import os
import signal

import pytest

from pipeline.errors import Unfinished
from pipeline.training.interruption import end_requests
from tests.unit.training.conftest import STEPS, assert_same, steps_on_disk, sum_of_weights


@pytest.fixture(autouse=True)
def handlers():
    """What signals do in a terminal; afterwards what they did before."""
    outside = signal.getsignal(signal.SIGINT)
    # Tests that a script runs in the background are not told of Ctrl-C.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    yield before
    assert {number: signal.getsignal(number) for number in before} == before, "they are as they were"
    signal.signal(signal.SIGINT, outside)


def ask(number):
    os.kill(os.getpid(), number)


def asked_at_pass(number, which=signal.SIGTERM):
    """Has the process asked to end in the midst of the `number`-th pass of a network that learns."""
    passes = iter(range(1, 1000))

    def prepare(network):
        def note(module, _given):
            if module.training and next(passes) == number:
                ask(which)

        network.register_forward_pre_hook(note)

    return prepare


@pytest.mark.parametrize("which", [signal.SIGTERM, signal.SIGINT], ids=str)
@pytest.mark.parametrize("step", [1, 3, 5, STEPS])
def test_asked_to_end_it_saves_its_step_and_goes_on_from_there(training, tmp_path, capfd, step, which):
    undisturbed = training(sum_of_weights, checkpoints="undisturbed")
    with pytest.raises(Unfinished, match=f"stopped after step {step}, which is saved") as raised:
        training(sum_of_weights, checkpoints="asked", before=asked_at_pass(step, which))
    assert raised.value.exit_code == 75
    assert max(steps_on_disk(tmp_path / "asked")) == step
    assert "asked to end" in capfd.readouterr().err
    assert_same(training(sum_of_weights, checkpoints="asked"), undisturbed)
    assert f"going on from step {step}" in capfd.readouterr().err


@pytest.mark.parametrize("look", [1, 2, 4])
def test_a_look_is_given_up_and_made_when_the_training_goes_on(training, tmp_path, look):
    """Whole volumes take minutes, for which nobody waits who asks a process to end."""
    undisturbed = training(sum_of_weights, checkpoints="undisturbed")
    looks, done = iter(range(1, 100)), []

    def watch(network):
        if next(looks) == look:
            ask(signal.SIGTERM)
            network(network.example)
            done.append("a pass that nobody waits for")
        return sum_of_weights(network)

    def prepare(network):
        network.example = next(network.parameters()).new_zeros((1, 1, 8, 8, 8))

    step = 3 * look if look < 4 else STEPS
    with pytest.raises(Unfinished, match=f"stopped after step {step},"):
        training(watch, checkpoints="asked", before=prepare)
    assert not done
    assert max(steps_on_disk(tmp_path / "asked")) == step
    assert_same(training(sum_of_weights, checkpoints="asked"), undisturbed)


def test_asked_again_and_again_each_time_a_step_is_won(training):
    undisturbed = training(sum_of_weights, checkpoints="undisturbed")
    for step in range(1, STEPS):
        with pytest.raises(Unfinished, match=f"after step {step},"):
            training(sum_of_weights, checkpoints="asked", before=asked_at_pass(1))
    assert_same(training(sum_of_weights, checkpoints="asked"), undisturbed)


def test_a_second_time_it_ends_at_once():
    with end_requests() as request:
        ask(signal.SIGINT)
        assert request.made
        with pytest.raises(KeyboardInterrupt):
            ask(signal.SIGINT)


def test_what_is_ignored_stays_ignored():
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with end_requests() as request:
            ask(signal.SIGINT)
        assert not request.made
    finally:
        signal.signal(signal.SIGINT, before)
