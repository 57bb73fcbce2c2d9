from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from pipeline.atomic import write_json
from pipeline.errors import DataError, MissingError, ParamsError
from pipeline.params import PatchesParams
from pipeline.registry.artifacts import content_of
from pipeline.sampling.supervoxels import supervoxels
from pipeline.stages import patches
from pipeline.volumes.store import StoredCase, read_case, write_case

SHAPE = (20, 30, 40)


def _prepare(root: Path, cases: list[str]) -> dict[str, Path]:
    """Volumes of all cases, every third kept back for the test; and what the stage is called with."""
    files = {
        "accepted": root / "accepted.parquet",
        "plans": root / "plan.json",
        "volumes": root / "volumes",
        "patches": root / "patches.parquet",
    }
    for number, case in enumerate(cases):
        generator = np.random.default_rng(number)
        label = np.zeros(SHAPE, np.uint8)
        z, y, x = generator.integers(1, 12, 3)
        label[z : z + 6, y : y + 6, x : x + 6] = 1
        label[z : z + 2, y : y + 2, x : x + 2] = 2
        write_case(
            files["volumes"] / f"{case}.b2nd", generator.normal(size=SHAPE).astype(np.float32), label, {}
        )
    splits = ["test" if number % 3 == 2 else "train" for number in range(len(cases))]
    folds = [-1 if split == "test" else number % 2 for number, split in enumerate(splits)]
    keys = [f"key of {case}" for case in cases]
    table = pd.DataFrame({"case": cases, "key": keys, "split": splits, "fold": folds})
    table["annotated"] = ["first" if case == "b" else "" for case in cases]
    table.to_parquet(files["accepted"], index=False)
    plan = {"patch_size": [8, 16, 16], "labels": {"second": 9, "first": 4}, "spacing": [2.0, 1.0, 1.0]}
    write_json(files["plans"], plan)
    return files


def _run(files: dict[str, Path], **params: Any) -> pd.DataFrame:
    patches.run("spleen", PatchesParams(**params), **files)
    return pd.read_parquet(files["patches"])


def test_every_case_to_learn_from_gives_its_patches_and_a_test_case_none(tmp_path: Path) -> None:
    table = _run(_prepare(tmp_path, list("abcdef")), per_case=12)
    assert dict(table["case"].value_counts()) == dict.fromkeys("abde", 12)
    assert set(table.loc[table["case"] == "e", "fold"]) == {0}
    assert set(table.loc[table["case"] == "b", "fold"]) == {1}
    assert set(table.loc[table["case"] == "d", "key"]) == {"key of d"}
    assert set(table.loc[table["case"] == "b", "annotated"]) == {"first"}
    assert set(table.loc[table["case"] == "d", "annotated"]) == {""}


def test_a_row_tells_all_that_its_readers_need(tmp_path: Path) -> None:
    table = _run(_prepare(tmp_path, ["a"]), per_case=12)
    kinds = {name: str(dtype) for name, dtype in table.dtypes.items()}
    whole = {"fold", "class", "z", "y", "x", "size_z", "size_y", "size_x"}
    assert {name for name, kind in kinds.items() if kind == "int64"} == whole
    assert kinds.keys() - whole == {"case", "key", "annotated", "kind", "weight"}
    for axis, edge in zip("zyx", SHAPE, strict=True):
        assert table[axis].between(0, edge - 1).all()


def test_a_label_that_few_cases_have_comes_as_often_as_the_others(tmp_path: Path) -> None:
    files = _prepare(tmp_path, list("abdegh"))
    for case in "abde":
        # In their label maps, "second" is class 2.
        stored = StoredCase(files["volumes"] / f"{case}.b2nd")
        label = stored.label()
        label[label == 2] = 1
        write_case(files["volumes"] / f"{case}.b2nd", stored.image(), label, {})
    table = _run(files, per_case=12)
    centred = table[table["kind"] == "foreground"].groupby("class")["weight"]
    assert centred.count()[1] > 2 * centred.count()[2]
    assert centred.sum()[1] == pytest.approx(centred.sum()[2])
    assert (table.loc[table["kind"] != "foreground", "weight"] == 1.0).all()
    assert (_run(files, mode="grid")["weight"] == 1.0).all()


def test_the_size_is_the_planned_one_unless_params_say_another(tmp_path: Path) -> None:
    files = _prepare(tmp_path, ["a"])
    sizes = ["size_z", "size_y", "size_x"]
    assert _run(files)[sizes].drop_duplicates().values.tolist() == [[8, 16, 16]]
    assert _run(files, size=(4, 8, 24))[sizes].drop_duplicates().values.tolist() == [[4, 8, 24]]


