from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from pipeline.atomic import read_json, write_json
from pipeline.errors import ParamsError
from pipeline.params import Normalisation
from pipeline.volumes.annotation import Annotation
from pipeline.volumes.calibration import Offset
from pipeline.volumes.plan import (
    LEAST_BATCH,
    MOST_BATCH,
    MULTIPLES,
    PATCH_VOXELS,
    make_plan,
    planned_patch,
    planned_spacing,
    planned_voxels,
)
from pipeline.volumes.recipe import Recipe

LABELS = {"liver": 4, "spleen": 2}


def _table(cases: int = 3, **columns: object) -> pd.DataFrame:
    facts = {
        "shape_z": 40,
        "shape_y": 100,
        "shape_x": 90,
        "spacing_z": 3.0,
        "spacing_y": 1.0,
        "spacing_x": 1.0,
    }
    facts |= {"fg_mean": 50.0, "fg_square": 2600.0, "fg_low": -20.0, "fg_high": 120.0}
    facts |= {"ml_liver": 1500.0, "ml_spleen": 200.0}
    return pd.DataFrame({name: [value] * cases for name, value in facts.items()} | columns)


def _recipe(modality: str = "CT") -> Recipe:
    return Recipe(modality, LABELS, (3.0, 2.0, 2.0), Offset(-1024.0), rois={"liver": ["hepar*"]})


@pytest.mark.parametrize(
    ("spacings", "planned"),
    [
        ([(3.0, 1.0, 1.0)], (3.0, 1.0, 1.0)),
        ([(1.0, 1.0, 1.0), (5.0, 0.5, 0.7), (2.0, 0.8, 0.8)], (2.0, 0.8, 0.8)),
        ([(2.49, 0.9766, 0.9766)], (2.5, 1.0, 1.0)),
        ([(3.02, 0.774, 0.776)], (3.0, 0.75, 0.8)),
        ([(0.01, 0.02, 0.06)], (0.05, 0.05, 0.05)),
    ],
)
def test_the_planned_spacing_is_the_median_rounded(
    spacings: list[tuple[float, float, float]], planned: tuple[float, float, float]
) -> None:
    assert planned_spacing(spacings) == planned


def test_a_few_new_cases_do_not_move_the_spacing_by_a_hair() -> None:
    spacings = [(3.0, float(edge), float(edge)) for edge in np.linspace(0.79, 0.81, 21)]
    assert planned_spacing(spacings) == planned_spacing([*spacings, (3.0, 0.812, 0.812), (3.0, 0.815, 0.815)])


def multiple(edge: int) -> int:
    return next(multiple for least, multiple in MULTIPLES if edge >= least)


@pytest.mark.parametrize("voxels", [PATCH_VOXELS, planned_voxels(8)])
@pytest.mark.parametrize("seed", range(20))
def test_a_patch_can_be_halved_and_is_within_its_limit(seed: int, voxels: int) -> None:
    generator = np.random.default_rng(seed)
    z, y, x = (int(n) for n in generator.integers(1, 600, 3))
    a, b, c = (float(mm) for mm in generator.uniform(0.3, 6, 3))
    patch = planned_patch((z, y, x), (a, b, c), voxels)
    assert all(edge % multiple(edge) == 0 and edge >= multiple(1) for edge in patch)
    assert np.prod(patch) <= voxels
    assert all(edge < n + multiple(edge) for edge, n in zip(patch, (z, y, x), strict=True))


@pytest.mark.parametrize("shape", [(36, 50, 35), (128, 128, 128), (300, 512, 512), (20, 400, 400)])
@pytest.mark.parametrize("memory", [4, 8, 24])
def test_a_step_is_planned_to_fill_the_memory_of_a_gpu(shape: tuple[int, int, int], memory: float) -> None:
    facts = dict(zip(("shape_z", "shape_y", "shape_x"), shape, strict=True))
    table = _table(**facts, spacing_z=2.0, spacing_y=2.0, spacing_x=2.0)
    plan = make_plan(table, replace(_recipe(), spacing=(2.0, 2.0, 2.0)), memory_gb=memory)
    patch, batch = plan["patch_size"], plan["batch_size"]
    assert LEAST_BATCH <= batch <= MOST_BATCH
    assert batch * np.prod(patch) <= planned_voxels(memory)
    whole = all(edge >= n for edge, n in zip(patch, shape, strict=True))
    # Another patch would not fit, or there are as many as there should be, each of a whole case.
    assert (batch + 1) * np.prod(patch) > planned_voxels(memory) or (whole and batch == MOST_BATCH)
    assert f"{memory} GB" in plan["reasons"]["patch_size"]


