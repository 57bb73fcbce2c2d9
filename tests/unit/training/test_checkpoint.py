import errno
import hashlib
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from pipeline.errors import Unfinished
from pipeline.training.checkpoint import Checkpoint, load_checkpoint, save_checkpoint, told_if_full
from tests.unit.training.conftest import assert_same as assert_same_training
from tests.unit.training.conftest import steps_on_disk, sum_of_weights


def state(step, size=40):
    generator = torch.Generator().manual_seed(step)
    tensors = {
        "weight/first": torch.randn((size, 3), generator=generator),
        "weight/layout": torch.randn((2, 3, 4, 4, 4), generator=generator).to(
            memory_format=torch.channels_last_3d
        ),
        "step/first": torch.tensor(float(step)),
        "count": torch.tensor([step]),
        "rounded": torch.randn(5, generator=generator).bfloat16(),
    }
    return Checkpoint(step, tensors, {"curve": [{"step": step, "loss": 0.1 + step / 3}], "losses": [1 / 3]})


def files(folder):
    return sorted(folder.iterdir())


def assert_same(found, expected):
    assert found is not None
    assert (found.step, found.record) == (expected.step, expected.record)
    assert found.tensors.keys() == expected.tensors.keys()
    for name, tensor in expected.tensors.items():
        assert found.tensors[name].dtype == tensor.dtype
        assert torch.equal(found.tensors[name], tensor), name


def test_a_checkpoint_comes_back_as_it_was_saved(tmp_path):
    save_checkpoint(tmp_path / "organ" / "key", state(7))
    assert_same(load_checkpoint(tmp_path / "organ" / "key"), state(7))


def test_without_a_checkpoint_there_is_none(tmp_path):
    assert load_checkpoint(tmp_path) is None
    assert load_checkpoint(tmp_path / "never made") is None


def test_the_newest_is_found_and_two_are_kept(tmp_path):
    for step in (9, 10, 100, 1000):
        save_checkpoint(tmp_path, state(step))
    assert_same(load_checkpoint(tmp_path), state(1000))
    assert [path.name[:13] for path in files(tmp_path)] == ["step_00000100", "step_00001000"]


def test_the_same_state_gives_the_same_file(tmp_path):
    save_checkpoint(tmp_path / "one", state(5))
    save_checkpoint(tmp_path / "other", state(5))
    (one,), (other,) = files(tmp_path / "one"), files(tmp_path / "other")
    assert one.name == other.name
    assert one.read_bytes() == other.read_bytes()


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.999])
def test_a_truncated_checkpoint_is_recognised(tmp_path, share):
    save_checkpoint(tmp_path, state(10))
    save_checkpoint(tmp_path, state(20))
    newest = files(tmp_path)[-1]
    content = newest.read_bytes()
    newest.write_bytes(content[: int(share * len(content))])
    assert_same(load_checkpoint(tmp_path), state(10))


@pytest.mark.parametrize("place", [0.0, 0.01, 0.3, 0.7, 0.9999])
def test_a_flipped_bit_is_recognised(tmp_path, place):
    save_checkpoint(tmp_path, state(10))
    save_checkpoint(tmp_path, state(20))
    newest = files(tmp_path)[-1]
    content = bytearray(newest.read_bytes())
    content[int(place * len(content))] ^= 4
    newest.write_bytes(content)
    assert_same(load_checkpoint(tmp_path), state(10))


def test_what_is_loaded_does_not_hang_on_the_file(tmp_path):
    save_checkpoint(tmp_path, state(10))
    (path,) = files(tmp_path)
    before = path.read_bytes()
    found = load_checkpoint(tmp_path)
    for tensor in found.tensors.values():
        tensor.zero_()
    assert path.read_bytes() == before


def test_a_checkpoint_that_was_written_whole_but_is_none_is_named_and_passed_over(tmp_path, capsys):
    save_checkpoint(tmp_path, state(10))
    content = b"of another program"
    other = tmp_path / f"step_00000020_{hashlib.sha256(content).hexdigest()[:16]}.safetensors"
    other.write_bytes(content)
    assert_same(load_checkpoint(tmp_path), state(10))
    assert not other.exists()
    assert f"{other.name} cannot be read" in "".join(capsys.readouterr().err.split("\n"))


def test_the_bytes_are_on_the_disk_before_the_name(tmp_path, monkeypatch):
    order, sync, replace = [], os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda file: order.append(os.fstat(file).st_size) or sync(file))
    monkeypatch.setattr(os, "replace", lambda *names: order.append("renamed") or replace(*names))
    save_checkpoint(tmp_path, state(10))
    (path,) = files(tmp_path)
    assert order == [path.stat().st_size, "renamed"]


def test_damaged_checkpoints_do_not_push_out_whole_ones(tmp_path):
    for step in (20, 30):
        save_checkpoint(tmp_path, state(step))
    for path in files(tmp_path):
        path.write_bytes(b"damaged")
    assert load_checkpoint(tmp_path) is None
    save_checkpoint(tmp_path, state(10))
    assert_same(load_checkpoint(tmp_path), state(10))


def test_the_checkpoint_of_another_key_is_not_used(tmp_path):
    save_checkpoint(tmp_path / "one", state(10))
    assert load_checkpoint(tmp_path / "other") is None


