"""The Terraform files: form, policies, and the schema of the provider."""

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.unit.infra.provider_schema import Provider

FOLDER = ROOT / "infra/terraform"
OFFLINE = {
    "PATH": os.environ["PATH"],
    "HOME": "/nonexistent",
    "BC_SKIP_MAPPING": "TRUE",
    "LOG_LEVEL": "ERROR",
}
READ = """
import hcl2, json, pathlib, sys
print(json.dumps([hcl2.loads(path.read_text()) for path in pathlib.Path(sys.argv[1]).glob("*.tf")]))
"""


def checkov(lint, folder: Path, code: int) -> str:
    arguments = ("--directory", str(folder), "--framework", "terraform", "--compact", "--quiet")
    return lint("checkov", *arguments, "--skip-download", code=code, env=OFFLINE)


def faults(linters: Path, folder: Path) -> list[str]:
    """What the provider's schema says against the files in a folder."""
    said = subprocess.run(
        [str(linters / "python"), "-c", READ, str(folder)], capture_output=True, text=True, check=True
    )
    provider = Provider(next((linters.parent / "schemas").glob("*provider_aws*.whl")))
    return [
        fault
        for file in json.loads(said.stdout)
        for section in ("resource", "data")
        for entry in file.get(section, [])
        for kind, named in entry.items()
        for name, body in named.items()
        for fault in provider.faults(kind, name, body, data=section == "data")
    ]


@pytest.fixture
def changed(tmp_path):
    """A copy of the files in which one thing is another."""

    def change(file: str, before: str, after: str) -> Path:
        folder = tmp_path / "terraform"
        shutil.copytree(FOLDER, folder)
        text = (folder / file).read_text()
        assert before in text
        (folder / file).write_text(text.replace(before, after, 1))
        return folder

    return change


def test_files_are_formatted():
    terraform = shutil.which("terraform") or shutil.which("tofu")
    if terraform is None:
        pytest.skip("neither terraform nor tofu is installed")
    subprocess.run([terraform, "fmt", "-check", "-diff", str(FOLDER)], check=True, env=OFFLINE)


def test_the_provider_knows_every_resource_attribute_and_block(linters):
    assert faults(linters, FOLDER) == []


@pytest.mark.parametrize(
    ("file", "before", "after", "fault"),
    [
        ("gpu_nodes.tf", "node_role_arn ", "role_arn ", "aws_eks_node_group.gpu: node_role_arn is missing"),
        ("gpu_nodes.tf", "min_size ", "least ", "aws_eks_node_group.gpu.scaling_config: min_size is missing"),
        ("roles.tf", "service_account = each", "account = each", "account is not known"),
        ("bucket.tf", '"aws_s3_bucket_versioning" "data"', '"aws_s3_versioning" "data"', "no such resource"),
    ],
)
def test_what_the_provider_does_not_know_is_found(linters, changed, file, before, after, fault):
    assert any(fault in found for found in faults(linters, changed(file, before, after)))


def test_every_policy_of_checkov_holds(lint):
    checkov(lint, FOLDER, code=0)


@pytest.mark.parametrize(
    ("file", "before", "after", "policy"),
    [
        ("bucket.tf", "block_public_policy     = true", "block_public_policy     = false", "CKV_AWS_54"),
        ("bucket.tf", 'status = "Enabled"', 'status = "Suspended"', "CKV_AWS_21"),
        ("bucket.tf", '= "aws:kms"', '= "AES256"', "CKV_AWS_145"),
        ("gpu_nodes.tf", '"required"', '"optional"', "CKV_AWS_79"),
        (
            "roles.tf",
            'resources = ["${aws_s3_bucket.data.arn}/incoming/*"]',
            'resources = ["*"]',
            "CKV_AWS_356",
        ),
    ],
)
def test_a_bucket_or_node_that_is_less_safe_is_refused(lint, changed, file, before, after, policy):
    assert policy in checkov(lint, changed(file, before, after), code=1)


def test_only_tls_is_let_in():
    text = (FOLDER / "bucket.tf").read_text()
    assert text.count('variable = "aws:SecureTransport"') == 1
    # The one document is the policy of both buckets.
    assert 'data.aws_iam_policy_document.tls_only["data"].json' in text
    assert 'data.aws_iam_policy_document.tls_only["access_logs"].json' in text
