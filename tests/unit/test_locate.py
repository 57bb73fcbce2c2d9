from pathlib import Path

import pytest

from pipeline.errors import MissingError
from pipeline.locate import files_of

PARAMS = """
defaults: {}
organs:
  liver:
    ingest: {modality: CT, labels: {liver: 1}}
    validate: {}
    patches: {}
    augment: {}
    train: {}
    evaluate: {}
    register: {}
"""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "params.yaml").write_text(PARAMS)
    (tmp_path / "dvc.yaml").write_bytes((Path(__file__).parents[2] / "dvc.yaml").read_bytes())
    for name in ("imagesTr/a.nii.gz", "labelsTr/a.nii.gz", "imagesTr/b.nii.gz"):
        path = tmp_path / "data/raw/liver" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return tmp_path


def test_a_case_is_traced_to_its_files_images_first(root: Path) -> None:
    assert [str(path) for path in files_of(root, "liver", "a")] == [
        "data/raw/liver/imagesTr/a.nii.gz",
        "data/raw/liver/labelsTr/a.nii.gz",
    ]
    assert len(files_of(root, "liver", "b")) == 1


def test_a_case_nobody_has_is_told_with_the_nearest(root: Path) -> None:
    with pytest.raises(MissingError, match="no case 'aa': did you mean 'a'"):
        files_of(root, "liver", "aa")
