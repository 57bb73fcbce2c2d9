"""No damage to a file ends a process, takes for ever, or is taken for what it is not.

Every input is a sound file, damaged: bits flipped, cut, grown, bytes put in or taken out, numbers and
words of its header changed for extreme ones. What a worker makes of it is judged by fuzzed_reading.py:
it is refused by name, or what is accepted is what an independent parser reads from the same bytes.

What no reader can see is no failure. Formats without a check sum have voxels that may be other voxels,
and headers whose numbers may be other good numbers; of these, what is read has to be what the file
says. NIfTI in gzip has a check sum over every byte: whatever is accepted there is what was written.
"""

import os
from collections import Counter
from pathlib import Path

import pytest

from pipeline.volumes.workers import run_each

PER_KIND = 110
SECONDS = 30.0
"""For one input; the slowest take some hundredths of it."""


@pytest.fixture(scope="module")
def fuzzing():
    """The modules that damage and read; workers import them by name."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(Path(__file__).parent)
        import fuzzed_files
        import fuzzed_reading

        yield fuzzed_files, fuzzed_reading


@pytest.fixture(scope="module")
def outcomes(fuzzing, tmp_path_factory):
    """What became of every input."""
    files, reading = fuzzing
    folder = tmp_path_factory.mktemp("sound")
    inputs = []
    for kind in files.KINDS:
        files.make(kind, folder / kind)
        inputs += [reading.Input(kind, folder / kind, seed) for seed in range(PER_KIND)]
    return list(run_each(reading.judge, inputs, min(2, os.cpu_count() or 1), SECONDS))


def test_no_damage_ends_or_hangs_a_process_or_is_accepted_wrongly(outcomes, fuzzing):
    assert len(outcomes) == PER_KIND * len(fuzzing[0].KINDS) >= 2_000
    wrong = [str(outcome.error) for outcome in outcomes if outcome.error]
    assert not wrong


def test_each_kind_is_refused_accepted_unchanged_and_accepted_as_it_says(outcomes, fuzzing):
    """The fuzzing reaches all three ends, or it would prove nothing."""
    found = Counter((outcome.item.kind, outcome.result) for outcome in outcomes)
    for kind in fuzzing[0].KINDS:
        assert found[kind, "refused"] > PER_KIND / 5, kind
        assert found[kind, "unchanged"] > 0, kind
    by_verdict = Counter(outcome.result for outcome in outcomes)
    assert by_verdict["as it says"] > len(outcomes) / 20
    assert not found["nifti_packed", "as it says"]


def test_the_same_seed_is_the_same_damage(fuzzing, tmp_path):
    files, _ = fuzzing
    for kind in files.KINDS:
        made = []
        for turn in ("first", "second"):
            folder = tmp_path / turn / kind
            folder.parent.mkdir(exist_ok=True)
            files.make(kind, folder)
            generator = files.generator_of(kind, 1)
            victim = files.victim(kind, folder, generator)
            files.damage(kind, victim, generator)
            made.append(victim.read_bytes())
        assert made[0] == made[1], kind
