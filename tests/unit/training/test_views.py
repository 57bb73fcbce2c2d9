import numpy as np
import pandas as pd
import pytest

from pipeline.errors import DataError
from pipeline.labels import UNKNOWN
from pipeline.sampling.boxes import patch_start
from pipeline.sampling.centres import grid_centres
from pipeline.training.data import PatchReader, ReadCase
from pipeline.training.views import Cropped, Within, WithMaps, judged, rows_within

SHAPE = (8, 9, 10)


@pytest.fixture
def volume():
    values = np.random.default_rng(0).random((3, *SHAPE)).astype(np.float32)
    values[-1] = values[-1] > 0.5
    return ReadCase(values)


@pytest.fixture
def region():
    given = np.zeros((1, *SHAPE), np.uint8)
    given[0, 2:6, 3:8, 1:9] = 1
    return given


def test_maps_come_behind_the_image(volume):
    maps = np.random.default_rng(1).integers(0, 256, (2, *SHAPE)).astype(np.uint8)
    view = WithMaps(volume, maps)
    box = view.box((1, 2, 3), (4, 6, 8))
    inside = np.s_[:, 1:4, 2:6, 3:8]
    np.testing.assert_array_equal(box[:2], volume.array[:2][inside])
    np.testing.assert_array_equal(box[2:4], maps[inside])
    np.testing.assert_array_equal(box[4:], volume.array[2:][inside])
    assert (view.channels, view.shape, view.image().shape[0]) == (4, SHAPE, 4)
    np.testing.assert_array_equal(view.label(), volume.label())
    np.testing.assert_array_equal(volume.label(), volume.array[2])


def test_outside_a_region_nobody_knows(volume, region):
    view = Within(volume, region)
    label = view.label()
    np.testing.assert_array_equal(label[region[0] > 0], volume.label()[region[0] > 0])
    assert (label[region[0] == 0] == UNKNOWN).all()
    np.testing.assert_array_equal(view.image(), volume.image())
    # The volume itself is as it was.
    assert volume.label().max() == 1


def test_a_crop_begins_at_its_box(volume, region):
    view = Cropped(volume, region)
    assert view.shape == (4, 5, 8)
    np.testing.assert_array_equal(view.box((0, 0, 0), view.shape), volume.array[:, 2:6, 3:8, 1:9])
    np.testing.assert_array_equal(view.box((1, 1, 1), (2, 3, 4)), volume.array[:, 3:4, 4:6, 2:5])


@pytest.mark.parametrize("view", [Within, Cropped])
def test_where_a_network_does_not_look_it_finds_nothing_of_the_whole_truth(volume, region, view):
    seen = view(volume, region)
    truth, found = judged(seen, np.ones(seen.shape, np.uint8))
    np.testing.assert_array_equal(truth, volume.label())
    np.testing.assert_array_equal(found, region[0])
    everywhere = np.ones(SHAPE, np.uint8)
    assert judged(volume, everywhere)[1] is judged(WithMaps(volume, region), everywhere)[1]


def table(centres, size=2, kind="foreground"):
    rows = [{"case": "one", "z": z, "y": y, "x": x} for z, y, x in centres]
    return pd.DataFrame(rows).assign(
        kind=kind, annotated="", weight=1.0, size_z=size, size_y=size, size_x=size
    )


CENTRES = [(3, 4, 2), (0, 0, 0), (5, 7, 8), (7, 4, 2)]


def test_centres_outside_are_left_out(region):
    kept = rows_within(table(CENTRES), {"one": region}, "region")
    assert kept[["z", "y", "x"]].to_numpy().tolist() == [[3, 4, 2], [5, 7, 8]]
    assert len(rows_within(table(CENTRES), {"one": region}, "maps")) == len(CENTRES)


@pytest.mark.parametrize("gives", ["region", "box"])
def test_a_region_without_a_patch_to_learn_from_is_told(region, gives):
    with pytest.raises(DataError, match=r"none of 2 patches .*: raise train\.before\.steps"):
        rows_within(table([(0, 0, 0), (7, 4, 2)]), {"one": region}, gives)


def test_a_patch_of_a_grid_that_is_larger_than_the_volume_reaches_in(region):
    corner = np.zeros((1, *SHAPE), np.uint8)
    corner[0, 0, 0, 0] = 1
    assert len(rows_within(table([(4, 4, 5)], size=20, kind="grid"), {"one": corner}, "region")) == 1
    # Its centre is out of the region, which a drawn patch's may not be.
    elsewhere = table([(7, 4, 2)], size=6)
    assert len(rows_within(elsewhere.assign(kind="grid"), {"one": region}, "region")) == 1
    with pytest.raises(DataError, match="none of 1 patches"):
        rows_within(elsewhere, {"one": region}, "region")


def test_centres_move_with_the_box(volume, region):
    kept = rows_within(table(CENTRES), {"one": region}, "box")
    assert kept[["z", "y", "x"]].to_numpy().tolist() == [[1, 1, 1], [3, 4, 7]]
    reader = PatchReader(kept, {"one": Cropped(volume, region)}, 1, 0)
    read = {reader.batch(step)[0].tobytes() for step in range(2)}
    expected = {volume.array[:, 2:4, 3:5, 1:3].tobytes(), volume.array[:, 4:6, 6:8, 7:9].tobytes()}
    assert read == expected


@pytest.mark.parametrize(("gives", "view"), [("region", Within), ("box", Cropped)])
def test_patches_of_a_grid_cover_all_that_a_network_looks_at(volume, gives, view):
    region = np.zeros((1, *SHAPE), np.uint8)
    # Between the centres of the grid.
    region[0, 3:5, 3:6, 3:7] = 1
    centres = [
        tuple(row[axis] for axis in "zyx") for row in grid_centres(np.zeros(SHAPE, np.uint8), (4,) * 3, 0)
    ]
    assert not any(region[0][centre] for centre in centres)
    kept = rows_within(table(centres, size=4, kind="grid"), {"one": region}, gives)
    covered = np.zeros(SHAPE, bool)
    seen = view(volume, region)
    first = seen.start if gives == "box" else (0, 0, 0)
    for centre in kept[["z", "y", "x"]].to_numpy():
        start = np.add(patch_start(tuple(centre), (4,) * 3, seen.shape), first)
        covered[tuple(slice(max(0, low), low + 4) for low in start)] = True
    assert covered[region[0] > 0].all()
