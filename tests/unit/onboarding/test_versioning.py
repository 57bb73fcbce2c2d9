import json
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.errors import HounsfieldError
from pipeline.onboarding.versioning import run_dvc
from pipeline.runs.commands import dvc

MEGABYTE = 1_000_000


@pytest.mark.parametrize("call", [run_dvc, dvc])
def test_scans_that_the_cache_has_no_room_for_are_not_taken_in(
    tmp_path: Path, call: Callable[..., Any]
) -> None:
    """DVC says so and ends with 0; a file that may not be so large stands for the disk that is full."""
    subprocess.run([sys.executable, "-m", "dvc", "init", "-q", "--no-scm"], cwd=tmp_path, check=True)
    (tmp_path / "scans").mkdir()
    (tmp_path / "scans/small").write_bytes(b"small")
    large = tmp_path / "scans/large"
    large.write_bytes(np.random.default_rng(0).bytes(20 * MEGABYTE))
    cloned = subprocess.run(
        ["cp", "--reflink=always", large, tmp_path / "clone"], capture_output=True, check=False
    )
    if cloned.returncode == 0:
        pytest.skip("this file system keeps one file twice without room for it")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10 * MEGABYTE, before[1]))
    try:
        with pytest.raises(HounsfieldError, match=r"dvc add .*failed.*failed to transfer .*File too large"):
            call(tmp_path, "add", "scans")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert json.loads(call(tmp_path, "status", "--json", "scans.dvc")), (
        "the next run sees that it is not done"
    )
    call(tmp_path, "add", "scans")
    assert json.loads(call(tmp_path, "status", "--json", "scans.dvc")) == {}
