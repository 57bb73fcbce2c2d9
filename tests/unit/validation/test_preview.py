import nibabel
import numpy as np
import pytest

from pipeline.validation.preview import preview
from pipeline.volumes.case_files import CaseFiles, one_file_each

LABELS = {"liver": 3}
SHAPE = (12, 10, 8)


def save(path, array, spacing=(-1.0, -1.0, 2.0)):
    nibabel.save(nibabel.Nifti1Image(array, np.diag([*spacing, 1.0])), path)


@pytest.fixture
def files(tmp_path):
    """An image and its label map; the patient's left is at the first voxels of the canonical array."""
    image = np.zeros(SHAPE, np.int16)
    image[:6] = 100
    label = np.zeros(SHAPE, np.uint8)
    label[1:4, 2:5, 2:5] = 3
    save(tmp_path / "image.nii.gz", image)
    save(tmp_path / "label.nii.gz", label)
    return one_file_each("a", tmp_path / "image.nii.gz", tmp_path / "label.nii.gz")


def test_image_and_labels_are_shown_in_canonical_axes(tmp_path, files):
    seen = preview(tmp_path, files, LABELS)
    assert seen.image.shape == seen.label.shape == SHAPE[::-1]
    assert seen.spacing == (2.0, 1.0, 1.0)
    # The file's first axis runs to the left.
    assert (seen.image[:, :, 6:] == 100).all()
    assert set(np.unique(seen.label)) == {0, 3}


def test_a_label_map_that_ingest_refuses_is_shown_as_it_is(tmp_path, files):
    label = np.zeros(SHAPE, np.uint8)
    label[1:4, 2:5, 2:5] = 3
    label[8, 8, 7] = 9
    save(tmp_path / "label.nii.gz", label)
    seen = preview(tmp_path, files, LABELS)
    assert (seen.label == 3).sum() == 27
    assert set(np.unique(seen.label)) == {0, 3}
    save(tmp_path / "label.nii.gz", label, spacing=(-1.0, -1.0, 5.0))
    assert (preview(tmp_path, files, LABELS).label == 3).sum() == 27


def test_of_labels_of_another_shape_the_image_is_shown(tmp_path, files):
    save(tmp_path / "label.nii.gz", np.full((4, 4, 4), 3, np.uint8))
    seen = preview(tmp_path, files, LABELS)
    assert seen.image.max() == 100
    assert not seen.label.any()


def test_beside_a_damaged_label_map_the_image_is_shown(tmp_path, files):
    (tmp_path / "label.nii.gz").write_bytes(b"damaged")
    seen = preview(tmp_path, files, LABELS)
    assert seen.image.max() == 100
    assert not seen.label.any()


def test_what_can_be_read_of_a_damaged_case_is_shown(tmp_path, files):
    (tmp_path / "image.nii.gz").write_bytes(b"damaged")
    seen = preview(tmp_path, files, LABELS)
    assert not seen.image.any()
    assert (seen.label == 3).sum() == 27
    (tmp_path / "label.nii.gz").write_bytes(b"damaged")
    assert preview(tmp_path, files, LABELS) is None


def test_an_image_or_a_label_map_alone_is_shown(tmp_path, files):
    assert not preview(tmp_path, CaseFiles("a", "a", images=files.images), LABELS).label.any()
    assert preview(tmp_path, CaseFiles("a", "a", masks=files.masks), LABELS).label.any()
    assert preview(tmp_path, CaseFiles("a", "a"), LABELS) is None
