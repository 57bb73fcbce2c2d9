import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from pipeline.errors import DataError
from pipeline.volumes.store import CHUNK, StoredCase, read_case, write_case

META = {"row": {"case": "a", "key": "k", "spacing": [1.5, 0.1, 1 / 3], "fg_mean": None}}


def _case(shape: tuple[int, int, int]) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
    generator = np.random.default_rng(0)
    image = generator.normal(0, 300, shape).astype(np.float32)
    return image, generator.integers(0, 256, shape).astype(np.uint8)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A case on disk whose shape is no multiple of a chunk."""
    target = tmp_path / "spleen" / "a.b2nd"
    write_case(target, *_case((37, 70, 65)), META)
    return target


@pytest.mark.parametrize("shape", [(37, 70, 65), (1, 1, 1), (3, 200, 5), CHUNK])
def test_a_case_comes_back_as_it_was(tmp_path: Path, shape: tuple[int, int, int]) -> None:
    image, label = _case(shape)
    write_case(tmp_path / "a.b2nd", image, label, META)
    case = read_case(tmp_path / "a.b2nd")
    assert np.array_equal(case.image, image[None])
    assert np.array_equal(case.label, label)
    assert case.meta == META
    assert (case.image.dtype.name, case.label.dtype.name) == ("float32", "uint8")
    stored = StoredCase(tmp_path / "a.b2nd")
    assert (stored.channels, stored.shape) == (1, shape)
    assert np.array_equal(stored.image(), image[None])
    assert np.array_equal(stored.label(), label)


def test_a_case_of_several_channels_comes_back_as_it_was(tmp_path: Path) -> None:
    _, label = _case((9, 40, 33))
    image = np.random.default_rng(1).normal(0, 1, (3, 9, 40, 33)).astype(np.float32)
    write_case(tmp_path / "a.b2nd", image, label, META)
    case, stored = read_case(tmp_path / "a.b2nd"), StoredCase(tmp_path / "a.b2nd")
    assert np.array_equal(case.image, image)
    assert np.array_equal(case.label, label)
    assert (stored.channels, stored.shape) == (3, (9, 40, 33))
    assert np.array_equal(stored.image(), image)
    box = stored.box((1, 2, 3), (5, 30, 4))
    assert np.array_equal(box[:3], image[:, 1:5, 2:30, 3:4])
    assert np.array_equal(box[3], label[1:5, 2:30, 3:4])


def test_one_channel_is_the_same_with_and_without_its_axis(tmp_path: Path, path: Path) -> None:
    image, label = _case((37, 70, 65))
    write_case(tmp_path / "a.b2nd", image[None], label, META)
    assert (tmp_path / "a.b2nd").read_bytes() == path.read_bytes()


def test_a_box_is_that_slice_of_image_and_label(path: Path) -> None:
    image, label = _case((37, 70, 65))
    stored = StoredCase(path)
    generator = np.random.default_rng(1)
    for _ in range(20):
        start = [int(generator.integers(0, n)) for n in (37, 70, 65)]
        stop = [int(generator.integers(low + 1, n + 1)) for low, n in zip(start, (37, 70, 65), strict=True)]
        box = stored.box(tuple(start), tuple(stop))
        where = tuple(map(slice, start, stop))
        assert box.dtype == np.float32
        assert np.array_equal(box, np.stack([image[where], label[where]]))


def test_the_same_case_gives_the_same_bytes(tmp_path: Path, path: Path) -> None:
    other = {"row": dict(reversed(META["row"].items()))}
    write_case(tmp_path / "again.b2nd", *_case((37, 70, 65)), other)
    assert (tmp_path / "again.b2nd").read_bytes() == path.read_bytes()


def test_the_memory_layout_of_a_case_does_not_matter(tmp_path: Path, path: Path) -> None:
    image, label = _case((37, 70, 65))
    write_case(tmp_path / "view.b2nd", np.asfortranarray(image), label[::-1].copy()[::-1], META)
    assert (tmp_path / "view.b2nd").read_bytes() == path.read_bytes()


def test_another_case_replaces_the_one_before(path: Path) -> None:
    image, label = _case((5, 6, 7))
    write_case(path, image, label, {"row": {}})
    case = read_case(path)
    assert np.array_equal(case.image, image[None])
    assert case.meta == {"row": {}}


def test_the_leftover_of_a_killed_process_with_our_process_id_is_not_written_into(path: Path) -> None:
    clean = path.read_bytes()
    leftover = path.parent / f".{os.getpid()}.partial.{path.name}"
    for content in (clean, clean[: len(clean) // 2], b"garbage"):
        leftover.write_bytes(content)
        write_case(path, *_case((37, 70, 65)), META)
        assert path.read_bytes() == clean
        assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("share", [0.0, 0.0001, 0.01, 0.5, 0.9, 0.9999])
def test_a_truncated_file_is_refused(path: Path, share: float) -> None:
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * share)])
    with pytest.raises(DataError, match=r"a\.b2nd is no readable volume"):
        read_case(path)


def test_a_file_with_a_broken_header_is_refused_when_it_is_read(path: Path) -> None:
    whole = path.read_bytes()
    refused = 0
    for place in range(90, 250, 10):
        wrong = bytearray(whole)
        wrong[place] ^= 0xFF
        path.write_bytes(bytes(wrong))
        try:
            read_case(path)
        except DataError:
            refused += 1
    assert refused


@pytest.mark.parametrize("content", [b"", b"garbage" * 100])
def test_what_is_no_volume_is_refused_with_the_command_that_makes_one(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    with pytest.raises(DataError) as refused:
        StoredCase(path)
    assert refused.value.remedy == "run dvc repro ingest@spleen"


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no readable volume"):
        StoredCase(tmp_path / "a.b2nd")


WRITE_TO_A_FULL_DISK = """
import resource, sys
from pathlib import Path
import numpy as np
from pipeline.errors import MissingError
from pipeline.volumes.store import write_case

image = np.random.default_rng(0).normal(size=(20, 40, 40)).astype(np.float32)
for limit in map(int, sys.argv[2:]):
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
    try:
        write_case(Path(sys.argv[1]), image, np.zeros(image.shape, np.uint8), {"row": "of a case"})
    except MissingError as error:
        print(error)
"""


def test_where_there_is_no_room_the_old_volume_stays(path: Path) -> None:
    before = path.read_bytes()
    limits = ["0", "100", "50000", "100000"]
    command = [sys.executable, "-c", WRITE_TO_A_FULL_DISK, str(path), *limits]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.count("a.b2nd cannot be written (RuntimeError): make room") == len(limits)
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]


def test_a_name_that_is_too_long_is_the_fault_of_the_case(tmp_path: Path) -> None:
    image = np.zeros((4, 4, 4), np.float32)
    with pytest.raises(DataError, match="its name is too long"):
        write_case(tmp_path / f"{'a' * 249}.b2nd", image, image.astype(np.uint8), {})
