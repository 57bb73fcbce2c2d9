"""What `run.sh` needs on a GPU machine without a network, made here and packed into one folder.

    python -m benchmarks.gpu.prepare IMAGES [--head-and-neck SOURCE] [--out .gpu] [--python 3.12]

IMAGES is the Medical Segmentation Decathlon's hippocampus task (imagesTr, labelsTr, dataset.json). The 60
cases whose file names have the lowest SHA-256 are kept out of the project and judge the models; the
others are ingested, validated (2 % test cases, one in twenty watched), and drawn from by Hounsfield's own
stages, and planned and preprocessed by nnU-Net in an environment of its own. The folder holds:

    project.tar.xz   volumes and tables, as the stages wrote them, and params.yaml
    held_out.tar.xz  volumes of the 60
    nnunet.tar.xz    nnU-Net's plans and 60 preprocessed cases: its speed does not depend on how many
    head_and_neck.tar.xz   cases of `head_and_neck.py`, if SOURCE is given; both ingest them on the machine
    site/            nnU-Net and what it needs that is pure Python
    wheels/          packages that the machine lacks
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pandas as pd
import yaml

from benchmarks import head_and_neck
from benchmarks.gpu.volumes import pack
from benchmarks.peers import peer_python
from benchmarks.projects import kept_back

HELD_OUT, PEER_CASES = 60, 60
ORGAN, JUDGES = "hippocampus", "hippocampus_held_out"
NEVER_USED = ("SimpleITK", "gdcm", "cc3d")
"""Imported by name and not called in these benchmarks; tens of megabytes each."""
PURE = (
    "nnunetv2",
    "acvl_utils",
    "batchgenerators",
    "batchgeneratorsv2",
    "dynamic_network_architectures",
    "yacs",
)
WHEELS = (
    "pydantic",
    "pydantic_core",
    "annotated-types",
    "typing-inspection",
    "blosc2",
    "ndindex",
    "msgpack",
    "numexpr",
    "nibabel",
    "pydicom",
    "psutil",
    "isal",
)
PREPROCESS = """
import sys, os
root = sys.argv[1]
for name in ("raw", "preprocessed", "results"):
    os.environ[f"nnUNet_{name}"] = f"{root}/{name}"
from nnunetv2.experiment_planning.plan_and_preprocess_api import (
    extract_fingerprint_dataset, plan_experiment_dataset, preprocess_dataset)
if __name__ == "__main__":
    extract_fingerprint_dataset(4, num_processes=2, clean=True, verbose=False)
    plan_experiment_dataset(4)
    preprocess_dataset(4, configurations=("3d_fullres",), num_processes=(2,))
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("images", type=Path)
    parser.add_argument("--out", type=Path, default=Path(".gpu"))
    parser.add_argument("--peer", type=Path, help="an interpreter that has nnunetv2==2.8.1 already")
    parser.add_argument("--head-and-neck", type=Path, help="as `head_and_neck.py` takes it")
    parser.add_argument("--python", default="3.12", help="of the GPU machine")
    asked = parser.parse_args()
    peer = asked.peer or peer_python("nnunet", "nnunetv2==2.8.1")
    if asked.out.exists():
        shutil.rmtree(asked.out)
    asked.out.mkdir(parents=True)
    with tempfile.TemporaryDirectory() as folder:
        given, held_out = split(asked.images, Path(folder))
        accepted = ingest(given, held_out, Path(folder) / "out")
        preprocess(given, accepted, peer, Path(folder) / "out")
        for name in ("project", "held_out", "nnunet"):
            pack(Path(folder) / "out" / name, asked.out / f"{name}.tar.xz")
        if asked.head_and_neck:
            head_and_neck.split(asked.head_and_neck, Path(folder) / "head_and_neck")
            head_and_neck.begin(Path(folder) / "head_and_neck")
            head_and_neck.pack(Path(folder) / "head_and_neck", asked.out / "head_and_neck.tar.xz")
    fetch(peer, asked.python, asked.out)


def split(images: Path, folder: Path) -> tuple[Path, Path]:
    """Copies of the cases to learn from and of those that judge."""
    names = {path.name for path in (images / "imagesTr").glob("*.nii.gz")}
    labelled = sorted(names & {path.name for path in (images / "labelsTr").glob("*.nii.gz")})
    judging = kept_back(labelled, HELD_OUT)
    given, held_out = folder / "given", folder / "held_out"
    for target, wanted in ((given, set(labelled) - judging), (held_out, judging)):
        for kind in ("imagesTr", "labelsTr"):
            (target / kind).mkdir(parents=True)
            for name in wanted:
                shutil.copy(images / kind / name, target / kind / name)
        shutil.copy(images / "dataset.json", target)
    return given, held_out


