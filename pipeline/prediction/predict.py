"""Label maps for scans on disk, by the current model."""

import json
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pipeline.atomic import output_folder, remove_partial_of
from pipeline.errors import DataError, HounsfieldError, MissingError
from pipeline.inference.model import CONFIG, WEIGHTS, Model, load_model
from pipeline.params import load_organ
from pipeline.prediction.scans import DICOM, WRITTEN, Input, check_target, dicom_path, image_files, inputs_in
from pipeline.progress import console, track
from pipeline.volumes.readers import begins_as_dicom, read_channels
from pipeline.volumes.readers.nifti import write_labels
from pipeline.workspace import stage_files

if TYPE_CHECKING:
    from pipeline.registry.version import RegisteredModel

Format = Literal["nifti", "dicom-seg", "rtstruct"]


@dataclass
class Summary:
    """What became of every scan."""

    model: str
    written: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    """Reason, by the name of the file."""
    left_out: list[str] = field(default_factory=list)
    """What the folder holds besides, counted, a phrase a kind."""
    exit_code: int = 0
    """Of the command: the highest of what failed."""

    def show(self, as_json: bool, seconds: float) -> None:
        """Tell it to a person on stderr, or to a machine on stdout."""
        if as_json:
            print(json.dumps(asdict(self)))
            return
        for reason in self.failed.values():
            console.print(f"not labelled: {reason}", markup=False)
        for phrase in self.left_out:
            console.print(f"not looked at: {phrase}", markup=False)
        console.print(f"{len(self.written)} label maps by {self.model} in {seconds:.1f} s", markup=False)


def predict_scans(
    root: Path, organ: str, source: Path, target: Path, which: str, written_as: Format = "nifti"
) -> Summary:
    """Label every scan of `source`; one that cannot be labelled does not stop the others.

    Args:
        root: of the project.
        organ: of params.yaml.
        source: a scan, or a folder of scans.
        target: where the label map goes, or a folder for them (for a folder of scans always).
        which: auto (champion, else the latest), champion, challenger, latest, the number of a version, or the
            folder of a model.
        written_as: NIfTI, or for DICOM series a segmentation (SEG) or contours (RTSTRUCT) that refer to the
            series.

    Raises:
        MissingError: there is no model, no such source, or nothing can be written there.
        DataError: the folder holds no scan, or the target cannot be a label map.
    """
    check_target(source, target, WRITTEN if written_as == "nifti" else (DICOM,))
    model, name = current_model(root, organ, which)
    inputs, left_out = inputs_in(source, target, model.recipe.channels)
    if written_as != "nifti":
        inputs = [replace(one, output=dicom_path(source, target, one.output)) for one in inputs]
    # Hours of computing would end in the same sentence for each scan.
    output_folder(inputs[0].output.parent)
    remove_partial_of(*(one.output for one in inputs))
    summary = Summary(name, left_out=left_out)
    for one in track(inputs, "predict", len(inputs)):
        try:
            if str(one.output) in summary.written:
                raise DataError(
                    f"{one.name}: {one.output.name} is the label map of another scan", "rename one of them"
                )
            _label(model, one, written_as, name)
        except HounsfieldError as error:
            summary.failed[one.name] = str(error)
            summary.exit_code = max(summary.exit_code, error.exit_code)
        else:
            summary.written.append(str(one.output))
    return summary


def current_model(root: Path, organ: str, which: str = "auto") -> tuple[Model, str]:
    """The model to use for an organ, and what to call it.

    The champion is used where there is one: it has earned it. Else the workspace's own.

    Args:
        root: of the project.
        organ: of params.yaml.
        which: as of `predict_scans`.

    Raises:
        MissingError: there is none.
        DataError: its files are not those that were saved or registered.
        ParamsError: there is no such organ.
    """
    if which not in ("auto", "champion", "challenger", "latest") and not which.isdecimal():
        if not Path(which).is_dir():
            known = "auto, champion, challenger, latest, a version's number or a model's folder"
            raise MissingError(f"the model '{which}' is no folder that is there", f"give {known}")
        model = load_model(Path(which))
        # Not its folder: what it is called goes into DICOM files, and a path may name a person.
        return model, f"the {model.config.get('organ', organ)} model {model.config['sha256'][WEIGHTS][:12]}"
    if which != "latest":
        registered = _registered(root, organ, which)
        if registered is not None:
            also = "" if which.isdecimal() else f" ({'champion' if which == 'auto' else which})"
            return load_model(registered.folder), f"{organ} version {registered.version}{also}"
    latest = root / stage_files(root, "train", organ)["models"]
    if which in ("auto", "latest") and (latest / CONFIG).is_file():
        return load_model(latest), f"the latest model of {organ} (not registered)"
    if which == "champion":
        from pipeline.registry.asked import missing_champion

        raise missing_champion(root, organ)
    # An organ that nobody knows has no model either, but training it is not the way out.
    load_organ(root / "params.yaml", organ)
    wanted = "challenger" if which == "challenger" else "model"
    raise MissingError(f"'{organ}' has no {wanted} yet", f"run dvc repro register@{organ}")


def _registered(root: Path, organ: str, which: str) -> "RegisteredModel | None":
    """The version of this number or alias (auto: the champion); None where nothing has the alias."""
    # MLflow is loaded where a registry is asked.
    from pipeline.registry.models import ModelRegistry

    registry = ModelRegistry(root)
    if which.isdecimal():
        return registry.model(organ, int(which))
    if which != "challenger":
        return registry.champion(organ)
    number = registry.challenger_version(organ)
    return None if number is None else registry.model(organ, number)


def _label(model: Model, one: Input, written_as: Format, maker: str) -> None:
    if one.problem is not None:
        raise DataError(f"{one.name}: {one.problem.reason}", one.problem.remedy)
    images = [image_files(paths) if paths else () for paths in one.images]
    if one.output.resolve() in {path.resolve() for paths in images for path in paths}:
        raise DataError(f"{one.name}: the label map would overwrite the scan", "give another OUT")
    first = next((paths for paths in images if paths), ())
    if written_as != "nifti" and not all(map(begins_as_dicom, first)):
        raise DataError(
            f"{one.name} is no DICOM series, which {written_as} would refer to",
            "write NIfTI, without --format",
        )
    if written_as != "nifti" and one.output.is_file() and not _may_be_replaced(one.output):
        raise DataError(
            f"{one.name}: {one.output} is there already, and neither a segmentation nor contours",
            "give another OUT",
        )
    scans = [scan for paths in images for scan in (read_channels(*paths) if paths else [None])]
    labels = model.predict(one.name, scans)
    if written_as == "nifti":
        write_labels(one.output, labels, model.given(one.name, scans)[0].geometry)
        return
    from pipeline.writers.rtstruct import write_rtstruct
    from pipeline.writers.segmentation import write_segmentation

    write = write_segmentation if written_as == "dicom-seg" else write_rtstruct
    write(one.output, labels, first, model.recipe.labels, maker)


def _may_be_replaced(path: Path) -> bool:
    """Whether it is DICOM as is written here; an image would be lost."""
    from pipeline.volumes.layouts.dicom_masks import CONTOURS, SEGMENTATION
    from pipeline.volumes.readers.annotation import modality

    try:
        return modality(path) in (CONTOURS, SEGMENTATION)
    except DataError:
        return False
