from pathlib import Path

import pytest

from pipeline.errors import DataError, MissingError
from pipeline.sources import bucket as of_buckets
from pipeline.sources import sync_prefix


@pytest.mark.parametrize("fault", ["flipped", "short", "truncated"])
def test_a_broken_body_is_never_taken_for_a_file(bucket, network, sync, fault):
    bucket.put({"scans/a.nii": b"0123456789", "scans/b.nii": b"whole"})
    network.fault = lambda key, nth: fault if key == "scans/a.nii" else ""
    with pytest.raises(DataError, match=r"1 of 2 objects .* first a\.nii did not arrive whole in 3 attempts"):
        sync(attempts=3)
    assert network.objects == {"scans/a.nii": 3, "scans/b.nii": 1}
    assert sync.files() == {"scans/b.nii": b"whole"}
    network.fault = lambda key, nth: ""
    assert sync().fetched == 1
    assert sync.files() == {"scans/a.nii": b"0123456789", "scans/b.nii": b"whole"}


def test_an_object_uploaded_in_parts_is_checked_by_its_length(bucket, network, sync):
    bucket.put_in_parts("scans/a.nii", b"0123456789")
    network.fault = lambda key, nth: "short" if key and nth < 2 else ""
    sync()
    assert network.objects == {"scans/a.nii": 3}
    assert sync.files() == {"scans/a.nii": b"0123456789"}
    assert sync.manifest()["objects"]["a.nii"]["etag"].endswith("-1")


def test_the_etag_of_an_object_encrypted_by_kms_is_not_taken_for_its_md5(bucket, network, sync):
    where = {"Bucket": bucket.name, "Key": "scans/a.nii", "Body": b"hello"}
    bucket.client.put_object(**where)
    network.etags = {"5d41402abc4b2a76b9719d911017c592": "0" * 32}
    with pytest.raises(DataError, match="MD5"):
        sync(attempts=1)
    bucket.client.put_object(**where, ServerSideEncryption="aws:kms")
    sync(attempts=1)
    assert sync.files() == {"scans/a.nii": b"hello"}


def test_an_object_that_changes_after_it_was_listed_arrives_as_it_then_is(bucket, network, sync):
    bucket.put({"scans/a.nii": b"before", "scans/b.nii": b"going", "scans/c.nii": b"c", "scans/d.nii": b"d"})

    def fault(key, nth):
        if key == "scans/a.nii" and nth == 0:
            bucket.put({key: b"after!"})
            bucket.remove("scans/b.nii")
        return ""

    network.fault = fault
    summary = sync(threads=1)
    assert sync.files() == {"scans/a.nii": b"after!", "scans/c.nii": b"c", "scans/d.nii": b"d"}
    assert sync.manifest()["objects"].keys() == {"a.nii", "c.nii", "d.nii"}
    assert (summary.fetched, summary.unchanged) == (3, 0)


def test_an_object_that_never_stops_changing_is_told(bucket, network, sync):
    bucket.put({"scans/a.nii": b"0"})
    network.fault = lambda key, nth: bucket.put({key: str(nth + 1).encode()}) or "" if key else ""
    with pytest.raises(DataError, match=r"1 objects .* change while they are fetched: wait"):
        sync()


def test_one_object_that_may_not_be_read_stops_no_other(bucket, network, sync):
    expected = sync.contents(5, 9)
    bucket.put(expected)
    denied = "scans/imagesTr/001.nii.gz"
    network.fault = lambda key, nth: "403" if key == denied else ""
    with pytest.raises(DataError, match=rf"1 of 9 objects .* may not read s3://{bucket.name}/{denied}"):
        sync()
    assert network.objects == dict.fromkeys(expected, 1)
    assert sync.files() == {key: content for key, content in expected.items() if key != denied}


def test_where_nothing_arrives_any_more_it_does_not_try_them_all(bucket, network, sync):
    bucket.put(sync.contents(6, 60))
    network.fault = lambda key, nth: "403" if key else ""
    with pytest.raises(DataError, match="did not arrive"):
        sync(threads=2)
    assert len(network.objects) < 60


def test_what_is_missing_is_one_sentence_with_the_way_out(bucket, network, sync, monkeypatch):
    monkeypatch.setattr(of_buckets, "REQUEST_ATTEMPTS", 1)
    bucket.put({"scans/a.nii": b"a"})
    url = bucket.url("scans")
    for wrong in ("s3:/bucket/x", "s3://", "https://bucket/x", "s3://user:secret@host/x"):
        with pytest.raises(DataError, match="is no S3 prefix: write s3://BUCKET/PREFIX"):
            sync_prefix(wrong, Path("unused"), Path("unused"))
    with pytest.raises(DataError, match="there is no bucket 'nowhere': see that its name is right"):
        sync_prefix("s3://nowhere/scans", Path("unused"), Path("unused"))
    network.fault = lambda key, nth: "403"
    with pytest.raises(DataError, match=f"may not read {url}.*: ask for s3:ListBucket and s3:GetObject"):
        sync()
    network.fault = lambda key, nth: "500"
    with pytest.raises(DataError, match=f"{url} cannot be listed .*500 InternalError.*: run again later"):
        sync(attempts=2)
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://someone:a-secret@127.0.0.1:1")
    with pytest.raises(MissingError, match=r"server 127\.0\.0\.1:1 cannot be reached: .*AWS_ENDPOINT_URL"):
        sync()
    monkeypatch.setenv("AWS_ENDPOINT_URL", "no url")
    with pytest.raises(MissingError, match="AWS_ENDPOINT_URL is no URL: write it as"):
        sync()
    monkeypatch.setenv("AWS_ENDPOINT_URL", network.url)
    monkeypatch.setenv("AWS_PROFILE", "nobody")
    with pytest.raises(MissingError, match="nobody"):
        sync()
    for name in ("AWS_PROFILE", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    with pytest.raises(MissingError, match=r"there are no AWS credentials .*: set AWS_PROFILE"):
        sync()
