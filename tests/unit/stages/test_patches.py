from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from pipeline.atomic import write_json
from pipeline.errors import DataError
from pipeline.params import PatchesParams
from pipeline.stages import patches
from pipeline.volumes.store import write_case

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
    write_json(files["plans"], {"patch_size": [8, 16, 16]})
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
    assert (table["weight"] == 1.0).all()
    for axis, edge in zip("zyx", SHAPE, strict=True):
        assert table[axis].between(0, edge - 1).all()


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
    pd.testing.assert_frame_equal(others, before)


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