def ingest(given: Path, held_out: Path, out: Path) -> list[str]:
    """Run the stages up to `augment` in a copy of the project; returns the accepted cases."""
    project = given.parent / "project"
    listed = subprocess.run(["git", "ls-files", "-z"], capture_output=True, check=True, text=True).stdout
    for name in filter(None, listed.split("\0")):
        if Path(name).exists():
            (project / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(name, project / name)
    author = ["-c", "user.name=benchmark", "-c", "user.email=benchmark@example.org"]
    for command in (["init", "-q"], ["add", "-A"], [*author, "commit", "-qm", "prepare"]):
        subprocess.run(["git", *command], cwd=project, check=True)

    def hounsfield(*arguments: str) -> None:
        home = {"HOUNSFIELD_HOME": str(given.parent / "home"), "PYTHONPATH": str(project)}
        subprocess.run(
            [sys.executable, "-m", "pipeline", *arguments], cwd=project, env=os.environ | home, check=True
        )

    for organ, source in ((ORGAN, given), (JUDGES, held_out)):
        hounsfield("add-organ", organ, "--source", str(source))
    path = project / "params.yaml"
    params = yaml.safe_load(path.read_text())
    # The spacing is that of every case; judges must not have another.
    for organ in (ORGAN, JUDGES):
        params["organs"][organ]["ingest"]["spacing"] = [1.0, 1.0, 1.0]
        params["organs"][organ]["validate"] = {"test_share": 0.02, "folds": 20}
    path.write_text(yaml.safe_dump(params, sort_keys=False))
    for stage in ("ingest", "validate", "patches", "augment"):
        hounsfield(stage, ORGAN)
    hounsfield("ingest", JUDGES)
    for name in ("params.yaml", "dvc.yaml"):
        (out / "project").mkdir(parents=True, exist_ok=True)
        shutil.copy(project / name, out / "project" / name)
    for path in (project / "data").rglob(f"{ORGAN}.*"):
        target = out / path.relative_to(project.parent)
        if path.is_file() and "raw" not in path.parts:
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, target)
    shutil.copytree(project / "data" / "volumes" / ORGAN, out / "project" / "data" / "volumes" / ORGAN)
    shutil.copytree(project / "data" / "volumes" / JUDGES, out / "held_out")
    return pd.read_parquet(project / "data" / "accepted" / f"{ORGAN}.parquet")["case"].tolist()


def preprocess(given: Path, accepted: list[str], peer: Path, out: Path) -> None:
    """Let nnU-Net plan and preprocess the cases that Hounsfield accepted."""
    root = given.parent / "nnunet"
    raw = root / "raw" / "Dataset004_Hippocampus"
    (raw / "imagesTr").mkdir(parents=True)
    (raw / "labelsTr").mkdir()
    for case in accepted:
        shutil.copy(given / "imagesTr" / f"{case}.nii.gz", raw / "imagesTr" / f"{case}_0000.nii.gz")
        shutil.copy(given / "labelsTr" / f"{case}.nii.gz", raw / "labelsTr" / f"{case}.nii.gz")
    (raw / "dataset.json").write_text(
        '{"channel_names": {"0": "MRI"}, "labels": {"background": 0, "anterior": 1, "posterior": 2}, '
        f'"numTraining": {len(accepted)}, "file_ending": ".nii.gz"}}'
    )
    script = given.parent / "preprocess.py"
    script.write_text(PREPROCESS)
    subprocess.run([peer, script, root], check=True)
    made = root / "preprocessed" / raw.name
    shutil.rmtree(made / "gt_segmentations", ignore_errors=True)
    for case in accepted[PEER_CASES:]:
        for path in made.glob(f"*/{case}*"):
            path.unlink()
    shutil.copytree(made, out / "nnunet" / raw.name)


def fetch(peer: Path, python: str, out: Path) -> None:
    """Copy pure packages of the peer and fetch wheels of the compiled ones."""
    site = Path(
        subprocess.run(
            [peer, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"],
            capture_output=True,
            check=True,
            text=True,
        ).stdout.strip()
    )
    for name in PURE:
        shutil.copytree(site / name, out / "site" / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in NEVER_USED:
        (out / "site" / f"{name}.py").write_text('"""Stands for a package that is imported, not used."""\n')
    locked = dict(
        line.split("==")
        for line in Path("requirements.txt").read_text().splitlines()
        if "==" in line and not line.startswith("#")
    )
    wanted = [f"{name}=={locked[name]}" if name in locked else name for name in WHEELS]
    platforms = [f"manylinux_2_{n}_x86_64" for n in (17, 24, 27, 28)] + ["manylinux2014_x86_64"]
    subprocess.run(
        [str(peer), "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
        + ["--python-version", python, "--implementation", "cp", "--dest", str(out / "wheels")]
        + [part for platform in platforms for part in ("--platform", platform)]
        + wanted,
        check=True,
    )


if __name__ == "__main__":
    main()