def test_the_same_data_give_the_same_bytes(tmp_path: Path) -> None:
    files = _prepare(tmp_path, list("abcd"))
    _run(files)
    before = files["patches"].read_bytes()
    _run(files)
    assert files["patches"].read_bytes() == before


def test_another_seed_draws_other_patches(tmp_path: Path) -> None:
    files = _prepare(tmp_path, ["a"])
    assert not _run(files, seed=1).equals(_run(files, seed=2))


def test_a_new_case_leaves_the_patches_of_the_others_as_they_are(tmp_path: Path) -> None:
    files = _prepare(tmp_path, list("bcdefg"))
    before = _run(files)
    accepted = pd.read_parquet(files["accepted"])
    new = pd.DataFrame({"case": ["a"], "key": ["k"], "split": ["train"], "fold": [0]})
    write_case(files["volumes"] / "a.b2nd", np.zeros(SHAPE, np.float32), np.ones(SHAPE, np.uint8), {})
    pd.concat([new, accepted]).to_parquet(files["accepted"], index=False)
    after = _run(files)
    assert (after["case"] == "a").any()
    others = after[after["case"] != "a"].reset_index(drop=True)
    # What they weigh depends on how many patches of a label there are.
    pd.testing.assert_frame_equal(others.drop(columns="weight"), before.drop(columns="weight"))


def test_two_cases_of_one_label_map_have_patches_of_their_own(tmp_path: Path) -> None:
    files = _prepare(tmp_path, ["a", "b"])
    (files["volumes"] / "b.b2nd").write_bytes((files["volumes"] / "a.b2nd").read_bytes())
    table = _run(files)
    places = [table.loc[table["case"] == case, ["z", "y", "x"]].values.tolist() for case in "ab"]
    assert places[0] != places[1]


def test_a_missing_volume_is_named_with_the_stage_that_makes_it(tmp_path: Path) -> None:
    files = _prepare(tmp_path, ["a", "b"])
    (files["volumes"] / "b.b2nd").unlink()
    with pytest.raises(DataError, match=r"b\.b2nd .*dvc repro ingest@volumes"):
        _run(files)
    assert not files["patches"].exists()


def test_a_grid_covers_each_case_whatever_it_asks_for_a_case(tmp_path: Path) -> None:
    table = _run(_prepare(tmp_path, ["a", "b"]), mode="grid", per_case=3)
    assert set(table["kind"]) == {"grid"}
    assert dict(table["case"].value_counts()) == {"a": 4 * 3 * 4, "b": 4 * 3 * 4}
    for axis, edge in zip("zyx", SHAPE, strict=True):
        half = table[f"size_{axis}"] // 2
        assert (table[axis] - half).min() == 0
        assert (table[axis] + half).max() == edge


def test_the_balance_is_by_the_names_of_labels_in_the_order_of_their_values(tmp_path: Path) -> None:
    files = _prepare(tmp_path, ["a"])
    shares = {"foreground": 1.0, "negative": 0.0, "background": 0.0}
    # The classes are 1 (first, value 4) and 2 (second, value 9).
    table = _run(files, per_case=40, shares=shares, balance={"first": 3, "second": 1})
    assert dict(table["class"].value_counts()) == {1: 30, 2: 10}
    with pytest.raises(ParamsError, match=r"patches\.balance has 'third', which is no label"):
        _run(files, balance={"third": 1})


HARD = {"foreground": 0.4, "negative": 0.0, "background": 0.2, "hard": 0.4}


def test_hard_negatives_have_the_intensity_that_was_asked_for_inside_the_mask(tmp_path: Path) -> None:
    files = _prepare(tmp_path, ["a"])
    stored = read_case(files["volumes"] / "a.b2nd")
    image = np.full(SHAPE, -800, np.float32)
    image[12:15] = 450
    image[15:18] = 550
    write_case(files["volumes"] / "a.b2nd", image, stored.label, {})
    table = _run(files, per_case=50, shares=HARD, hard_negatives={"range": (400, 500)})
    hard = table[table["kind"] == "hard"]
    assert len(hard) == 20
    assert hard["z"].between(12, 14).all()
    assert (stored.label[hard["z"], hard["y"], hard["x"]] == 0).all()
    # Inside of an organ, what is no nodule: the first label stands for the lung.
    image[stored.label == 1] = 420
    write_case(files["volumes"] / "a.b2nd", image, stored.label, {})
    within = {"range": (400, 500), "within": ["first"]}
    table = _run(files, per_case=50, shares=HARD, hard_negatives=within)
    hard = table[table["kind"] == "hard"]
    assert len(hard) == 20
    assert (stored.label[hard["z"], hard["y"], hard["x"]] == 1).all()
    assert (hard["class"] == 1).all()


