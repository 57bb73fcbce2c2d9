"""Head and neck, seven organs: our default against nnU-Net's, the same cases, steps and device, one run.

    python -m benchmarks.head_and_neck SOURCE FOLDER [--steps 1000] [--peer-gb 8] [--pack FILE]

SOURCE holds planning CTs (images, labels, dataset.json with what is annotated in each case). The 83 cases
whose file names have the lowest SHA-256 are kept back and judge; of the others both learn from the same
four folds. Cases, preprocessing and models lie in FOLDER; what is there already is used again. Printed, a
line of JSON each: what was planned, seconds of the training, Dice of each organ over the cases that have it
annotated, and the mean over the organs.

With `--pack` nobody learns: the cases go into an archive, which is SOURCE on a machine without a network
(`benchmarks/gpu/run.sh`).

Ours: `add-organ`, the stages up to `train` and `predict` in a clone of this repository; only the number of
steps is set, and that one case in twenty is kept for the test. nnU-Net 2.8.1, in an environment of its own:
fingerprint, plan for `--peer-gb` of memory (8 is its default), preprocessing and `nnUNetTrainer`; only the
number of steps is set. An organ that nobody outlined in a case is background to it, as it cannot be told
otherwise. Its predictor does not mirror unless `--mirror` is given, which takes eight times as long.
"""

import argparse
import gzip
import json
import os
import shutil
import subprocess
import sys
import tarfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.projects import configure, kept_back

