"""Where runs live and what they are made from: the environment of a deployment, read in one place."""

import os
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pipeline.errors import ParamsError

IMAGE = "HOUNSFIELD_IMAGE"
"""Tells a stage the image it runs in, for the lineage of what it makes."""
RUNNERS = ("process", "container", "kubernetes")
URL = re.compile(r"[a-z+]+://|[^/]+@[^/]+:")
"""What git takes for an address, not for a path."""


@dataclass(frozen=True)
class Settings:
    """What `HOUNSFIELD_*` says; nothing has to be set."""

    project: str
    """The git repository that runs clone from and push to: a path or an address."""
    home: Path
    """Workspaces, cache, checkpoints, index, the local registry."""
    branch: str
    """The branch that runs start from and push to."""
    runner: str
    """How Airflow runs a stage: process, container or kubernetes."""
    python: str
    """The interpreter whose environment holds Hounsfield, for `process`."""
    images: str
    """What the names of the stages' images begin with."""
    image_tag: str
    reports: str
    """Address under which `<home>/reports` can be read; '': none, links are paths."""

    @property
    def local(self) -> Path | None:
        """The repository as a folder of this machine; None if it is elsewhere."""
        return None if URL.match(self.project) else Path(self.project)

    @property
    def environment(self) -> dict[str, str]:
        """These settings, for the environment of a command."""
        return {
            "HOUNSFIELD_PROJECT": self.project,
            "HOUNSFIELD_HOME": str(self.home),
            "HOUNSFIELD_BRANCH": self.branch,
            "HOUNSFIELD_REPORTS": self.reports,
        }


def read_settings(checkout: Path, environment: Mapping[str, str] = os.environ) -> Settings:
    """The settings of the deployment whose code is in `checkout`.

    Raises:
        ParamsError: a value cannot be meant.
    """
    project = environment.get("HOUNSFIELD_PROJECT") or str(checkout)
    if not URL.match(project):
        project = str(Path(project).absolute())
    home = environment.get("HOUNSFIELD_HOME")
    runner = environment.get("HOUNSFIELD_RUNNER") or RUNNERS[0]
    if runner not in RUNNERS:
        raise ParamsError(f"HOUNSFIELD_RUNNER is '{runner}'; set it to one of {', '.join(RUNNERS)}.")
    return Settings(
        project=project,
        home=Path(home).absolute() if home else checkout.absolute() / ".hounsfield",
        branch=environment.get("HOUNSFIELD_BRANCH") or "main",
        runner=runner,
        python=environment.get("HOUNSFIELD_PYTHON") or sys.executable,
        images=environment.get("HOUNSFIELD_IMAGES") or "hounsfield/",
        image_tag=environment.get("HOUNSFIELD_IMAGE_TAG") or "latest",
        reports=environment.get("HOUNSFIELD_REPORTS", "").rstrip("/"),
    )
