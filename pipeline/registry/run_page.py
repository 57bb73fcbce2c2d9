"""What the run of a version shows on its page in MLflow: parameters, figures, learning curve, data.

Everything is logged with the time at which the run began and a step of its own, so that a registration
that was killed and is repeated adds nothing: MLflow takes the same value of the same moment for one.
"""

import json
import re
from collections import Counter
from collections.abc import Mapping
from posixpath import normpath
from typing import TYPE_CHECKING, Any

from pipeline.registry.origin import RAW, dataset_digest
from pipeline.registry.version import Data, Description

if TYPE_CHECKING:
    import pandas as pd

COMMIT = "mlflow.source.git.commit"
LEARNING = "learning"
"""What the curve's metrics begin with: `learning.loss`, `learning.dice`."""
BATCH = 800
"""Metrics sent at once: MLflow takes 1,000 values, of parameters and tags up to 100 each among them."""


def description_of(
    config: Mapping[str, Any], metrics: Mapping[str, Any], curves: "pd.DataFrame", known: Mapping[str, Any]
) -> Description:
    """What is told of a version: network and training, figures on the test cases, learning curve, data.

    Args:
        config: of the model, as `train` wrote it.
        metrics: by figure and label, as `evaluate` wrote them.
        curves: step, and what was measured there; NaN where it was not.
        known: what the version is made from, as `origin` tells it.
    """
    plain = {
        name: value for name, value in config["training"].items() if isinstance(value, str | int | float)
    }
    params = {"network": config["network"].get("name", ""), **plain}
    # Of regions, their labels stand beside the figures.
    figures = {
        figure: {label: value for label, value in values.items() if isinstance(value, int | float)}
        for figure, values in metrics.items()
        if isinstance(values, dict)
    }
    rows = curves.set_index("step").iterrows()
    splits = Counter(case["split"] for case in known["cases"])
    return Description(
        params={name: str(value) for name, value in params.items()},
        dice=figures.pop("dice"),
        commit=known["commit"],
        figures=figures,
        curve=[
            (int(str(step)), {str(name): float(value) for name, value in row.dropna().items()})
            for step, row in rows
        ],
        data=Data(f"{RAW}/{known['organ']}", dataset_digest(known), splits),
    )


def describe(client: Any, run: Any, description: Description) -> None:
    """Log a description to a run that is going on."""
    from mlflow.entities import Param, RunTag

    metrics = _metrics(description, run.info.start_time)
    params = [Param(_key(name), value) for name, value in description.params.items()]
    tags = [RunTag(COMMIT, description.commit)] if description.commit else []
    client.log_batch(run.info.run_id, metrics[:BATCH], params, tags)
    for first in range(BATCH, len(metrics), BATCH):
        client.log_batch(run.info.run_id, metrics[first : first + BATCH])
    if description.data is not None:
        client.log_inputs(run.info.run_id, [_dataset(description)])


def _metrics(description: Description, time: int) -> list[Any]:
    from mlflow.entities import Metric

    figures = {"dice": description.dice, **description.figures}
    last = [
        Metric(_key(f"{figure}.{label}"), value, time, 0)
        for figure, values in figures.items()
        for label, value in values.items()
    ]
    curve = [
        Metric(_key(f"{LEARNING}.{name}"), value, time, step)
        for step, values in description.curve
        for name, value in values.items()
    ]
    return last + curve


def _dataset(description: Description) -> Any:
    from mlflow.entities import Dataset, DatasetInput, InputTag

    data = description.data
    assert data is not None, "the caller looked"
    # The source says how it is asked for, not where it lies.
    source = json.dumps({"dvc": f"{data.name}.dvc", "md5": data.digest}, sort_keys=True)
    profile = json.dumps(dict(data.profile), sort_keys=True)
    entity = Dataset(data.name, data.digest, "dvc", source, profile=profile)
    return DatasetInput(entity, [InputTag("mlflow.data.context", "training and test")])


def _key(name: str) -> str:
    """`name` with the characters MLflow does not allow in keys replaced."""
    allowed = re.sub(r"[^/\w.\- :]", "_", name)
    # Nor does it take what would be another name as a path, such as that of a label `spleen/`.
    return allowed if normpath(allowed) == allowed else allowed.replace("/", "_")
