from collections import Counter

import numpy as np
import pandas as pd
import pytest

from pipeline.networks.base import Form
from pipeline.training import data
from pipeline.training.data import PatchReader, epoch_rows, read_patch, unknown_classes
from pipeline.volumes.store import SUFFIX, StoredCase, write_case

SIZE = (4, 6, 8)
SHAPES = {"large": (9, 14, 17), "small": (3, 5, 20)}


@pytest.fixture(scope="module")
def volumes(tmp_path_factory):
    """Two cases in which every voxel's value says where it is."""
    folder = tmp_path_factory.mktemp("volumes")
    for number, (case, shape) in enumerate(SHAPES.items()):
        image = np.arange(np.prod(shape), dtype=np.float32).reshape(shape) + 10_000 * number
        write_case(folder / f"{case}{SUFFIX}", image, (image % 7).astype(np.uint8), {})
    return folder


def table(rows=11):
    """Patches of both cases by turns, at centres all over them."""
    rng = np.random.default_rng(0)
    cases = [list(SHAPES)[row % 2] for row in range(rows)]
    centres = [[int(rng.integers(n)) for n in SHAPES[case]] for case in cases]
    frame = pd.DataFrame(centres, columns=list("zyx")).assign(case=cases, annotated="")
    return frame.assign(weight=1.0, **{f"size_{axis}": edge for axis, edge in zip("zyx", SIZE, strict=True)})


def reader(volumes, batch_size=2, seed=0, rows=11):
    return PatchReader(table(rows), volumes, batch_size, seed)


def image_of(case):
    shape = SHAPES[case]
    return np.arange(np.prod(shape), dtype=np.float32).reshape(shape) + 10_000 * list(SHAPES).index(case)


def test_a_batch_is_image_and_label_of_each_patch(volumes):
    batch = reader(volumes, batch_size=3).batch(0)
    assert (batch.shape, batch.dtype) == ((3, 2, *SIZE), np.float32)
    np.testing.assert_array_equal(batch[:, 1], batch[:, 0] % 7)


def test_a_batch_holds_every_channel_and_the_label_behind_them(tmp_path):
    images = np.stack([image_of("large"), 2 * image_of("large"), 3 * image_of("large")])
    write_case(tmp_path / f"large{SUFFIX}", images, (images[0] % 7).astype(np.uint8), {})
    alone = table()[table()["case"] == "large"].reset_index(drop=True)
    batch = PatchReader(alone, tmp_path, 2, 0).batch(0)
    assert batch.shape == (2, 4, *SIZE)
    np.testing.assert_array_equal(batch[:, 1], 2 * batch[:, 0])
    np.testing.assert_array_equal(batch[:, 2], 3 * batch[:, 0])
    np.testing.assert_array_equal(batch[:, 3], batch[:, 0] % 7)
    # Beyond the volume every channel repeats its own edge.
    outside = read_patch(StoredCase(tmp_path / f"large{SUFFIX}"), (-2, 0, 0), (3, 5, 6))
    np.testing.assert_array_equal(outside[:3], np.repeat(images[:, :1, :5, :6], 3, axis=1))


def test_a_network_that_loses_voxels_at_the_sides_is_given_them_around_the_same_patch(volumes):
    frame, form = table(), Form(3, (5, 3, 3), margin=(2, 1, 0))
    wide, plain = PatchReader(frame, volumes, 2, 0, form=form), reader(volumes)
    for step in range(11):
        batch = wide.batch(step)
        assert batch.shape == (2, 2, SIZE[0] + 4, SIZE[1] + 2, SIZE[2])
        np.testing.assert_array_equal(batch[:, :, 2:-2, 1:-1], plain.batch(step))


def test_volumes_are_kept_in_memory_only_where_they_fit(volumes, monkeypatch):
    fit = sum(2 * 4 * int(np.prod(shape)) for shape in SHAPES.values())
    boxes, box = [], StoredCase.box
    monkeypatch.setattr(StoredCase, "box", lambda *asked: boxes.append(asked) or box(*asked))
    read = []
    for most in (fit, fit - 1):
        monkeypatch.setattr(data, "KEPT_BYTES", most)
        boxes.clear()
        kept = reader(volumes)
        read.append([kept.batch(step) for step in range(10)])
        assert len(boxes) == (len(SHAPES) if most == fit else 20)
    np.testing.assert_array_equal(*read)


