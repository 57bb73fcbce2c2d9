"""The embedded default data: the phantom, where `params.yaml` expects it, under DVC."""

from pathlib import Path

from pipeline.errors import DataError
from pipeline.onboarding.add import RAW
from pipeline.onboarding.versioning import run_dvc
from pipeline.progress import bar, console

ORGAN = "abdomen"
"""The organ of `params.yaml` that the phantom belongs to."""


def make_default_data(root: Path, patients: int, seed: int, size: float) -> None:
    """Make the phantom in the project at `root` and put it under DVC.

    Raises:
        DataError: another data set stands in its place.
    """
    from pipeline.phantom.dataset import make_phantom

    with bar() as progress:
        task = progress.add_task("phantom", total=patients)
        try:
            make_phantom(
                root / RAW / ORGAN,
                patients,
                seed,
                size=size,
                progress=lambda done, _: progress.update(task, completed=done),
            )
        except DataError as error:
            # It is the organ's own folder: there is no other to choose.
            raise DataError(error.reason, "move it elsewhere or remove it, and the phantom is made") from None
    run_dvc(root, "add", str(RAW / ORGAN))
    console.print(f"{patients} phantom patients in {RAW / ORGAN}, under DVC; next: dvc repro")
