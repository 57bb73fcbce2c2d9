import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pipeline.errors import DataError

PROJECT = Path(__file__).parents[3]
FAULTS = {"500": 0.06, "503": 0.04, "reset": 0.06, "reset in the body": 0.08, "truncated": 0.1}


def test_200_objects_arrive_whole_through_a_network_that_breaks(bucket, network, sync):
    expected = sync.contents(0, 200)
    bucket.put(expected)
    network.break_at_random(seed=1, shares=FAULTS)
    summary = sync()
    assert all(network.faults[kind] >= 5 for kind in FAULTS), network.faults
    assert sync.files() == expected
    assert (summary.fetched, summary.unchanged, summary.removed) == (200, 0, 0)
    assert summary.fetched_bytes == sum(map(len, expected.values()))
    written = sync.record.read_bytes()

    network.gets.clear()
    again = sync()
    assert network.objects == {}
    assert (again.fetched, again.unchanged, again.fetched_bytes) == (0, 200, 0)
    assert sync.record.read_bytes() == written


def test_the_manifest_says_what_is_where_and_nothing_else(bucket, sync):
    bucket.put({"scans/b.nii": b"hello", "scans/a.nii": b""})
    sync("scans/")
    assert sync.record.read_text() == (
        "{\n"
        '  "objects": {\n'
        '    "a.nii": {\n'
        '      "etag": "d41d8cd98f00b204e9800998ecf8427e",\n'
        '      "size": 0,\n'
        '      "version_id": null\n'
        "    },\n"
        '    "b.nii": {\n'
        '      "etag": "5d41402abc4b2a76b9719d911017c592",\n'
        '      "size": 5,\n'
        '      "version_id": null\n'
        "    }\n"
        "  },\n"
        f'  "url": "s3://{bucket.name}/scans"\n'
        "}\n"
    )


def test_what_is_changed_new_gone_or_damaged_is_all_that_moves(bucket, network, sync):
    expected = sync.contents(2, 12) | {"scans/alone/c.nii": b"alone"}
    bucket.put(expected)
    sync()
    (sync.target / "note.txt").write_bytes(b"by somebody else")
    (sync.target / "imagesTr/001.nii.gz").unlink()
    (sync.target / "imagesTr/002.nii.gz").write_bytes(b"cut off")
    changed = {"scans/imagesTr/003.nii.gz": b"changed", "scans/imagesTr/new.nii.gz": b"new"}
    bucket.put(changed)
    bucket.remove("scans/alone/c.nii")
    network.gets.clear()
    summary = sync()
    assert network.objects == dict.fromkeys(
        [*changed, "scans/imagesTr/001.nii.gz", "scans/imagesTr/002.nii.gz"], 1
    )
    assert (summary.fetched, summary.removed, summary.unchanged) == (4, 1, 9)
    expected |= changed | {"scans/note.txt": b"by somebody else"}
    del expected["scans/alone/c.nii"]
    assert sync.files() == expected
    assert not (sync.target / "alone").exists()


def test_a_prefix_is_a_folder_not_a_beginning(bucket, sync):
    bucket.put({"scans/a.nii": b"a", "scans_old/b.nii": b"b"})
    assert sync("scans").fetched == 1
    assert sync.files() == {"scans/a.nii": b"a"}


KILLED = """
import sys
from pathlib import Path
from pipeline.sources import sync_prefix
sync_prefix(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]))
"""


def test_killed_in_the_middle_it_leaves_whole_files_and_the_next_goes_on(bucket, network, sync):
    expected = sync.contents(3, 60)
    bucket.put(expected)
    held = "scans/imagesTr/020.nii.gz"
    network.fault = lambda key, nth: "held" if key == held and nth == 0 else ""
    paths = [str(sync.target), str(sync.record)]
    running = subprocess.Popen([sys.executable, "-c", KILLED, bucket.url("scans"), *paths], cwd=PROJECT)
    try:
        assert network.reached.wait(60)
        # Half of it was sent; the client may not have begun to write it.
        while not list(sync.target.glob("imagesTr/.*.partial.020.nii.gz")):
            assert running.poll() is None
            time.sleep(0.01)
    finally:
        running.kill()
        running.wait()
    network.released.set()
    left = {key: content for key, content in sync.files().items() if ".partial." not in key}
    assert left
    assert held not in left
    assert left.items() <= expected.items()

    network.fault = lambda key, nth: ""
    network.gets.clear()
    summary = sync()
    assert sync.files() == expected
    assert network.objects == dict.fromkeys(expected.keys() - left.keys(), 1)
    assert summary.fetched == len(expected) - len(left)
    assert all(entry["etag"] for entry in sync.manifest()["objects"].values())


def test_a_file_that_was_on_its_way_when_its_object_went_does_not_stay(bucket, network, sync):
    bucket.put({f"scans/{i}.nii": b"before" for i in range(5)})
    sync()
    bucket.put({"scans/0.nii": b"after"})
    network.fault = lambda key, nth: "403" if key == "scans/0.nii" else ""
    with pytest.raises(DataError, match="1 of 1 objects"):
        sync()
    bucket.remove("scans/0.nii")
    assert sync().removed == 1
    assert "scans/0.nii" not in sync.files()


