"""How `train` begins in a run: from the champion or from scratch, written down as a parameter.

The parameter is the hash of the model's files. So the training is a function of its files still: what
it began from is in `params.yaml` of the run's commit, and another champion is another value.
"""

import shutil
from pathlib import Path

from pipeline.atomic import write_text
from pipeline.progress import console
from pipeline.registry.artifacts import content_of
from pipeline.registry.models import ModelRegistry
from pipeline.runs.editing import with_values
from pipeline.runs.workspaces import Run

SCRATCH = "scratch"


def begin_with(run: Run, start: str) -> None:
    """Set `train.start` in the workspace's `params.yaml`.

    Args:
        run: whose workspace it is.
        start: warm, from the champion, or scratch.

    Raises:
        DataError: the champion's files are not those that were registered.
        MissingError: they are gone, or the registry cannot be used.
    """
    value = SCRATCH
    if start == "warm":
        champion = ModelRegistry(Path(run.project), Path(run.home)).champion(run.organ)
        if champion is None:
            console.print(f"{run.organ}: there is no champion to start from yet", markup=False)
        else:
            value = champion.content
            _keep(champion.folder, Path(run.home) / "champions" / champion.content)
    path = run.folder / "params.yaml"
    text = path.read_bytes().decode("utf-8")
    write_text(path, with_values(text, {("organs", run.organ, "train", "start"): value}))


def _keep(folder: Path, kept: Path) -> None:
    """Have the model where `train` finds it without asking the registry, which it may not reach."""
    if kept.is_dir() and content_of(kept) == kept.name:
        return
    partial = kept.with_name(f".{kept.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    shutil.rmtree(kept, ignore_errors=True)
    shutil.copytree(folder, partial)
    partial.rename(kept)
