import io
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from pipeline.errors import ParamsError
from pipeline.params import AugmentParams
from pipeline.stages.augment import COLUMNS, ENLARGED, run
from pipeline.workspace import stage_files

ORGAN = "liver"
POLICY = Path("data") / "augmentation" / f"{ORGAN}.json"
PREVIEW = Path("reports") / ORGAN / "preview.png"
PLAN = Path("data") / "plans" / f"{ORGAN}.json"
PATCHES = Path("data") / "patches" / f"{ORGAN}.parquet"
TILE = (8 + 2) * ENLARGED
"""Pixels of a patch of 8 voxels in a frame of one."""
OFF = {"affine_probability": 0, "elastic_probability": 0, "intensity_probability": 0}


@pytest.fixture
def augment(prepared):
    def stage(**params):
        run(ORGAN, AugmentParams(**params), **stage_files(prepared, "augment", ORGAN))

    return stage


def name_labels(*names):
    plan = json.loads(PLAN.read_text())
    PLAN.write_text(json.dumps(plan | {"labels": {name: 1 + place for place, name in enumerate(names)}}))


def tiles():
    """The picture as patches, (rows, columns, y, x, colours)."""
    picture = np.asarray(Image.open(io.BytesIO(PREVIEW.read_bytes())))
    rows, columns = picture.shape[0] // TILE, picture.shape[1] // TILE
    return picture.reshape(rows, TILE, columns, TILE, 3).swapaxes(1, 2)


def test_the_policy_is_written_down_resolved(augment):
    augment(rotation_degrees=7)
    policy = json.loads(POLICY.read_text())
    assert policy["spacing"] == [2.0, 1.0, 1.0]
    assert AugmentParams.model_validate(policy["params"]) == AugmentParams(rotation_degrees=7)


def test_the_same_data_and_parameters_give_the_same_bytes(augment):
    augment()
    first = POLICY.read_bytes(), PREVIEW.read_bytes()
    augment()
    assert (POLICY.read_bytes(), PREVIEW.read_bytes()) == first


def test_the_picture_has_a_row_a_case_and_begins_with_the_patch_as_it_is(augment):
    augment(affine_probability=1, intensity_probability=1)
    shown = tiles()
    assert shown.shape[:2] == (4, COLUMNS)
    for row in shown:
        assert all((tile != row[0]).any() for tile in row[1:])


def test_each_case_is_shown_once_however_often_it_is_learned_from(augment):
    augment(**OFF)
    alike = tiles()
    table = pd.read_parquet(PATCHES)
    table.loc[table["case"] == table["case"].iloc[0], "weight"] = 4.0
    table.to_parquet(PATCHES)
    augment(**OFF)
    np.testing.assert_array_equal(tiles(), alike)


def test_with_everything_off_the_patch_is_shown_alike_in_all_columns(augment):
    augment(**OFF)
    for row in tiles():
        assert all((tile == row[0]).all() for tile in row)


def test_a_case_without_foreground_is_shown_by_another_patch(augment):
    table = pd.read_parquet(PATCHES)
    table[table["kind"] != "foreground"].to_parquet(PATCHES)
    augment()
    assert tiles().shape[:2] == (4, COLUMNS)


@pytest.mark.parametrize(
    "name",
    [
        *("left_kidney", "kidney_left", "Right Kidney", "kidney-right", "left", "LEFT KIDNEY", "left2"),
        *("LeftKidney", "kidneyLeft", "Kidney_L", "parotid_r", "RKidney", "LNodes_L", "Lung Lt", "rt lung"),
    ],
)
def test_left_and_right_are_not_mirrored_into_each_other(augment, name):
    name_labels("liver", name)
    POLICY.unlink()
    with pytest.raises(ParamsError, match=rf"mirror_axes has x, but {name} would.*remove x"):
        augment(mirror_axes=("y", "x"))
    assert not POLICY.exists()


def test_other_axes_may_be_mirrored_in_spite_of_sides(augment):
    name_labels("left_kidney", "right_kidney")
    augment(mirror_axes=("z", "y"))
    assert json.loads(POLICY.read_text())["params"]["mirror_axes"] == ["z", "y"]


def test_a_side_within_a_word_is_none(augment):
    name_labels(
        "bright_spot", "cleft", "vertebra_L1", "LV", "für_alle", "Öl", "LNodes", "LNode_neck", "neck_LNodes"
    )
    augment(mirror_axes=("x",))
    assert POLICY.exists()
