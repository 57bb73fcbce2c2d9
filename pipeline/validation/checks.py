"""The expectations: the one place where it is declared what must hold of a table and of a case.

A check is a Great Expectations rule on one column, with what to tell a person whose case fails it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd
from great_expectations import expectations as expect

from pipeline.params import ValidateParams

AXES = {"z": "feet to head", "y": "back to front", "x": "left to right"}
SMALLEST_EDGE = 8
"""Voxels; a thinner volume has no context to learn from."""
AIR_BELOW = -500.0
"""HU. A CT whose darkest voxel is brighter holds no air."""
COARSE = 4.0
"""Times the planned spacing; beyond it most of what a network sees is interpolated."""
OUTLIER = 6.0
"""Robust standard deviations from the median organ."""
ENOUGH_ORGANS = 8
"""Fewer are no distribution to be an outlier of."""
SMALLEST_SPREAD = 0.05
"""Of the logarithm of an organ's volume: differences below 5 % are no matter of concern."""


@dataclass(frozen=True)
class Check:
    """One expectation."""

    name: str
    title: str
    """What should hold, in words."""
    rule: Any
    """The Great Expectations expectation; a case passes where its column is empty."""
    severity: Literal["error", "warning"]
    """error: the case is not learnt from; warning: it is, and marked."""
    reason: str
    """What is wrong, about one case: `{value}` is what was found, `{first}` the case that had it before."""
    remedy: str


def table_checks(labels: Sequence[str]) -> list[Check]:
    """What must hold of the table of all cases found; where one fails, no case can be judged."""
    names = [*("case", "status", "reason", "remedy"), *measured_columns(labels)]
    columns = expect.ExpectTableColumnsToMatchSet(column_set=names, exact_match=False)
    status = expect.ExpectColumnValuesToBeInSet(column="status", value_set=["accepted", "quarantined"])
    unique = expect.ExpectColumnValuesToBeUnique(column="case")
    return [
        Check(
            "columns",
            "the case table has the columns that are judged",
            columns,
            "error",
            "the case table lacks {value}",
            "run the ingest stage again; it may be older than params.yaml or the code",
        ),
        Check(
            "status",
            "every case is accepted or quarantined",
            status,
            "error",
            "its status is '{value}', neither accepted nor quarantined",
            "run the ingest stage again",
        ),
        Check(
            "case_unique",
            "every case has a name of its own",
            unique,
            "error",
            "another case has the same name",
            "rename one of the two under data/raw",
        ),
    ]


def measured_columns(labels: Sequence[str]) -> list[str]:
    """The columns that no accepted case may leave empty."""
    geometry = [f"{quantity}_{axis}" for quantity in ("shape", "spacing") for axis in AXES]
    return ["patient", "key", *geometry, "intensity_min", "intensity_max", *(f"ml_{name}" for name in labels)]


def case_checks(organ: str, cases: pd.DataFrame, plan: dict[str, Any], params: ValidateParams) -> list[Check]:
    """What is expected of each of `cases`, with the columns that `judge_cases` adds."""
    checks = [*_file_checks(organ), *_spacing_checks(plan["spacing"], params.spacing_range), *_shape_checks()]
    if plan["modality"] == "CT":
        checks.append(_air_check())
    for name in plan["labels"]:
        checks.append(_presence_check(name))
        usual = usual_volume(cases[f"ml_{name}"])
        if usual:
            checks.append(_volume_check(name, *usual))
    return checks


def _file_checks(organ: str) -> list[Check]:
    again = f"dvc repro --force --single-item ingest@{organ}"
    return [
        Check(
            "complete",
            "nothing that is measured of a case is missing",
            expect.ExpectColumnValuesToBeBetween(column="missing", max_value=0),
            "error",
            "{value:g} of its measurements are missing from the case table",
            f"run {again}",
        ),
        Check(
            "stored",
            "the volume of the case is there",
            expect.ExpectColumnValuesToBeInSet(column="stored", value_set=[True]),
            "error",
            f"its volume is not in data/volumes/{organ}",
            f"run dvc checkout, or {again}",
        ),
        Check(
            "content_unique",
            "no case is a copy of another",
            expect.ExpectColumnValuesToBeUnique(column="key"),
            "error",
            "image and label map are a copy of {first}",
            "remove one of the two from data/raw; if the patients differ, find out whose scan it is",
        ),
        Check(
            "contrast",
            "the image has more than one grey value",
            expect.ExpectColumnPairValuesAToBeGreaterThanB(
                column_A="intensity_max", column_B="intensity_min"
            ),
            "error",
            "every voxel of the image is {value:g}",
            "export the image again from its source",
        ),
    ]


