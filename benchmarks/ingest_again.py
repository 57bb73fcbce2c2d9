"""Ingest where nothing, and where one case is new: `python -m benchmarks.ingest_again [--cases 1000]`.

Small CTs, so that what is measured is the work a case costs, not its voxels. Printed: seconds of
`hounsfield ingest`, start of the interpreter included, for all cases at first, with nothing new (after
a run in which the status of all files has settled), and with one case more.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import nibabel
import numpy as np

PARAMS = """
defaults: {}
organs:
  liver:
    ingest: {modality: CT, labels: {liver: 1}}
    validate: {}
    patches: {}
    augment: {}
    train: {}
    evaluate: {}
    register: {}
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", type=int, default=1000)
    cases = parser.parse_args().cases
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary)
        shutil.copy(Path(__file__).parents[1] / "dvc.yaml", root)
        (root / "params.yaml").write_text(PARAMS)
        for number in range(cases):
            add_case(root / "data/raw/liver", number)
        print(f"{cases} cases: {seconds(root):.1f} s")
        time.sleep(3)
        seconds(root)
        print(f"nothing new: {seconds(root):.1f} s")
        add_case(root / "data/raw/liver", cases)
        print(f"one case more: {seconds(root):.1f} s")


def add_case(raw: Path, number: int) -> None:
    """Noise with a box in it."""
    rng = np.random.default_rng(number)
    image = rng.integers(-1000, 300, (32, 32, 24)).astype(np.int16)
    label = np.zeros(image.shape, np.uint8)
    label[8:16, 8:16, 6:12] = 1
    for kind, array in (("images", image), ("labels", label)):
        path = raw / f"{kind}Tr" / f"case_{number:04}.nii.gz"
        path.parent.mkdir(parents=True, exist_ok=True)
        nibabel.save(nibabel.Nifti1Image(array, np.diag([1, 1, 2, 1.0])), path)


def seconds(root: Path) -> float:
    environment = os.environ | {"HOUNSFIELD_HOME": str(root / "home")}
    start = time.perf_counter()
    command = [sys.executable, "-m", "pipeline", "ingest", "liver"]
    subprocess.run(command, cwd=root, env=environment, check=True, stderr=subprocess.DEVNULL)
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
