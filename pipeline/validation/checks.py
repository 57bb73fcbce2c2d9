"""Which expectations hold for the data at hand: the suites, with the numbers of plan and parameters.

The expectations themselves are in `suites/*.yaml`, for people to read and to change.
"""

from collections.abc import Sequence
from typing import Any

import pandas as pd

from pipeline.params import ValidateParams
from pipeline.validation.derived import AXES, needed_columns
from pipeline.validation.organs import kind_of, pairs, side_of
from pipeline.validation.suites import Check, Context, suite
from pipeline.validation.usual import usual_volume, volume_limits

CASE_SUITES = ("files", "geometry", "intensity", "anatomy")
"""In the order in which the first error of a case is its reason."""
ONE_PIECE = 0.9
"""Of an organ that should hang together."""
FAR_SIDE = 0.6
"""Of the way through the body, where an organ lies in the wrong half beyond doubt."""


def table_checks(labels: Sequence[str]) -> list[Check]:
    """What must hold of the table of all cases found; where one fails, no case can be judged."""
    return suite("table", {"columns": needed_columns(labels)})


def case_checks(organ: str, cases: pd.DataFrame, plan: dict[str, Any], params: ValidateParams) -> list[Check]:
    """What is expected of each of `cases`, which have the columns of `case_columns`."""
    least, most = params.spacing_range
    common = {"organ": organ, "spacing_least": least, "spacing_most": most}
    each: dict[str, list[Context]] = {
        "axis": _axes(plan["spacing"]),
        "label": [_label(name, cases) for name in plan["labels"]],
        "pair": [{"left": left, "right": right} for left, right in pairs(plan["labels"])],
    }
    return [check for name in CASE_SUITES for check in suite(name, common, each, plan["modality"])]


def dataset_checks(found: int, accepted: int, labels: Sequence[str], params: ValidateParams) -> list[Check]:
    """What is expected of the data set as a whole."""
    common: Context = {
        "found": found,
        "quarantined": found - accepted,
        "max_quarantined_share": params.max_quarantined_share,
        "min_cases": params.min_cases,
        "folds": params.folds,
    }
    return suite("dataset", common, {"label": [{"label": name} for name in labels]})


def _axes(planned: Sequence[float]) -> list[Context]:
    """`planned` is the spacing of the volumes, (z, y, x) mm."""
    return [
        {"axis": axis, "direction": direction, "planned_mm": millimetres}
        for (axis, direction), millimetres in zip(AXES.items(), planned, strict=True)
    ]


def _label(name: str, cases: pd.DataFrame) -> Context:
    kind, side = kind_of(name), side_of(name)
    smallest, largest, said = volume_limits(kind, usual_volume(cases[f"present_ml_{name}"]))
    darkest, brightest = kind.hu if kind and kind.hu else (None, None)
    return {
        "label": name,
        "smallest_ml": smallest,
        "largest_ml": largest,
        "ml_is": said,
        "darkest_hu": darkest,
        "brightest_hu": brightest,
        "largest_piece": ONE_PIECE if kind and kind.pieces == "one" else None,
        "side": side,
        "leftmost": side and (-1.0 if side == "left" else 1 - FAR_SIDE),
        "rightmost": side and (2.0 if side == "right" else FAR_SIDE),
    }
