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


def changed(target: Path, *changes: tuple[str, str, str]) -> Path:
    """A copy of the files in which some things are others."""
    shutil.copytree(FOLDER, target)
    for file, before, after in changes:
        text = (target / file).read_text()
        assert before in text, before
        (target / file).write_text(text.replace(before, after, 1))
    return target


def test_files_are_formatted():
    terraform = shutil.which("terraform") or shutil.which("tofu")
    if terraform is None:
        pytest.skip("neither terraform nor tofu is installed")
    subprocess.run([terraform, "fmt", "-check", "-diff", str(FOLDER)], check=True, env=OFFLINE)


def test_the_provider_knows_every_resource_attribute_and_block(linters):
    assert faults(linters, FOLDER) == []


def test_what_the_provider_does_not_know_is_found(linters, tmp_path):
    folder = changed(
        tmp_path / "terraform",
        ("gpu_nodes.tf", "node_role_arn ", "role_arn "),
        ("gpu_nodes.tf", "min_size ", "least "),
        ("roles.tf", "service_account = each", "account = each"),
        ("bucket.tf", '"aws_s3_bucket_versioning" "data"', '"aws_s3_versioning" "data"'),
    )
    assert sorted(faults(linters, folder)) == [
        "aws_eks_node_group.gpu.scaling_config: least is not known",
        "aws_eks_node_group.gpu.scaling_config: min_size is missing",
        "aws_eks_node_group.gpu: node_role_arn is missing",
        "aws_eks_node_group.gpu: role_arn is not known",
        "aws_eks_pod_identity_association.pod: account is not known",
        "aws_eks_pod_identity_association.pod: service_account is missing",
        "aws_s3_versioning.data: the provider has no such resource",
    ]


def test_checkov_finds_what_was_made_less_safe_and_nothing_else(lint, tmp_path):
    folder = changed(
        tmp_path / "terraform",
        ("bucket.tf", "block_public_policy     = true", "block_public_policy     = false"),
        ("bucket.tf", 'status = "Enabled"', 'status = "Suspended"'),
        ("bucket.tf", '= "aws:kms"', '= "AES256"'),
        ("gpu_nodes.tf", '"required"', '"optional"'),
        ("roles.tf", 'resources = ["${aws_s3_bucket.data.arn}/incoming/*"]', 'resources = ["*"]'),
    )
    # It takes many seconds to start, so it is asked once, and its answer for the files as they are told.
    arguments = ["--directory", str(folder), "--framework", "terraform", "--output", "json"]
    said = lint("checkov", *arguments, "--quiet", "--skip-download", code=1, env=OFFLINE)
    found = json.loads(said[said.index("{") :])
    assert found["summary"]["passed"] > 100
    failed = {
        (check["check_id"], check["resource"].split("[")[0]) for check in found["results"]["failed_checks"]
    }
    assert failed == {
        ("CKV_AWS_54", "aws_s3_bucket_public_access_block.data"),
        ("CKV2_AWS_6", "aws_s3_bucket.data"),
        ("CKV_AWS_21", "aws_s3_bucket.data"),
        ("CKV_AWS_145", "aws_s3_bucket.data"),
        ("CKV_AWS_79", "aws_launch_template.gpu"),
        ("CKV_AWS_111", "aws_iam_policy_document.sender"),
        ("CKV_AWS_356", "aws_iam_policy_document.sender"),
    }


def test_only_tls_is_let_in():
    text = (FOLDER / "bucket.tf").read_text()
    assert text.count('variable = "aws:SecureTransport"') == 1
    # The one document is the policy of both buckets.
    assert 'data.aws_iam_policy_document.tls_only["data"].json' in text
    assert 'data.aws_iam_policy_document.tls_only["access_logs"].json' in text
