"""Ingest killed again and again: `python -m benchmarks.kill_ingest FOLDER [--kills 50] [--cases 60]`.

The first cases of FOLDER (MSD layout) are ingested undisturbed; then, in a project beside it, `kill -9` ends
the command and its workers at a random moment, half of its volumes are removed, and it starts again. At the
end every table and volume of both has to be the same, byte for byte.
"""

import argparse
import hashlib
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

PARAMS = """
defaults: {}
organs:
  organ:
    ingest: {modality: MR, labels: {anterior: 1, posterior: 2}}
    validate: {}
    patches: {}
    augment: {}
    train: {}
    evaluate: {}
    register: {}
"""
COMMAND = [sys.executable, "-m", "pipeline", "ingest", "organ"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--cases", type=int, default=60)
    arguments = parser.parse_args()
    # Patients are keyed with a salt: both projects have the same.
    os.environ["HOUNSFIELD_SALT"] = "of this benchmark"
    with tempfile.TemporaryDirectory() as temporary:
        undisturbed, killed = (
            project(Path(temporary, name), arguments.folder, arguments.cases) for name in ("whole", "killed")
        )
        start = time.perf_counter()
        ingest(undisturbed).wait()
        seconds = time.perf_counter() - start
        chance = random.Random(0)
        ended = sum(kill(killed, chance.uniform(0, seconds), chance) for _ in range(arguments.kills))
        assert ingest(killed).wait() == 0
        expected, found = products(undisturbed), products(killed)
        different = sorted(name for name in expected | found if expected.get(name) != found.get(name))
        print(f"{arguments.kills} kills within {seconds:.1f} s, {ended} after the end; {len(expected)} files")
        print("different: " + ", ".join(different) if different else "all the same, byte for byte")
        sys.exit(bool(different))


def project(root: Path, folder: Path, cases: int) -> Path:
    root.mkdir()
    shutil.copy(Path(__file__).parents[1] / "dvc.yaml", root)
    (root / "params.yaml").write_text(PARAMS)
    images, labels = (
        {path.name for path in (folder / kind).glob("[!.]*.nii.gz")} for kind in ("imagesTr", "labelsTr")
    )
    names = sorted(images & labels)[:cases]
    for kind in ("imagesTr", "labelsTr"):
        (root / "data/raw/organ" / kind).mkdir(parents=True)
        for name in names:
            shutil.copyfile(folder / kind / name, root / "data/raw/organ" / kind / name)
    return root


def ingest(root: Path) -> subprocess.Popen[bytes]:
    environment = os.environ | {"HOUNSFIELD_HOME": str(root / "home")}
    return subprocess.Popen(
        COMMAND, cwd=root, env=environment, stderr=subprocess.DEVNULL, start_new_session=True
    )


def kill(root: Path, after: float, chance: random.Random) -> bool:
    """Start, kill after some seconds, remove half of the volumes; true: it had ended before."""
    process = ingest(root)
    time.sleep(after)
    ended = process.poll() is not None
    if not ended:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    for volume in sorted(root.glob("data/volumes/organ/*")):
        if volume.is_file() and chance.random() < 0.5:
            volume.unlink()
    return ended


def products(root: Path) -> dict[str, str]:
    """The hash of every file that ingest has made, by its path."""
    return {
        str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest()
        for folder in ("data", "reports", "metrics")
        for path in root.glob(f"{folder}/**/*")
        if path.is_file() and not path.is_relative_to(root / "data/raw")
    }


if __name__ == "__main__":
    main()