def test_more_memory_gives_larger_patches() -> None:
    table = _table(shape_z=300, shape_y=512, shape_x=512)
    small, large = (make_plan(table, _recipe(), memory_gb=gb)["patch_size"] for gb in (4, 16))
    none = make_plan(table, _recipe())["patch_size"]
    assert np.prod(none) < np.prod(small) < np.prod(large)


def test_without_a_gpu_the_batch_is_left_to_the_training() -> None:
    assert make_plan(_table(), _recipe())["batch_size"] is None


def test_a_patch_covers_a_small_case() -> None:
    assert planned_patch((36, 50, 35), (1.0, 1.0, 1.0)) == (40, 56, 40)
    assert planned_patch((8, 16, 24), (1.0, 1.0, 1.0)) == (8, 16, 24)


def test_a_patch_of_a_large_case_is_nearly_cubic_in_millimetres() -> None:
    spacing = (3.0, 1.0, 1.0)
    patch = planned_patch((200, 512, 512), spacing)
    edges = np.array(patch) * spacing
    assert edges.max() - edges.min() <= 2 * multiple(1) * max(spacing)
    # One step more and it would not fit.
    assert np.prod([edge + multiple(edge) for edge in patch]) > PATCH_VOXELS


def test_a_thin_case_keeps_its_thin_edge() -> None:
    assert planned_patch((5, 512, 512), (10.0, 0.5, 0.5))[0] == multiple(1)


def test_the_plan_describes_the_cases_at_the_planned_spacing() -> None:
    plan = make_plan(_table(), _recipe())
    assert plan["fingerprint"] == {
        "cases": 3,
        "median_shape": [40, 50, 45],
        "median_ml": {"liver": 1500.0, "spleen": 200.0},
    }
    assert plan["labels"] == LABELS
    assert (plan["modality"], plan["spacing"]) == ("CT", [3.0, 2.0, 2.0])
    assert plan["recipe"] == asdict(_recipe())
    assert plan["patch_size"] == list(planned_patch((40, 50, 45), (3.0, 2.0, 2.0)))
    assert plan["reasons"].keys() == {
        "spacing",
        "patch_size",
        "batch_size",
        "interpolation",
        "normalisation",
        "offset",
    }


def test_a_label_that_nobody_looked_for_in_any_case_has_no_median(tmp_path: Path) -> None:
    plan = make_plan(_table(ml_spleen=None), _recipe())
    write_json(tmp_path / "plan.json", plan)
    assert plan["fingerprint"]["median_ml"] == {"liver": 1500.0, "spleen": None}


def test_the_recipe_comes_back_from_a_plan_on_disk(tmp_path: Path) -> None:
    recipe = replace(_recipe(), offset=Offset(-1000.0, "unsigned"), channels=2)
    write_json(tmp_path / "plan.json", make_plan(_table(), recipe))
    assert Recipe.of(read_json(tmp_path / "plan.json")) == recipe


@pytest.mark.parametrize(
    ("offset", "reason"),
    [
        (Offset(), "none is needed"),
        (Offset(-1024.0), "as params.yaml says"),
        (
            Offset(-1000.0, "unsigned"),
            "soft tissue lies near 45 HU with -1000 added where no value is negative",
        ),
    ],
)
def test_the_plan_says_why_an_offset_is_added(offset: Offset, reason: str) -> None:
    assert make_plan(_table(), replace(_recipe(), offset=offset))["reasons"]["offset"] == reason


def test_a_ct_is_normalised_by_its_labelled_voxels() -> None:
    table = _table(2, fg_mean=[40.0, 60.0], fg_square=[40.0**2 + 100, 60.0**2 + 300], fg_low=[-30.0, -10.0])
    normalisation = make_plan(table, _recipe())["normalisation"]
    # Variance within the cases, 200 on average, and between them, 100.
    assert normalisation == [
        {"image": 0, "clip": [-20.0, 120.0], "mean": 50.0, "std": pytest.approx(300**0.5)}
    ]


def test_cases_without_a_label_do_not_count_for_normalisation() -> None:
    table = pd.concat([_table(1), _table(1, fg_mean=[None], fg_square=[None], fg_low=[None], fg_high=[None])])
    assert make_plan(table, _recipe())["normalisation"] == make_plan(_table(1), _recipe())["normalisation"]


def test_a_ct_labelled_nowhere_still_has_a_plan() -> None:
    table = _table(2, fg_mean=[None, None])
    (normalisation,) = make_plan(table, _recipe())["normalisation"]
    low, high = normalisation["clip"]
    assert low < -20 < 120 < high, "HU are not clipped away"
    assert normalisation["std"] > 1


def test_a_ct_with_one_value_can_be_divided_by_its_deviation() -> None:
    assert make_plan(_table(1, fg_square=[2500.0]), _recipe())["normalisation"][0]["std"] == 1.0