def _spacing_checks(planned: Sequence[float], spacing_range: tuple[float, float]) -> list[Check]:
    """Of each axis; `planned` is the spacing of the volumes, (z, y, x) mm."""
    low, high = spacing_range
    checks = []
    for (axis, direction), millimetres in zip(AXES.items(), planned, strict=True):
        column, along = f"spacing_{axis}", f"along {axis} ({direction})"
        inside = expect.ExpectColumnValuesToBeBetween(column=column, min_value=low, max_value=high)
        fine = expect.ExpectColumnValuesToBeBetween(column=column, max_value=COARSE * millimetres)
        checks += [
            Check(
                column,
                f"voxels measure {low:g} to {high:g} mm {along}",
                inside,
                "error",
                f"its voxels measure {{value:.4g}} mm {along}, outside {low:g} to {high:g} mm",
                "mend the spacing in the header, or widen validate.spacing_range in params.yaml",
            ),
            Check(
                f"fine_{axis}",
                f"voxels measure at most {COARSE:g} times the planned {millimetres:g} mm {along}",
                fine,
                "warning",
                f"its voxels measure {{value:.4g}} mm {along}, planned are {millimetres:g} mm",
                "use a reconstruction with thinner slices if there is one",
            ),
        ]
    return checks


def _shape_checks() -> list[Check]:
    return [
        Check(
            f"shape_{axis}",
            f"the image has at least {SMALLEST_EDGE} voxels along {axis} ({direction})",
            expect.ExpectColumnValuesToBeBetween(column=f"shape_{axis}", min_value=SMALLEST_EDGE),
            "error",
            f"the image has {{value:g}} voxels along {axis} ({direction}), fewer than {SMALLEST_EDGE}",
            "use the whole scan, not a localiser or a single slice",
        )
        for axis, direction in AXES.items()
    ]


def _air_check() -> Check:
    return Check(
        "air",
        f"a CT holds air, below {AIR_BELOW:g} HU",
        expect.ExpectColumnValuesToBeBetween(column="intensity_min", max_value=AIR_BELOW, strict_max=True),
        "warning",
        f"its darkest voxel has {{value:g}} HU, but air lies below {AIR_BELOW:g} HU",
        "leave it if the scan is cropped to the body; else its values are not HU: set ingest.hu_offset",
    )


def _presence_check(name: str) -> Check:
    return Check(
        f"present_{name}",
        f"{name} is labelled",
        expect.ExpectColumnValuesToBeBetween(column=f"ml_{name}", min_value=0, strict_min=True),
        "warning",
        f"{name} is absent from the label map",
        "leave it if the organ is not in the scan; else add it to the label map",
    )


def _volume_check(name: str, low: float, high: float) -> Check:
    return Check(
        f"volume_{name}",
        f"{name} has {low:.3g} to {high:.3g} ml, where it is labelled",
        expect.ExpectColumnValuesToBeBetween(column=f"present_ml_{name}", min_value=low, max_value=high),
        "warning",
        f"{name} has {{value:.3g}} ml, usual in these data are {low:.3g} to {high:.3g} ml",
        "look at the label map: a part may be missing, something else labelled, or the spacing wrong",
    )


def usual_volume(millilitres: "pd.Series[float]") -> tuple[float, float] | None:
    """The volumes within `OUTLIER` robust standard deviations of the median; None if too few are known.

    Judged on the logarithm: organs are about log-normal, and half as much is as odd as twice as
    much. The standard deviation is 1.4826 times the median absolute deviation, which outliers do
    not move (F. Hampel, Journal of the American Statistical Association 69, 1974).
    """
    present = millilitres[millilitres > 0].astype(float)
    if len(present) < ENOUGH_ORGANS:
        return None
    logarithm: pd.Series[float] = present.map(np.log)
    middle = float(logarithm.median())
    spread = max(1.4826 * float((logarithm - middle).abs().median()), SMALLEST_SPREAD)
    return float(np.exp(middle - OUTLIER * spread)), float(np.exp(middle + OUTLIER * spread))