def test_leftovers_of_a_killed_writer_are_neither_read_nor_kept(tmp_path):
    save_checkpoint(tmp_path, state(10))
    leftovers = [tmp_path / f".{name}" for name in ("0.partial.checkpoint", "7.partial.broken_step_9")]
    for leftover in leftovers:
        leftover.write_bytes(files(tmp_path)[0].read_bytes()[:100])
    assert_same(load_checkpoint(tmp_path), state(10))
    save_checkpoint(tmp_path, state(20))
    assert not any(leftover.exists() for leftover in leftovers)
    assert_same(load_checkpoint(tmp_path), state(20))


@pytest.fixture(scope="module")
def kills(tmp_path_factory):
    script = Path(__file__).with_name("forked_checkpoint.py")
    done = subprocess.run(
        [sys.executable, script, tmp_path_factory.mktemp("kills")],
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[3])},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("place", ["lines", "bytes"])
def test_a_killed_writer_leaves_whole_checkpoints(kills, place):
    outcomes = kills[place]
    assert len(outcomes) > 10
    assert [outcome["killed"] for outcome in outcomes] == [True] * (len(outcomes) - 1) + [False]
    steps = [outcome["found"] for outcome in outcomes]
    # The one before until the new one is in place, then the new one; never anything else.
    assert steps == sorted(steps)
    assert set(steps) == {20, 30}
    for outcome in outcomes:
        assert outcome["after"] == [f"step_{outcome['found']:08d}", "step_00000040"]


def test_a_file_that_may_not_grow_so_large_is_told_and_those_before_stay(tmp_path):
    save_checkpoint(tmp_path, state(10))
    (path,) = files(tmp_path)
    limit = path.stat().st_size + 100
    script = (
        "import resource, sys; from pathlib import Path; "
        "from tests.unit.training.test_checkpoint import state, save_checkpoint; "
        f"resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit})); "
        "from pipeline.errors import Unfinished\n"
        "try: save_checkpoint(Path(sys.argv[1]), state(20, size=4000))\n"
        "except Unfinished as error: print(error)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, tmp_path],
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[3])},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert re.match(
        rf"a file of 50,\d+ bytes could not be written into {tmp_path}, where [\d,]+ ", done.stdout
    )
    assert "(File too large): make room there" in done.stdout
    assert files(tmp_path) == [path]
    assert_same(load_checkpoint(tmp_path), state(10))


def test_where_no_folder_could_be_made_the_room_of_the_disk_is_told(tmp_path):
    with (
        pytest.raises(Unfinished, match=r"a file of 10 bytes .* where [\d,]+ bytes are free \(No space"),
        told_if_full(tmp_path / "organ" / "key", 10),
    ):
        raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_disk_that_fails_is_named_and_one_without_room_for_a_name_is_full(tmp_path, monkeypatch, call):
    def save_with(fault):
        def fail(*_given):
            raise fault

        with monkeypatch.context() as patched:
            patched.setattr(os, call, fail)
            save_checkpoint(tmp_path / "key", Checkpoint(1, {}, {}))

    with pytest.raises(OSError, match="Input/output error") as raised:
        save_with(OSError(errno.EIO, "Input/output error"))
    assert raised.value.filename == str(tmp_path / "key")
    with pytest.raises(Unfinished, match="No space left"):
        save_with(OSError(errno.ENOSPC, "No space left on device"))


def test_a_file_in_the_place_of_the_folder_is_not_taken_for_a_full_disk(tmp_path):
    (tmp_path / "key").touch()
    with pytest.raises(FileExistsError):
        save_checkpoint(tmp_path / "key", state(10))


@pytest.fixture
def small_disk(tmp_path):
    """Mounts a file system of so many bytes, or gives it another size; what it returns is where."""
    place = tmp_path / "disk"

    def mount(size, *options):
        place.mkdir(exist_ok=True)
        how = ",".join([*options, f"size={size}"])
        done = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", how, "tmpfs", place], capture_output=True, text=True, check=False
        )
        if done.returncode:
            pytest.skip(f"only root may mount: {done.stderr}")
        return place

    yield mount
    subprocess.run(["umount", place], capture_output=True, check=False)


def test_on_a_full_disk_a_training_says_what_it_needs_and_goes_on_when_there_is_room(
    training, tmp_path, small_disk, capsys
):
    undisturbed = training(sum_of_weights, checkpoints="undisturbed")
    size = max(path.stat().st_size for path in files(tmp_path / "undisturbed"))
    # Two are kept while the third is written, for which there is no room.
    small_disk(int(2.5 * size))
    told = r"a file of [\d,]+ bytes could not be written into \S+/disk/key, where [\d,]+ bytes are free"
    with pytest.raises(Unfinished, match=told) as raised:
        training(sum_of_weights, checkpoints="disk/key")
    needed, free = (
        int(number.replace(",", "")) for number in re.findall(r"([\d,]+) bytes", str(raised.value))
    )
    assert free < needed
    assert "make room there" in raised.value.remedy
    assert steps_on_disk(tmp_path / "disk" / "key") == [4, 8]
    assert len(files(tmp_path / "disk" / "key")) == 2, "what did not fit is removed"
    small_disk(10 * size, "remount")
    assert_same_training(training(sum_of_weights, checkpoints="disk/key"), undisturbed)
    assert "going on from step 8" in capsys.readouterr().err