REPOSITORY = Path(__file__).parents[1]
ORGAN, DATASET = "head_and_neck", "Dataset160_HeadAndNeck"
HELD_OUT = 83
PEER = ("torch==2.13.0", "nnunetv2==2.8.1")
EPOCH = 50
"""Steps of an epoch of nnU-Net's, whose 250 are more than there may be altogether."""
FOLD = 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("source", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--steps", type=int, default=1000, help=f"a multiple of {EPOCH}")
    parser.add_argument("--peer-gb", type=float, default=8.0, help="of memory that nnU-Net plans for")
    parser.add_argument("--of", nargs="+", default=["ours", "nnunet"], choices=["ours", "nnunet"])
    parser.add_argument(
        "--set", nargs="*", action="extend", default=[], help="SECTION.KEY=VALUE of params.yaml"
    )
    parser.add_argument("--pack", type=Path, metavar="FILE", help="what another machine needs, to be written")
    parser.add_argument("--peer", type=Path, help="an interpreter that has nnU-Net already")
    parser.add_argument("--mirror", action="store_true", help="nnU-Net's predictor mirrors, as by default")
    parser.add_argument(
        "--work", choices=["plan", "learn"], help="what the peer's interpreter is called with"
    )
    asked = parser.parse_args()
    folder = asked.folder.absolute()
    if asked.work:
        {"plan": plan, "learn": learn}[asked.work](folder / "nnunet", asked)
        return
    if not (folder / "held_out").exists():
        (unpack if asked.source.is_file() else split)(asked.source, folder)
    if not (folder / "project").exists():
        begin(folder)
    if asked.pack:
        pack(folder, asked.pack)
        return
    for name in asked.of:
        said = {"ours": ours, "nnunet": nnunets}[name](folder, asked)
        found = judged(folder / name / "found", folder / "held_out")
        print(json.dumps({"of": name, "steps": asked.steps} | said | found), flush=True)


def split(source: Path, folder: Path) -> None:
    """The cases to learn from and those that judge, uncompressed: an archive of all makes them smaller."""
    names = sorted(path.name for path in (source / "images").glob("*.nii.gz"))
    judging = kept_back(names, HELD_OUT)
    for target, wanted in ((folder / "given", set(names) - judging), (folder / "held_out", judging)):
        for kind in ("images", "labels"):
            (target / kind).mkdir(parents=True)
            for name in wanted:
                content = gzip.decompress((source / kind / name).read_bytes())
                (target / kind / name.removesuffix(".gz")).write_bytes(content)
        shutil.copy(source / "dataset.json", target)


def begin(folder: Path) -> None:
    """A clone of the project that has the cases as far as stage `validate`."""
    project = folder / "project"
    subprocess.run(["git", "clone", "--quiet", str(REPOSITORY), str(project)], check=True)
    hounsfield(project, "add-organ", ORGAN, "--source", str(folder / "given"))
    # Others judge here; none at all is refused.
    configure(project / "params.yaml", ORGAN, ["validate.test_share=0.05"])
    hounsfield(project, "ingest", ORGAN)
    hounsfield(project, "validate", ORGAN)
    shutil.copy(project / "params.yaml", folder)


def pack(folder: Path, archive: Path) -> None:
    """What a machine without a network, DVC and Great Expectations needs of `folder`."""
    with tarfile.open(archive, "w:xz") as tar:
        for name in ("given", "held_out"):
            tar.add(folder / name, name)
        for name in ("params.yaml", "dvc.yaml", f"data/accepted/{ORGAN}.parquet"):
            tar.add(folder / "project" / name, f"project/{name}")


def unpack(archive: Path, folder: Path) -> None:
    """What `pack` packed, as a project whose cases are to be ingested."""
    with tarfile.open(archive) as tar:
        tar.extractall(folder, filter="data")
    raw = folder / "project" / "data" / "raw" / ORGAN
    raw.parent.mkdir(parents=True)
    shutil.copytree(folder / "given", raw)
    shutil.copy(folder / "project" / "params.yaml", folder)


def ours(folder: Path, asked: argparse.Namespace) -> dict[str, Any]:
    """Train and predict by the project's own commands."""
    project, found = folder / "project", folder / "ours" / "found"
    # As it was before another run set something.
    shutil.copy(folder / "params.yaml", project)
    settings = [f"train.steps={asked.steps}", f"train.fold={FOLD}", *asked.set]
    configure(project / "params.yaml", ORGAN, settings)
    for stage in ("ingest", "patches", "augment"):
        hounsfield(project, stage, ORGAN)
    began = time.perf_counter()
    hounsfield(project, "train", ORGAN)
    seconds = round(time.perf_counter() - began)
    began = time.perf_counter()
    shutil.rmtree(found, ignore_errors=True)
    images = str(folder / "held_out" / "images")
    hounsfield(project, "predict", ORGAN, images, str(found), "--model", "latest")
    config = json.loads((project / "models" / ORGAN / "config.json").read_text())
    return {
        "set": asked.set,
        "patch": config["patch_size"],
        "batch": config["training"]["batch_size"],
        "spacing": config["spacing"],
        "train_s": seconds,
        "predict_s": round(time.perf_counter() - began),
    }


def nnunets(folder: Path, asked: argparse.Namespace) -> dict[str, Any]:
    """Let nnU-Net plan, preprocess, train and predict, where it has not done so yet."""
    from benchmarks.peers import peer_python

    peer = asked.peer or peer_python("nnunet", *PEER)
    place = folder / "nnunet"
    raw = place / "raw" / DATASET
    if not raw.exists():
        lay_out(folder, raw)
    planned = place / "planned_for_gb"
    if not planned.exists() or planned.read_text() != str(asked.peer_gb):
        shutil.rmtree(place / "preprocessed", ignore_errors=True)
        work(peer, asked, "plan")
        write_split(folder)
        planned.write_text(str(asked.peer_gb))
    work(peer, asked, "learn")
    return dict(json.loads((place / "said.json").read_text()))


def lay_out(folder: Path, raw: Path) -> None:
    """The given cases as nnU-Net has them."""
    (raw / "imagesTr").mkdir(parents=True)
    (raw / "labelsTr").mkdir()
    given = folder / "given"
    names = [path.name.removesuffix(".nii") for path in (given / "images").glob("*.nii")]
    for name in names:
        shutil.copy(given / "images" / f"{name}.nii", raw / "imagesTr" / f"{name}_0000.nii")
        shutil.copy(given / "labels" / f"{name}.nii", raw / "labelsTr")
    about = json.loads((given / "dataset.json").read_text())
    labels = {name: int(value) for value, name in about["labels"].items()}
    facts = {"channel_names": {"0": "CT"}, "labels": labels, "file_ending": ".nii"}
    # Of its readers the one that needs no SimpleITK.
    facts["overwrite_image_reader_writer"] = "NibabelIO"
    (raw / "dataset.json").write_text(json.dumps(facts | {"numTraining": len(names)}))


def write_split(folder: Path) -> None:
    """Have nnU-Net learn from the cases that we learn from."""
    import pandas as pd

    cases = pd.read_parquet(folder / "project" / "data" / "accepted" / f"{ORGAN}.parquet")
    cases = cases[cases["split"] == "train"]
    watched = cases["fold"] == FOLD
    parts = {"train": sorted(cases[~watched]["case"]), "val": sorted(cases[watched]["case"])}
    path = folder / "nnunet" / "preprocessed" / DATASET / "splits_final.json"
    path.write_text(json.dumps([parts] * 5))


def work(peer: Path, asked: argparse.Namespace, what: str) -> None:
    """Have the peer's interpreter do its part."""
    command = [peer, __file__, asked.source, asked.folder, "--work", what, "--steps", str(asked.steps)]
    command += ["--peer-gb", str(asked.peer_gb), *["--mirror"] * asked.mirror]
    places = f"{REPOSITORY}:{os.environ.get('PYTHONPATH', '')}"
    subprocess.run(command, check=True, env=os.environ | {"PYTHONPATH": places})


def places(folder: Path) -> None:
    """Set the variables that nnU-Net finds its folders by."""
    for name in ("raw", "preprocessed", "results"):
        os.environ[f"nnUNet_{name}"] = str(folder / name)
    os.environ.setdefault("nnUNet_n_proc_DA", str(len(os.sched_getaffinity(0))))


def plan(folder: Path, asked: argparse.Namespace) -> None:
    """Its fingerprint, plan and preprocessed cases."""
    places(folder)
    from nnunetv2.experiment_planning import plan_and_preprocess_api as api

    workers, number = len(os.sched_getaffinity(0)), int(DATASET[7:10])
    api.extract_fingerprint_dataset(number, num_processes=workers, clean=True, verbose=False)
    api.plan_experiment_dataset(number, gpu_memory_target_in_gb=asked.peer_gb)
    api.preprocess_dataset(number, configurations=("3d_fullres",), num_processes=(workers,))


def learn(folder: Path, asked: argparse.Namespace) -> None:
    """Its training, and what it finds in the cases that were kept back."""
    places(folder)
    import torch
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
    from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    prepared = folder / "preprocessed" / DATASET
    plans = json.loads((prepared / "nnUNetPlans.json").read_text())
    plans["continue_training"] = False
    dataset = json.loads((prepared / "dataset.json").read_text())
    trainer = nnUNetTrainer(plans, "3d_fullres", FOLD, dataset, device)
    trainer.num_epochs, trainer.num_iterations_per_epoch = asked.steps // EPOCH, EPOCH
    # As its 50 to 250.
    trainer.num_val_iterations_per_epoch = EPOCH // 5
    began = time.perf_counter()
    trainer.run_training()
    seconds = round(time.perf_counter() - began)
    began = time.perf_counter()
    predictor = nnUNetPredictor(
        use_mirroring=asked.mirror,
        device=device,
        perform_everything_on_device=device.type == "cuda",
        allow_tqdm=False,
    )
    predictor.initialize_from_trained_model_folder(
        trainer.output_folder_base, (FOLD,), "checkpoint_final.pth"
    )
    found = folder / "found"
    shutil.rmtree(found, ignore_errors=True)
    found.mkdir()
    images = sorted((folder.parent / "held_out" / "images").glob("*.nii"))
    predictor.predict_from_files(
        [[str(image)] for image in images],
        [str(found / image.name.removesuffix(".nii")) for image in images],
        num_processes_preprocessing=1,
        num_processes_segmentation_export=1,
    )
    planned = plans["configurations"]["3d_fullres"]
    said = {
        "planned_for_gb": asked.peer_gb,
        "patch": planned["patch_size"],
        "batch": planned["batch_size"],
        "spacing": planned["spacing"],
        "train_s": seconds,
        "predict_s": round(time.perf_counter() - began),
    }
    (folder / "said.json").write_text(json.dumps(said))


def hounsfield(project: Path, *arguments: str) -> None:
    """Run a command of the project's own code."""
    places = f"{REPOSITORY}:{os.environ.get('PYTHONPATH', '')}"
    environment = os.environ | {"PYTHONPATH": places, "HOUNSFIELD_HOME": str(project.parent / "home")}
    command = [sys.executable, "-m", "pipeline", *arguments]
    subprocess.run(command, cwd=project, env=environment, check=True, stdout=sys.stderr)


def judged(found: Path, held_out: Path) -> dict[str, Any]:
    """Mean Dice of each organ over the cases that have it annotated, and of all organs."""
    import nibabel

    from pipeline.metrics.overlap import dice

    about = json.loads((held_out / "dataset.json").read_text())
    values = {name: int(value) for value, name in about["labels"].items() if int(value)}
    annotated = {case["id"]: case["annotated"] for case in about["cases"]}
    scores: dict[str, list[float]] = {name: [] for name in values}
    for path in sorted((held_out / "labels").glob("*.nii")):
        truth, best = (np.asarray(nibabel.load(one).dataobj) for one in (path, found / path.name))
        for name in annotated[path.name.removesuffix(".nii")]:
            scores[name].append(dice(truth, best, values[name]))
    organs = {name: round(float(np.mean(those)), 4) for name, those in scores.items()}
    return {"dice": round(float(np.mean(list(organs.values()))), 4), "organs": organs}


if __name__ == "__main__":
    main()
