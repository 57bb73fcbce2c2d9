import pytest

from pipeline.errors import DataError
from pipeline.sources.keys import Prefix, S3Object, as_files, parse_url

PREFIX = Prefix("bucket", "scans/")


def listed(*names, size=1):
    return [S3Object(name, "etag", size, None) for name in names]


@pytest.mark.parametrize(
    ("name", "fault"),
    {
        "../a.nii": "a part '.' or '..'",
        "a/../../b.nii": "a part '.' or '..'",
        "./a.nii": "a part '.' or '..'",
        "..": "a part '.' or '..'",
        "/etc/passwd": "begins or ends with '/'",
        "a//b.nii": "an empty part",
        "full/": "begins or ends with '/'",
        "a\\b.nii": "a backslash",
        "C:\\a.nii": "a backslash",
        "a\nb.nii": "a control character",
        "a\x00.nii": "a control character",
        "a\x7f.nii": "a control character",
        "x" * 231: "a part of more than 230 bytes",
    }.items(),
)
def test_names_that_cannot_be_files_are_refused_by_name(name, fault):
    with pytest.raises(DataError) as caught:
        as_files(PREFIX, listed("good.nii", name))
    assert f"{name!a}" in str(caught.value)
    assert fault in str(caught.value)
    assert "good.nii" not in str(caught.value)


@pytest.mark.parametrize(
    "names",
    [
        ("a.nii", "A.nii"),
        ("caf\u00e9.nii", "cafe\u0301.nii"),
        ("Images/a.nii", "images/A.nii"),
        ("a", "a/b.nii"),
        ("A", "a/b.nii"),
    ],
)
def test_two_names_that_would_be_one_file_are_refused(names):
    with pytest.raises(DataError, match=r"differ in case or accents alone|is a file and a folder"):
        as_files(PREFIX, listed(*names))


def test_many_wrong_names_are_counted():
    with pytest.raises(DataError, match=r"'a//2' .* \(and 7 more\): rename or remove"):
        as_files(PREFIX, listed(*(f"a//{i}" for i in range(10))))


def test_markers_of_folders_and_hidden_objects_are_skipped_and_empty_files_are_files():
    markers = listed("", "a/", "a/b/", "a", "b_$folder$", size=0)
    hidden = listed(".DS_Store", "a/._b.nii", ".git/config")
    objects = [*listed("a/b.nii"), *listed("a/empty.nii", size=0), *markers, *hidden]
    files, skipped = as_files(PREFIX, objects)
    assert list(files) == ["a/b.nii", "a/empty.nii"]
    assert skipped == len(markers) + len(hidden)


@pytest.mark.parametrize(
    ("url", "bucket", "folder"),
    [
        ("s3://b-1.x/scans", "b-1.x", "scans/"),
        ("s3://bucket/a/b/", "bucket", "a/b/"),
        ("s3://bucket", "bucket", ""),
        ("s3://bucket/", "bucket", ""),
    ],
)
def test_a_prefix_is_written_in_one_way(url, bucket, folder):
    prefix = parse_url(url)
    assert prefix == Prefix(bucket, folder)
    assert parse_url(prefix.url) == prefix
