"""The container engine of this machine: podman or docker, whichever answers, and how it is called.

    python -m components.engine images

runs it by hand, with the settings that the builds use.
"""

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

from pipeline.errors import MissingError

SETTINGS = Path(__file__).with_name("containers.conf")
CONFIGURED = (Path("/etc/containers/containers.conf"), Path.home() / ".config/containers/containers.conf")
HOW_TO = "install one, for example: apt-get install podman buildah runc"


@dataclass(frozen=True)
class Engine:
    """A program that builds images and runs them, by Docker's command line."""

    program: str
    environment: dict[str, str] = field(default_factory=dict)

    @property
    def is_podman(self) -> bool:
        """Podman builds as the caller on the caller's files; docker asks a server, which may be anywhere."""
        return Path(self.program).name == "podman"

    def run(self, *arguments: str, capture: bool = False) -> str:
        """Run the engine with these arguments; what it printed, if captured.

        Raises:
            MissingError: the engine ended with an error; its last words are the message's.
        """
        done = subprocess.run(
            [self.program, *arguments],
            env=os.environ | self.environment,
            stdout=subprocess.PIPE if capture else None,
            stderr=subprocess.PIPE if capture else None,
            text=True,
            check=False,
        )
        if done.returncode:
            said = (done.stderr or "").strip().splitlines()
            reason = said[-1] if said else f"it ended with {done.returncode}"
            raise MissingError(f"{Path(self.program).name} {arguments[0]} failed: {reason}")
        return done.stdout or ""

    def has(self, image: str) -> bool:
        """Whether the image is on this machine."""
        try:
            self.run("image", "inspect", "--format", "{{.Id}}", image, capture=True)
        except MissingError:
            return False
        return True

    def size(self, image: str) -> int:
        """Bytes of all layers of an image, unpacked."""
        return int(self.run("image", "inspect", "--format", "{{.Size}}", image, capture=True))


def find_engine() -> Engine:
    """The first engine that answers: `ENGINE` if it is set, else podman, else docker.

    Raises:
        MissingError: none does.
    """
    asked = os.environ.get("ENGINE")
    for name in [asked] if asked else ["podman", "docker"]:
        program = shutil.which(name)
        if program is None:
            continue
        engine = Engine(program, _settings(name))
        try:
            engine.run("info", capture=True)
        except MissingError:
            continue
        return engine
    raise MissingError(f"No container engine answers ({asked or 'podman, docker'}): {HOW_TO}")


def _settings(name: str) -> dict[str, str]:
    """For podman on a machine that has neither settings nor systemd: those beside this file."""
    has_systemd = Path("/run/systemd/system").is_dir()
    configured = "CONTAINERS_CONF" in os.environ or any(path.exists() for path in CONFIGURED)
    if name != "podman" or has_systemd or configured or not shutil.which("runc"):
        return {}
    return {"CONTAINERS_CONF": str(SETTINGS)}


if __name__ == "__main__":
    try:
        find_engine().run(*sys.argv[1:])
    except MissingError as error:
        sys.exit(f"error {error}")
