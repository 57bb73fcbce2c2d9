"""The version that a person asks for: by its number, or as the champion."""

from pathlib import Path

from pipeline.atomic import read_json
from pipeline.errors import MissingError
from pipeline.params import load_organ, read_params
from pipeline.registry.models import ModelRegistry
from pipeline.registry.version import Version


def asked_version(registry: ModelRegistry, root: Path, organ: str, number: int | None) -> Version:
    """The version of a number; None: the champion, of the project at `root`.

    Raises:
        MissingError: there is none.
    """
    chosen = registry.champion_version(organ) if number is None else number
    if chosen is None:
        raise missing_champion(root, organ)
    return registry.version(organ, chosen)


def missing_champion(root: Path, organ: str) -> MissingError:
    """What a person is told who asks for the champion of an organ that has none.

    Raises:
        ParamsError: `params.yaml` has no such organ.
    """
    # It draws, which nothing else here does.
    from pipeline.reports.decision import NAME as PAGE

    params = root / "params.yaml"
    if organ not in read_params(params)["organs"]:
        # It says which there are; what else may be wrong with the parameters is not asked here.
        load_organ(params, organ)
    record = Path("registry") / f"{organ}.json"
    if (root / record).is_file() and read_json(root / record)["champion_version"] is not None:
        # As in a clone: what a run wrote is there, and the registry that it wrote to is elsewhere.
        return MissingError(
            f"{organ}: {record} tells of a champion, but the model registry has none",
            "name the registry that has it by HOUNSFIELD_HOME or MLFLOW_TRACKING_URI, or have the model of "
            f"models/{organ} decided about here: dvc repro --force --single-item register@{organ}",
        )
    page = Path("reports") / organ / PAGE
    if (root / page).is_file():
        # The stage was run: to run it again would change nothing.
        return MissingError(f"{organ}: there is no champion", f"{page} says what became of the last model")
    return MissingError(f"{organ}: there is no champion yet", f"run dvc repro register@{organ}")
