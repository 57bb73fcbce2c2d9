import errno
import functools
import os
from pathlib import Path

import pytest


@pytest.fixture
def closed(monkeypatch):
    """Makes a folder one that may not be looked into, for root, too."""

    def close(folder):
        for name in ("listdir", "scandir"):
            monkeypatch.setattr(os, name, functools.partial(_unless_in, folder, getattr(os, name)))

    return close


def _unless_in(folder, look, path="."):
    if Path(path) == folder:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
    return look(path)


def nearest_intensity():
    """The class of networks whose answer is known; torch is loaded where one is asked for."""
    import torch

    from pipeline.networks.base import Form, Network

    class NearestIntensity(Network):
        def __init__(self, _in_channels, classes, does_without=False):
            super().__init__()
            self.form = Form(3, (1, 1, 1), missing_channels=does_without)
            self.intensities = torch.nn.Parameter(torch.zeros(classes))

        def forward(self, image):
            there = image.amax((2, 3, 4), keepdim=True) > image.amin((2, 3, 4), keepdim=True)
            if not self.form.missing_channels or not there.any():
                there = torch.ones_like(there)
            mean = (image * there).sum(1, keepdim=True) / there.sum(1, keepdim=True)
            return -50 * (mean - self.intensities[None, :, None, None, None]) ** 2

    return NearestIntensity


@pytest.fixture
def save_model(monkeypatch):
    """Saves models whose answer is known: a voxel is of the class whose intensity is nearest to its own.

    Of several channels the mean counts, of a network that `does_without` the mean of those that are not flat.
    """
    from dataclasses import asdict

    import torch
    from safetensors.torch import save_file

    from pipeline import networks
    from pipeline.atomic import sha256_file, write_json
    from pipeline.volumes.recipe import AS_STORED, Recipe

    known, answer = networks.network_class, nearest_intensity()
    name = "nearest_intensity"
    monkeypatch.setattr(networks, "network_class", lambda asked: answer if asked == name else known(asked))

    def save(
        folder,
        labels,
        intensities,
        spacing=(1.0, 1.0, 1.0),
        patch_size=(8, 8, 8),
        offset=AS_STORED,
        channels=1,
        rois=None,
        **config,
    ):
        """`intensities` in HU: of the background, then of the labels in the order of their values."""
        recipe = Recipe("CT", labels, spacing, offset, rois=rois or {}, channels=channels)
        folder.mkdir(parents=True, exist_ok=True)
        weights = folder / "weights.safetensors"
        save_file({"intensities": torch.tensor(intensities) / 100}, weights)
        defaults = {
            "organ": folder.name,
            "modality": "CT",
            "labels": labels,
            "recipe": asdict(recipe),
            "spacing": list(spacing),
            "patch_size": list(patch_size),
            "normalisation": [
                {"image": image, "clip": [-1000.0, 1000.0], "mean": 0.0, "std": 100.0}
                for image in range(channels)
            ],
            "network": {"name": name},
            "training": {"steps": 1, "profile": "small"},
            "sha256": {weights.name: sha256_file(weights)},
        }
        write_json(folder / "config.json", defaults | config)
        return folder

    return save


@pytest.fixture(scope="session")
def s3_server():
    """A client of a local S3 server, empty at first; boto3's descriptions of services are read once."""
    import boto3
    from botocore.loaders import JSONFileLoader
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    secrets = {"aws_access_key_id": "owner", "aws_secret_access_key": "secret", "region_name": "us-east-1"}
    with pytest.MonkeyPatch.context() as patch:
        # Every session makes a loader of its own; they are all alike.
        patch.setattr(JSONFileLoader, "load_file", functools.cache(JSONFileLoader.load_file))
        patch.setattr(JSONFileLoader, "__hash__", lambda _: 0, raising=False)
        patch.setattr(JSONFileLoader, "__eq__", lambda *_: True, raising=False)
        client = boto3.session.Session().client("s3", endpoint_url=f"http://{host}:{port}", **secrets)
        yield client
        client.close()
    server.stop()


class Bucket:
    """A bucket of the local server, filled and changed as its owner would."""

    def __init__(self, client, name):
        self.client, self.name = client, name

    def url(self, prefix):
        return f"s3://{self.name}/{prefix}"

    def put(self, contents):
        for key, content in contents.items():
            self.client.put_object(Bucket=self.name, Key=key, Body=content)

    def put_in_parts(self, key, content):
        """The ETag of such an object is no MD5 of its content."""
        where = {"Bucket": self.name, "Key": key}
        upload = self.client.create_multipart_upload(**where)["UploadId"]
        part = self.client.upload_part(**where, UploadId=upload, PartNumber=1, Body=content)
        parts = {"Parts": [{"ETag": part["ETag"], "PartNumber": 1}]}
        self.client.complete_multipart_upload(**where, UploadId=upload, MultipartUpload=parts)

    def remove(self, *keys):
        for key in keys:
            self.client.delete_object(Bucket=self.name, Key=key)


@pytest.fixture
def bucket(s3_server, monkeypatch, tmp_path):
    """A new bucket, and an environment in which boto3 finds it and nothing else of this machine."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    for name, value in {
        "AWS_ENDPOINT_URL": s3_server.meta.endpoint_url,
        "AWS_ACCESS_KEY_ID": "someone",
        "AWS_SECRET_ACCESS_KEY": "a-secret",
        "AWS_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_CONFIG_FILE": str(tmp_path / "no-config"),
        "AWS_SHARED_CREDENTIALS_FILE": str(tmp_path / "no-credentials"),
    }.items():
        monkeypatch.setenv(name, value)
    name = f"bucket-{len(s3_server.list_buckets()['Buckets'])}"
    s3_server.create_bucket(Bucket=name)
    return Bucket(s3_server, name)
