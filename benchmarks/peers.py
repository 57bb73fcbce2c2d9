"""Environments of their own for the projects that Hounsfield is compared with."""

import subprocess
import sys
import venv
from pathlib import Path

from pipeline.workspace import home, project_root


def peer_python(name: str, *requirements: str) -> Path:
    """The interpreter of an environment that holds `requirements`, made at the first call.

    Args:
        name: of the environment, `.hounsfield/peers/NAME`.
        requirements: as pip takes them, with their versions.
    """
    folder = home(project_root()) / "peers" / name
    python, done = folder / "bin" / "python", folder / "complete"
    if not done.is_file() or done.read_text() != "\n".join(requirements):
        print(f"installing {', '.join(requirements)} in {folder}", file=sys.stderr)
        venv.create(folder, with_pip=True, clear=True)
        subprocess.run([python, "-m", "pip", "install", "--quiet", *requirements], check=True)
        done.write_text("\n".join(requirements))
    return python
