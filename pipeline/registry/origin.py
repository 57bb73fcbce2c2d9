"""What a version was made from, recorded when it is registered: `lineage.json` of its evidence.

It names content, never a place: commits, DVC's hashes, the keys of cases. No path of a raw file, no host
and no user is in it. What was not known (no git, a stage run without DVC) is null.
"""

import hashlib
import os
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from pipeline.atomic import sha256_file
from pipeline.errors import MissingError
from pipeline.gpus import in_use
from pipeline.lockfile import LOCK
from pipeline.programs import installed
from pipeline.runs.commands import Refused, git
from pipeline.runs.settings import IMAGE

if TYPE_CHECKING:
    import pandas as pd

NAME = "lineage.json"
RAW = "data/raw"
SCRATCH = "scratch"
READ = ("dvc.yaml", "params.yaml", LOCK, "pipeline")
"""What the pipeline reads of the repository, besides the pointer to the raw scans."""
PACKAGES = (
    "torch",
    "numpy",
    "scipy",
    "monai",
    "pandas",
    "pyarrow",
    "blosc2",
    "nibabel",
    "pydicom",
    "highdicom",
    "SimpleITK",
    "safetensors",
    "great-expectations",
    "mlflow",
    "dvc",
)
"""Whose versions may change a figure or a file."""


def origin(root: Path, organ: str, cases: "pd.DataFrame", start: str = SCRATCH) -> dict[str, Any]:
    """What the organ's model in the project at `root` is made from, as things stand now.

    Args:
        root: of the project.
        organ: whose model it is.
        cases: the accepted table, a row a case.
        start: hash of the model that its training began with.
    """
    return {
        "organ": organ,
        "commit": ask_git(root, "rev-parse", "HEAD"),
        "changed": _changed(root, organ),
        "raw": raw_version(root, organ),
        "stages": locked_stages(_text(root / LOCK), organ),
        "environment": _environment(root),
        "start": start,
        "cases": case_records(cases),
    }


def locked_stages(lock: str | None, organ: str) -> dict[str, Any] | None:
    """The organ's sections of a `dvc.lock` by stage, as DVC wrote them; None if there are none.

    That of `register` is left out: while the stage runs, it is of the run before.
    """
    try:
        sections = (yaml.safe_load(lock or "") or {}).get("stages") or {}
    except yaml.YAMLError:
        return None
    names = {name: name.partition("@") for name in sections}
    found = {stage: sections[name] for name, (stage, _, of) in names.items() if of == organ}
    found.pop("register", None)
    return found or None


def raw_version(root: Path, organ: str) -> dict[str, Any] | None:
    """Hash, bytes and number of files of the raw scans, as their `.dvc` file has them."""
    pointer = _text(root / RAW / f"{organ}.dvc")
    outs = (yaml.safe_load(pointer) or {}).get("outs") if pointer else None
    return {key: outs[0].get(key) for key in ("md5", "size", "nfiles")} if outs else None


def case_records(cases: "pd.DataFrame") -> list[dict[str, Any]]:
    """Name, patient, key, split and fold of each case, sorted by name; the fold of a test case is None."""
    records = [
        {
            "case": str(row["case"]),
            "patient": str(row.get("patient", row["case"])),
            "key": str(row["key"]),
            "split": str(row["split"]),
            "fold": None if row["split"] == "test" or "fold" not in row else int(row["fold"]),
        }
        for row in cases.to_dict("records")
    ]
    return sorted(records, key=lambda record: str(record["case"]))


def dataset_digest(known: Mapping[str, Any]) -> str:
    """What MLflow calls the data by: DVC's hash of the raw scans, else a hash of the keys of the cases."""
    if known["raw"] and known["raw"]["md5"]:
        return str(known["raw"]["md5"])
    keys = "".join(f"{case['case']}\0{case['key']}\0" for case in known["cases"])
    return hashlib.md5(keys.encode(), usedforsecurity=False).hexdigest()


def _changed(root: Path, organ: str) -> list[str] | None:
    """Which of the files the pipeline reads are not as in the commit; None: no git tells."""
    said = ask_git(root, "status", "--porcelain", "--", *READ, f"{RAW}/{organ}.dvc")
    return None if said is None else sorted(line[3:] for line in said.splitlines())


def ask_git(root: Path, *arguments: str) -> str | None:
    """What git says in `root`; None where it fails, or is not there."""
    try:
        return git(root, *arguments)
    except (Refused, MissingError):
        return None


def _environment(root: Path) -> dict[str, Any]:
    """What computed: it is asked of the process that registers, which runs where the training ran."""
    requirements = root / "requirements.txt"
    return {
        "python": platform.python_version(),
        "platform": " ".join([platform.system(), platform.machine(), *platform.libc_ver()]).strip(),
        "packages": {name: found for name in PACKAGES if (found := installed(name))},
        "requirements": sha256_file(requirements) if requirements.is_file() else None,
        "device": f"cuda, {card}" if (card := in_use()) else "cpu",
        "image": os.environ.get(IMAGE) or None,
    }


def _text(path: Path) -> str | None:
    return path.read_text(encoding="utf-8") if path.is_file() else None