def test_the_cases_of_a_step_are_those_of_its_batch(volumes):
    reading = reader(volumes, batch_size=3)
    for step in range(8):
        # Every voxel of the second case is above 10,000.
        small = reading.batch(step)[:, 0].min(axis=(1, 2, 3)) >= 10_000
        assert reading.cases(step) == [("large", "small")[int(one)] for one in small]


def test_a_batch_depends_on_seed_and_step_alone(volumes):
    one, other = reader(volumes), reader(volumes)
    forward = [one.batch(step) for step in range(20)]
    backward = [other.batch(step) for step in reversed(range(20))][::-1]
    np.testing.assert_array_equal(forward, backward)
    assert not np.array_equal(forward, [reader(volumes, seed=1).batch(step) for step in range(20)])


def test_the_steps_read_ahead_are_those_asked_for_one_by_one(volumes):
    steps, batches = zip(*reader(volumes).batches(0, 9), strict=True)
    assert list(steps) == list(range(9))
    np.testing.assert_array_equal(batches, [reader(volumes).batch(step) for step in range(9)])


def test_reading_on_from_a_step_continues_the_run(volumes):
    whole = dict(reader(volumes).batches(0, 12))
    rest = dict(reader(volumes).batches(7, 12))
    assert list(rest) == [7, 8, 9, 10, 11]
    for step, batch in rest.items():
        np.testing.assert_array_equal(batch, whole[step])


def test_there_is_nothing_after_the_last_step(volumes):
    assert list(reader(volumes).batches(5, 5)) == []


def test_reading_can_be_left_off_early(volumes):
    batches = reader(volumes).batches(0, 1000)
    next(batches)
    batches.close()


@pytest.mark.parametrize("batch_size", [1, 2, 4, 25])
def test_every_row_is_read_once_an_epoch(volumes, batch_size):
    rows = 11
    frame = table(rows)
    reading = PatchReader(frame, volumes, batch_size, 0)
    expected = Counter(
        read_patch(StoredCase(volumes / f"{case}{SUFFIX}"), start(case, centre), SIZE).tobytes()
        for case, centre in zip(frame["case"], frame[list("zyx")].to_numpy().tolist(), strict=True)
    )
    read = [patch.tobytes() for step in range(3 * rows) for patch in reading.batch(step)]
    epochs = [read[first : first + rows] for first in range(0, 3 * rows, rows)]
    assert [Counter(epoch) for epoch in epochs] == [expected] * 3
    assert epochs[0] != epochs[1]


def drawn(weights, epochs=1, seed=0):
    return Counter(
        int(row)
        for epoch in range(epochs)
        for row in epoch_rows(np.array(weights, float), np.random.default_rng([seed, epoch]))
    )