def test_without_a_range_it_is_that_of_the_organ(tmp_path: Path) -> None:
    files = _prepare(tmp_path, ["a"])
    label = read_case(files["volumes"] / "a.b2nd").label
    image = np.where(label > 0, 60, -500).astype(np.float32)
    image[:, 25:] = 60
    write_case(files["volumes"] / "a.b2nd", image, label, {})
    table = _run(files, per_case=50, shares=HARD)
    hard = table[table["kind"] == "hard"]
    assert len(hard) == 20
    assert (hard["y"] >= 25).all()


@pytest.fixture
def mined(tmp_path: Path, save_model: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Cases with muscle of 110 HU that a model will take for the first label; the model is to be named."""
    home = tmp_path / "home"
    monkeypatch.setenv("HOUNSFIELD_HOME", str(home))
    (tmp_path / "params.yaml").write_text("{}")
    (tmp_path / "dvc.yaml").write_text("{}")
    monkeypatch.chdir(tmp_path)
    files = _prepare(tmp_path, ["a", "b"])
    for case in "ab":
        label = read_case(files["volumes"] / f"{case}.b2nd").label
        image = np.full(SHAPE, -1000, np.float32)
        image[label == 1] = 100
        image[label == 2] = 300
        image[17:19, 25:28, 30:35] = 110
        write_case(files["volumes"] / f"{case}.b2nd", image, label, {})

    def named(**model: Any) -> tuple[dict[str, Path], dict[str, str]]:
        given: dict[str, Any] = {"labels": {"first": 4, "second": 9}, "intensities": (-1000, 100, 300)}
        folder = save_model(tmp_path / "m", **given | {"spacing": (2.0, 1.0, 1.0)} | model)
        content = content_of(folder)
        (home / "champions").mkdir(parents=True, exist_ok=True)
        folder.rename(home / "champions" / content)
        return files, {"of": "model", "model": content}

    return named


def _hard(files: dict[str, Path], asked: dict[str, Any], case: str = "a") -> list[float]:
    """Intensities of the hard centres of a case."""
    table = _run(files, per_case=50, shares=HARD, hard_negatives=asked)
    hard = table[(table["kind"] == "hard") & (table["case"] == case)]
    image = read_case(files["volumes"] / f"{case}.b2nd").image[0]
    return [float(one) for one in image[hard["z"], hard["y"], hard["x"]]]


def test_hard_negatives_may_be_what_a_registered_model_got_wrong(mined: Any, tmp_path: Path) -> None:
    files, asked = mined()
    assert _hard(files, asked) == [110.0] * 20
    (tmp_path / "home" / "champions" / asked["model"] / "config.json").write_text("{}")
    with pytest.raises(MissingError, match="hounsfield hard-negatives ORGAN"):
        _run(files, shares=HARD, hard_negatives=asked)


def test_where_nobody_looked_for_a_label_no_model_is_wrong_about_it(mined: Any) -> None:
    files, asked = mined()
    accepted = pd.read_parquet(files["accepted"])
    accepted.assign(annotated=["", "second"]).to_parquet(files["accepted"], index=False)
    assert _hard(files, asked, "a") == [110.0] * 20
    assert _hard(files, asked, "b") == []


def test_a_model_of_other_labels_is_wrong_where_it_is_by_their_names(mined: Any) -> None:
    # The model knew a third label, and the first one came after it.
    labels = {"gone": 2, "first": 4, "second": 9}
    files, asked = mined(labels=labels, intensities=(-1000, -5000, 100, 300))
    assert _hard(files, asked | {"within": ["first", "second"]}) == []
    assert _hard(files, asked) == [110.0] * 20


def test_a_model_of_other_images_is_refused(mined: Any) -> None:
    files, asked = mined(channels=2)
    with pytest.raises(ParamsError, match="a model of 2 images a case, but a case has 1: set patches"):
        _run(files, shares=HARD, hard_negatives=asked)


def test_a_model_has_to_be_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="hounsfield hard-negatives ORGAN"):
        PatchesParams(hard_negatives={"of": "model"})


def test_centres_may_be_drawn_by_supervoxels(tmp_path: Path) -> None:
    files = _prepare(tmp_path, ["a"])
    label = read_case(files["volumes"] / "a.b2nd").label
    image = (label * 100).astype(np.float32)
    write_case(files["volumes"] / "a.b2nd", image, label, {})
    shares = {"foreground": 0.0, "negative": 0.0, "background": 1.0}
    table = _run(files, per_case=60, shares=shares, supervoxels=4)
    regions = supervoxels(image, (2.0, 1.0, 1.0), 4)
    drawn = regions[table["z"], table["y"], table["x"]]
    assert len(set(drawn)) == 60
