"""Label maps for scans on disk, by the current model."""

import json
from dataclasses import dataclass, field
from pathlib import Path

from pipeline.errors import DataError, HounsfieldError, MissingError
from pipeline.inference.model import CONFIG, Model, load_model
from pipeline.params import load_organ
from pipeline.progress import console, track
from pipeline.volumes.layouts import SUFFIXES, scan_files
from pipeline.volumes.readers import read_scan, write_labels
from pipeline.workspace import stage_files


@dataclass
class Summary:
    """What became of every scan."""

    model: str
    written: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    """Reason, by the name of the file."""

    def show(self, as_json: bool, seconds: float) -> None:
        """Tell it to a person on stderr, or to a machine on stdout."""
        if as_json:
            print(json.dumps({"model": self.model, "written": self.written, "failed": self.failed}))
            return
        for reason in self.failed.values():
            console.print(f"not labelled: {reason}", markup=False)
        console.print(f"{len(self.written)} label maps by {self.model} in {seconds:.1f} s", markup=False)


def predict_scans(root: Path, organ: str, source: Path, target: Path, which: str) -> Summary:
    """Label every scan of `source`; one that cannot be labelled does not stop the others.

    Args:
        root: of the project.
        organ: of params.yaml.
        source: a scan, or a folder of scans.
        target: where the label map goes, or a folder for them (for a folder of scans always).
        which: auto (champion, else the latest), champion, latest, or the folder of a model.

    Raises:
        MissingError: there is no model, or no such source.
        DataError: the folder holds no scan, or the target cannot be a label map.
    """
    pairs = _pairs(source, target)
    model, name = current_model(root, organ, which)
    summary = Summary(name)
    for scan, output in track(pairs, "predict", len(pairs)):
        try:
            _label(model, scan, output)
        except HounsfieldError as error:
            summary.failed[scan.name] = str(error)
        else:
            summary.written.append(str(output))
    return summary


def current_model(root: Path, organ: str, which: str = "auto") -> tuple[Model, str]:
    """The model to use for an organ, and what to call it.

    The champion is used where there is one: it has earned it. Else the workspace's own.

    Raises:
        MissingError: there is none.
        ParamsError: there is no such organ.
    """
    if which not in ("auto", "champion", "latest"):
        return load_model(Path(which)), f"the model in {which}"
    if which != "latest":
        from pipeline.registry.models import ModelRegistry

        champion = ModelRegistry(root).champion(organ)
        if champion is not None:
            return load_model(champion.folder), f"{organ} version {champion.version} (champion)"
    latest = root / stage_files(root, "train", organ)["models"]
    if which != "champion" and (latest / CONFIG).is_file():
        return load_model(latest), f"the latest model of {organ} (not registered)"
    # An organ that nobody knows has no model either, but training it is not the way out.
    load_organ(root / "params.yaml", organ)
    wanted = "champion" if which == "champion" else "model"
    raise MissingError(f"'{organ}' has no {wanted} yet", f"run dvc repro register@{organ}")


def _pairs(source: Path, target: Path) -> list[tuple[Path, Path]]:
    """Each scan with the file its label map goes to."""
    if source.is_file():
        if target.name.endswith(SUFFIXES):
            return [(source, target)]
        if target.is_file():
            raise DataError(
                f"{target} is a file that cannot hold a label map",
                f"give a folder, or a name that ends with {' or '.join(SUFFIXES)}",
            )
        return [(source, target / _output_name(source))]
    if not source.is_dir():
        raise MissingError(f"{source} is not there", "give a scan or a folder of scans")
    if target.name.endswith(SUFFIXES) or target.is_file():
        raise DataError(f"{source} is a folder, so {target} must be one too", "give a folder as OUT")
    if target.resolve() == source.resolve():
        raise DataError(f"label maps would overwrite the scans in {source}", "give another folder as OUT")
    scans = scan_files(source)
    if not scans:
        raise DataError(
            f"{source} holds no {' or '.join(SUFFIXES)} file", "give the folder that holds the scans"
        )
    return [(scan, target / _output_name(scan)) for scan in scans]


def _output_name(scan: Path) -> str:
    return scan.name if scan.name.endswith(SUFFIXES) else f"{scan.name}.nii.gz"


def _label(model: Model, scan_path: Path, output: Path) -> None:
    if scan_path.resolve() == output.resolve():
        raise DataError(f"{scan_path.name}: the label map would overwrite the scan", "give another OUT")
    scan = read_scan(scan_path)
    write_labels(output, model.predict(scan_path.name, scan), scan.geometry)