def test_labels_of_one_value_leave_more_than_that_value_of_an_image() -> None:
    (normalisation,) = make_plan(_table(fg_low=3071.0, fg_high=3071.0), _recipe())["normalisation"]
    assert normalisation["clip"] == [-1000.0, 1000.0]


def test_what_lies_under_the_marks_of_slices_says_nothing_of_a_label() -> None:
    # A dot in the corner of each slice, in air.
    table = _table(fg_low=-1024.0, fg_high=-990.0)
    plan = make_plan(table, replace(_recipe(), annotation=Annotation("image")))
    assert [channel["clip"] for channel in plan["normalisation"]] == [[-1000.0, 1000.0]]
    assert "mark" in plan["reasons"]["normalisation"]


def test_an_mr_is_a_z_score_already() -> None:
    normalisation = make_plan(_table(), _recipe("MR"))["normalisation"]
    assert normalisation == [{"image": 0, "clip": [-5.0, 5.0], "mean": 0.0, "std": 1.0}]


def test_every_image_of_a_case_is_a_channel() -> None:
    recipe = replace(_recipe("MR"), channels=2)
    channels = make_plan(_table(), recipe)["normalisation"]
    assert [channel["image"] for channel in channels] == [0, 1]
    assert all(channel["clip"] == [-5.0, 5.0] for channel in channels)
    first, second = make_plan(_table(), replace(_recipe(), channels=2))["normalisation"]
    assert first == make_plan(_table(), _recipe())["normalisation"][0]
    # Of the second image nothing is measured.
    assert second == {"image": 1, "clip": [-1000.0, 1000.0], "mean": 0.0, "std": 500.0}


def test_windows_are_channels_scaled_to_one() -> None:
    windows = Normalisation(windows=((-160.0, 240.0), (-1000.0, 400.0)))
    channels = make_plan(_table(), _recipe(), windows)["normalisation"]
    assert channels == [
        {"image": 0, "clip": [-160.0, 240.0], "mean": 40.0, "std": 200.0},
        {"image": 0, "clip": [-1000.0, 400.0], "mean": -300.0, "std": 700.0},
    ]
    for channel in channels:
        ends = (np.array(channel["clip"]) - channel["mean"]) / channel["std"]
        assert ends.tolist() == [-1.0, 1.0]


def test_windows_of_several_images_are_channels_of_each() -> None:
    windows = Normalisation(windows=((-160.0, 240.0), (-1000.0, 400.0)))
    channels = make_plan(_table(), replace(_recipe(), channels=2), windows)["normalisation"]
    assert [channel["image"] for channel in channels] == [0, 0, 1, 1]
    assert [channel["clip"][0] for channel in channels] == [-160.0, -1000.0] * 2


def test_windows_of_hu_mean_nothing_to_an_mr() -> None:
    windows = Normalisation(windows=((-160.0, 240.0),))
    assert make_plan(_table(), _recipe("MR"), windows) == make_plan(_table(), _recipe("MR"))


@pytest.mark.parametrize("modality", ["CT", "MR"])
def test_channels_that_are_written_in_full_are_taken_as_they_are(modality: str) -> None:
    given = {"image": 0, "clip": [-50.0, 150.0], "mean": 40.0, "std": 25.0}
    wanted = Normalisation.model_validate({"channels": [given, given | {"mean": 0.0}]})
    assert make_plan(_table(), _recipe(modality), wanted)["normalisation"] == [given, given | {"mean": 0.0}]


def test_a_channel_of_an_image_that_is_not_there_is_refused() -> None:
    wanted = Normalisation.model_validate({"channels": [{"image": 1, "clip": [0, 1], "mean": 0, "std": 1}]})
    with pytest.raises(ParamsError, match=r"has image 1, but a case has 1"):
        make_plan(_table(), _recipe(), wanted)


@pytest.mark.parametrize("given", [{}, {"windows": []}, {"windows": [[0, 1]], "channels": []}])
def test_a_normalisation_has_windows_or_channels(given: dict[str, object]) -> None:
    if given.get("windows"):
        given = given | {"channels": [{"clip": [0, 1], "mean": 0, "std": 1}]}
    with pytest.raises(ValueError, match="windows or channels"):
        Normalisation.model_validate(given)


WINDOWS = Normalisation.model_validate({"windows": [[-160, 240]]})


@pytest.mark.parametrize(
    ("modality", "wanted", "reason"),
    [
        ("CT", "auto", "labelled voxels"),
        ("MR", "auto", "scaled by its own voxels"),
        ("CT", WINDOWS, "as params.yaml says"),
        ("MR", WINDOWS, "scaled by its own voxels"),
    ],
)
def test_the_plan_says_where_the_normalisation_comes_from(modality: str, wanted: object, reason: str) -> None:
    assert reason in make_plan(_table(), _recipe(modality), wanted)["reasons"]["normalisation"]