def test_the_manifest_never_vouches_for_a_file_that_is_about_to_change(bucket, network, sync):
    bucket.put({"scans/a.nii": b"before", "scans/b.nii": b"b"})
    sync()
    before = sync.manifest()["objects"]
    bucket.put({"scans/a.nii": b"after!"})
    seen = []
    network.fault = lambda key, nth: seen.append(sync.manifest()["objects"]) or "" if key else ""
    sync()
    assert seen == [before | {"a.nii": {"etag": "", "size": 6, "version_id": None}}]
    assert sync.manifest()["objects"].keys() == before.keys()
    assert sync.manifest()["objects"]["a.nii"]["etag"] not in ("", before["a.nii"]["etag"])


def test_a_new_version_counts_where_the_etag_is_no_hash_of_the_content(bucket, network, sync):
    enabled = {"Status": "Enabled"}
    bucket.client.put_bucket_versioning(Bucket=bucket.name, VersioningConfiguration=enabled)
    bucket.put({"scans/a.nii": b"a", "scans/gone.nii": b"gone", "scans/c.nii": b"c"})
    bucket.put_in_parts("scans/b.nii", b"b")
    bucket.remove("scans/gone.nii")
    assert sync().fetched == 3
    first = sync.manifest()["objects"]
    bucket.put({"scans/a.nii": b"a"})
    bucket.put_in_parts("scans/b.nii", b"b")
    network.gets.clear()
    sync()
    assert network.objects == {"scans/b.nii": 1}
    second = sync.manifest()["objects"]
    latest = {
        entry["Key"].removeprefix("scans/"): entry["VersionId"]
        for entry in bucket.client.list_object_versions(Bucket=bucket.name)["Versions"]
        if entry["IsLatest"]
    }
    assert {name: entry["version_id"] for name, entry in second.items()} == latest
    assert {name for name in first if first[name] != second[name]} == {"a.nii", "b.nii"}
    network.gets.clear()
    assert sync().fetched == 0


def test_files_that_are_there_already_are_known_by_their_content(bucket, network, sync):
    expected = sync.contents(4, 8)
    bucket.put(expected)
    sync()
    sync.record.unlink()
    (sync.target / "imagesTr/001.nii.gz").write_bytes(b"x" * len(expected["scans/imagesTr/001.nii.gz"]))
    network.gets.clear()
    sync()
    assert network.objects == {"scans/imagesTr/001.nii.gz": 1}
    assert sync.files() == expected


def test_a_listing_that_would_remove_too_much_is_refused(bucket, sync):
    expected = {f"scans/{i}.nii": b"%d" % i for i in range(5)}
    bucket.put(expected)
    with pytest.raises(DataError, match="holds no scans: see that bucket and prefix are right"):
        sync("scan", allow_removal=True)
    sync()
    bucket.remove(*list(expected)[:3])
    with pytest.raises(DataError, match=r"3 of the 5 files .* are no longer in .*--allow-removal"):
        sync()
    assert sync.files() == expected
    assert sync(allow_removal=True).removed == 3
    bucket.remove(*expected)
    with pytest.raises(DataError, match="holds no scans"):
        sync()
    assert len(sync.files()) == 2
    assert sync(allow_removal=True).removed == 2
    assert sync.files() == {}


def test_names_that_lead_out_of_the_folder_are_refused_before_anything_is_fetched(bucket, network, sync):
    bucket.put({"scans/good.nii": b"good", "scans/a\\..\\..\\evil.nii": b"evil"})
    with pytest.raises(DataError, match=r"has a backslash.*nothing was fetched"):
        sync()
    assert network.objects == {}
    assert not sync.target.exists()


def test_a_link_in_the_folder_leads_nothing_out_of_it(bucket, sync, tmp_path):
    bucket.put({"scans/inside/a.nii": b"a", "scans/b.nii": b"b"})
    (tmp_path / "outside").mkdir()
    sync.target.mkdir()
    (sync.target / "inside").symlink_to(tmp_path / "outside")
    with pytest.raises(DataError, match="is a link that leads out"):
        sync()
    assert list((tmp_path / "outside").iterdir()) == []
    assert (sync.target / "b.nii").read_bytes() == b"b"


def test_a_manifest_that_names_a_file_elsewhere_is_refused(bucket, sync, tmp_path):
    bucket.put({"scans/a.nii": b"a"})
    sync()
    (tmp_path / "precious").write_bytes(b"precious")
    entry = {"etag": "e", "size": 8, "version_id": None}
    content = sync.manifest()
    content["objects"]["../precious"] = entry
    sync.record.write_text(json.dumps(content))
    with pytest.raises(DataError, match=r"has a part '\.' or '\.\.'.*git checkout target\.s3\.json"):
        sync(allow_removal=True)
    assert (tmp_path / "precious").exists()
