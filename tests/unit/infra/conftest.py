"""The linters of `infra/` have an environment of their own: `make infra` makes it."""

import subprocess
from pathlib import Path

import pytest

from tests.conftest import ROOT


@pytest.fixture(scope="session")
def linters() -> Path:
    """The folder of the linters' commands."""
    folder = ROOT / ".venv-infra" / "bin"
    if not (folder / "checkov").is_file():
        pytest.skip("the linters of infra/ are not installed: make infra")
    return folder


@pytest.fixture(scope="session")
def lint(linters: Path):
    """Run one of the linters on the project; what it said."""

    def run(program: str, *arguments: str, code: int = 0, env: dict[str, str] | None = None) -> str:
        done = subprocess.run(
            [str(linters / program), *arguments],
            cwd=ROOT,
            env=env,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        assert done.returncode == code, done.stdout + done.stderr
        return done.stdout + done.stderr

    return run
