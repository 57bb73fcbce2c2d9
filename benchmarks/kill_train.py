"""Training killed again and again: `python -m benchmarks.kill_train FOLDER [--kills 50]`.

In a clone of this repository in FOLDER, which is made, a network learns from phantoms; then the same training
is ended by `kill -9` at random moments from the start of the command on, and started again, until it is done.
Then what it left is removed, and it begins anew, until so many kills have struck. Each time the model has to
be that of the training that nobody disturbed, byte for byte.
"""

import argparse
import hashlib
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import yaml

REPOSITORY = Path(__file__).parents[1]
ORGAN = "abdomen"
SETTINGS = {"steps": 120, "validate_every": 40, "checkpoint_every": 10}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--kills", type=int, default=50)
    asked = parser.parse_args()
    project = asked.folder.absolute()
    begin(project)
    began = time.perf_counter()
    assert train(project).wait() == 0
    seconds = time.perf_counter() - began
    undisturbed, chance = model(project), random.Random(0)
    kills = trainings = 0
    different: set[str] = set()
    print(f"undisturbed: {seconds:.0f} s", flush=True)
    while kills < asked.kills:
        forget(project)
        while not done(project, chance.uniform(0, seconds)):
            kills += 1
        trainings += 1
        found = model(project)
        different |= {name for name in undisturbed | found if undisturbed.get(name) != found.get(name)}
        print(
            f"{kills} kills, {trainings} trainings, different: {sorted(different) or 'nothing'}", flush=True
        )
    sys.exit(bool(different))


def begin(project: Path) -> None:
    """The clone, with all that a training needs."""
    subprocess.run(["git", "clone", "--quiet", str(REPOSITORY), str(project)], check=True)
    run(project, "-m", "pipeline", "phantom").check_returncode()
    path = project / "params.yaml"
    params = yaml.safe_load(path.read_text())
    params["organs"][ORGAN]["train"] = params["organs"][ORGAN].get("train", {}) | SETTINGS
    path.write_text(yaml.safe_dump(params, sort_keys=False))
    run(project, "-m", "dvc", "repro", f"patches@{ORGAN}", f"augment@{ORGAN}").check_returncode()


def environment(project: Path) -> dict[str, str]:
    return os.environ | {"PYTHONPATH": str(project), "HOUNSFIELD_HOME": str(project / ".hounsfield")}


def run(project: Path, *arguments: str) -> subprocess.CompletedProcess[bytes]:
    """A module of the project's own code."""
    return subprocess.run([sys.executable, *arguments], cwd=project, env=environment(project))


def train(project: Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "pipeline", "train", ORGAN],
        cwd=project,
        env=environment(project),
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )


def done(project: Path, after: float) -> bool:
    """Train, and kill after some seconds; whether it was done before."""
    process = train(project)
    try:
        assert process.wait(after) == 0
        return True
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        return False


def model(project: Path) -> dict[str, str]:
    """Checksums of the files of the model."""
    folder = project / "models" / ORGAN
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def forget(project: Path) -> None:
    """Remove model and checkpoints."""
    shutil.rmtree(project / "models" / ORGAN)
    shutil.rmtree(project / ".hounsfield" / "checkpoints" / ORGAN, ignore_errors=True)


if __name__ == "__main__":
    main()
