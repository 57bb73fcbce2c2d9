"""Groups of test cases that are alike in something a model may stumble over."""

import numpy as np
import pandas as pd

Groups = dict[str, list[str]]
"""Cases by the name of their group."""


def subgroups(test: pd.DataFrame) -> Groups:
    """The test cases by scanner, by distance of slices, and by size of what was labelled.

    What all cases have alike makes no group.

    Args:
        test: rows of the accepted table: case, and of these what there is: scanner, spacing_z, spacing_y,
            spacing_x (mm), ml_LABEL (millilitres).
    """
    groups: Groups = {}
    if "scanner" in test:
        scanners = test["scanner"].fillna("").astype(str)
        for scanner in sorted(set(scanners) - {""}) if scanners.nunique() > 1 else ():
            groups[f"scanner {scanner}"] = test.loc[scanners == scanner, "case"].tolist()
    spacings = [f"spacing_{axis}" for axis in "zyx" if f"spacing_{axis}" in test]
    if spacings:
        groups |= _halves(test, test[spacings].max(axis=1), "spacing", "mm")
    sizes = [column for column in test if str(column).startswith("ml_")]
    if sizes:
        groups |= _halves(test, test[sizes].sum(axis=1), "size", "ml")
    return groups


def _halves(test: pd.DataFrame, values: "pd.Series[float]", what: str, unit: str) -> Groups:
    """The cases up to the median, and those above it; only its name is rounded."""
    middle = float(values.median())
    above = values > middle
    if not above.any():
        return {}
    told = f"{np.round(middle, 3):g}"
    return {
        f"{what} up to {told} {unit}": test.loc[~above, "case"].tolist(),
        f"{what} above {told} {unit}": test.loc[above, "case"].tolist(),
    }