def test_a_row_is_read_as_often_as_it_weighs(volumes):
    """Whatever the order in which steps are asked for, and whoever reads a part of them."""
    frame = table().assign(weight=[0.0, 3.0, *[1.0] * 9])
    reading = PatchReader(frame, volumes, 2, 0)
    epochs = 30
    # Eleven rows an epoch, two a step.
    read = [patch.tobytes() for step in range(11 * epochs // 2) for patch in reading.batch(step)]
    counts = Counter(read)
    weights = Counter()
    for row in frame.to_dict("records"):
        centre = [row[axis] for axis in "zyx"]
        box = read_patch(StoredCase(volumes / f"{row['case']}{SUFFIX}"), start(row["case"], centre), SIZE)
        # Some centres have the same box.
        weights[box.tobytes()] += row["weight"]
    assert sorted(weights.values())[0] == 0
    for box, weight in weights.items():
        assert counts[box] == pytest.approx(weight * epochs * 11 / 12, abs=epochs / 5)
    other, one, two = (PatchReader(frame, volumes, 2, 0, part=part) for part in (None, range(1), range(1, 2)))
    for step in (60, 5, 33):
        np.testing.assert_array_equal(other.batch(step), reading.batch(step))
        parts = np.concatenate([one.batch(step), two.batch(step)])
        np.testing.assert_array_equal(parts, reading.batch(step))


def test_each_row_comes_once_an_epoch_where_all_weigh_the_same():
    assert drawn([1.0] * 50) == dict.fromkeys(range(50), 1)
    # Of what an epoch was before there were weights.
    expected = np.random.default_rng([3, 4]).permutation(50)
    np.testing.assert_array_equal(epoch_rows(np.full(50, 2.0), np.random.default_rng([3, 4])), expected)


def test_a_row_comes_as_often_as_it_weighs():
    weights = np.random.default_rng(0).uniform(0, 3, 40)
    weights[7] = 0
    expected = weights / weights.mean()
    for epoch in range(20):
        once = drawn(weights, seed=epoch)
        assert once.total() == 40
        assert all(abs(once[row] - often) < 1 + 1e-9 for row, often in enumerate(expected))
        assert once[7] == 0
    many = drawn(weights, epochs=400)
    np.testing.assert_allclose([many[row] / 400 for row in range(40)], expected, atol=0.1)


def test_the_order_is_another_in_each_epoch_and_mixes_rows():
    weights = np.array([1.0] * 20 + [3.0] * 20)
    one, other = (epoch_rows(weights, np.random.default_rng([0, epoch])).tolist() for epoch in (0, 1))
    assert one != other
    assert one != sorted(one)


def test_nothing_is_unknown_where_everything_was_looked_for(volumes):
    reading = PatchReader(table(), volumes, 3, 0, ["liver", "tumour"])
    assert [reading.unknown(step) for step in range(5)] == [None] * 5


def test_what_nobody_looked_for_in_the_cases_of_a_step_is_told_with_its_batch(volumes):
    frame = table()
    frame["annotated"] = np.where(frame["case"] == "large", "tumour", "liver;tumour")
    reading = PatchReader(frame, volumes, 3, 0, ["liver", "tumour"])
    for step in range(8):
        # Every voxel of the second case is above 10,000.
        large = reading.batch(step)[:, 0].max(axis=(1, 2, 3)) < 10_000
        expected = [[False, bool(one), False] for one in large]
        assert reading.unknown(step).tolist() == expected


@pytest.mark.parametrize(
    ("annotated", "unknown"),
    [
        ("", [False, False, False, False]),
        ("liver", [False, False, True, True]),
        ("tumour;liver", [False, False, False, True]),
        ("liver_vessel", [False, True, True, True]),
    ],
)
def test_classes_that_are_not_among_the_annotated_are_unknown(annotated, unknown):
    assert unknown_classes(annotated, ["liver", "tumour", "vessel"]) == unknown


def start(case, centre):
    """Where a patch begins, by another way: the nearest place at which it fits, else in the middle."""
    found = []
    for c, edge, n in zip(centre, SIZE, SHAPES[case], strict=True):
        places = range(n - edge + 1) if n > edge else [-((edge - n) // 2)]
        found.append(min(places, key=lambda place: abs(place + edge // 2 - c)))
    return tuple(found)


def test_a_patch_equals_the_slice_of_its_volume(volumes):
    patch = read_patch(StoredCase(volumes / f"large{SUFFIX}"), (2, 3, 5), SIZE)
    np.testing.assert_array_equal(patch[0], image_of("large")[2:6, 3:9, 5:13])
    np.testing.assert_array_equal(patch[1], image_of("large")[2:6, 3:9, 5:13] % 7)


def test_a_patch_beyond_the_volume_repeats_its_edge(volumes):
    patch = read_patch(StoredCase(volumes / f"small{SUFFIX}"), (-1, 0, 14), (5, 6, 8))
    expected = np.pad(image_of("small")[:, :, 14:], ((1, 1), (0, 1), (0, 2)), mode="edge")
    np.testing.assert_array_equal(patch[0], expected)
    np.testing.assert_array_equal(patch[1], expected % 7)
