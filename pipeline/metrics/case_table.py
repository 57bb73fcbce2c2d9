"""The figures of each test case, as `evaluate` writes them down, and what they are about."""

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import pandas as pd

from pipeline.atomic import sha256_file, sha256_json

JUDGED = "judged"
"""In the metrics: what their figures are about."""
UNITED = "regions"
"""In the metrics: the labels that each region unites; absent where there are no regions."""
NAMES = ("case", "label")
"""What a row is of."""


def subject_of(models: Path, test: pd.DataFrame) -> str:
    """Short hash of a model and of the test cases it is judged on: scans, labels and how both are read."""
    # The configuration holds the checksums of the model's other files.
    cases = test[["case", "key"]].astype(str).to_numpy().tolist()
    return sha256_json({"model": sha256_file(models / "config.json"), "test": cases})[:12]


def read_cases(path: Path) -> pd.DataFrame:
    """A row a case and label, one of which may be called 'NA' or '001'; figures are NaN where undefined."""
    undefined = {name: ["", "nan", "NaN"] for name in pd.read_csv(path, nrows=0).columns if name not in NAMES}
    return pd.read_csv(
        path,
        dtype=dict.fromkeys(NAMES, str),
        keep_default_na=False,
        na_values=undefined,
        float_precision="round_trip",
    )


def labels_and_regions(figures: pd.DataFrame, labels: Collection[str]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The rows of a model's labels, and those of regions, which unite some of them.

    Args:
        figures: a row a case and label, or region.
        labels: of the model.
    """
    of_label = figures["label"].isin(list(labels))
    return figures[of_label].reset_index(drop=True), figures[~of_label].reset_index(drop=True)


def united_in_words(regions: Mapping[str, Sequence[str]]) -> str:
    """Which labels each region unites, in words."""
    return "; ".join(f"{name} is {' with '.join(labels)}" for name, labels in regions.items())
