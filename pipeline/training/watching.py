"""Looks at whole volumes of the watched fold, while a network learns from the others."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch

from pipeline.inference.sliding_window import probabilities, windows
from pipeline.labels import UNKNOWN
from pipeline.metrics.overlap import dice
from pipeline.networks.base import Form, Network
from pipeline.training.data import unknown_classes
from pipeline.training.distributed import rank, world
from pipeline.training.exchange import added
from pipeline.training.normalisation import normalise
from pipeline.training.setting import Setting
from pipeline.training.views import Volume, judged

WATCHED, LEAST_WATCHED = 12, 3
"""Cases of the watched fold that are looked at while training; the test set is judged by `evaluate`."""
LOOK_OVERLAP = 0.25
"""Of windows of a look, half of what it is in a prediction: less than half as many in three dimensions."""


def affordable(
    cases: Sequence[str], volumes: Mapping[str, Volume], window: Sequence[int], form: Form, patches: int
) -> Sequence[str]:
    """The first cases, so many that a look has no more windows than patches were learned from before it.

    A window takes a third of the time of a patch. So looks at large volumes take a quarter of a training at
    most, unless their least number takes more.
    """
    counted = np.cumsum([windows(volumes[case].shape, window, form, LOOK_OVERLAP) for case in cases])
    return cases[: max(LEAST_WATCHED, int((counted <= patches).sum()))]


def looked_at(
    table: pd.DataFrame, cases: Sequence[str], volumes: Mapping[str, Volume], classes: list[str]
) -> list[tuple[Volume, list[bool]]]:
    """The volume of each case, and which classes nobody looked for in it."""
    annotated = table.drop_duplicates("case").set_index("case")["annotated"]
    return [(volumes[case], unknown_classes(annotated[case], classes)) for case in cases]


def watched_dice(
    cases: list[tuple[Volume, list[bool]]], config: dict[str, Any], setting: Setting
) -> Callable[[Network], float]:
    """A function that gives the mean Dice of a network over whole volumes of the watched fold.

    With each case come the classes that nobody looked for in it; they do not count. Several processes look at
    some cases each.
    """
    classes = len(config["labels"]) + 1

    def watch(network: Network) -> float:
        scores: list[float] = []
        for number, (case, unknown) in enumerate(cases):
            known = [value for value in range(1, classes) if not unknown[value]]
            if number % world() != rank():
                scores += [0.0] * len(known)
                continue
            image = normalise(torch.from_numpy(case.image()).to(setting.device), setting.normalisation)
            share = probabilities(
                network, image, config["patch_size"], classes, setting.precision, overlap=LOOK_OVERLAP
            )
            truth, predicted = judged(case, share.argmax(dim=0).to(torch.uint8).cpu().numpy())
            predicted[truth == UNKNOWN] = UNKNOWN
            scores += [dice(truth, predicted, value) for value in known]
        found = np.array(added(scores))
        # There may be no label in any of the cases, neither true nor found.
        return float("nan") if np.isnan(found).all() else float(np.nanmean(found))

    return watch
