"""Whether the current data are like those a model was trained on.

A fingerprint keeps of a data set what a comparison needs and no case of it: quantiles, one histogram,
counts. It goes into the configuration of the model that is trained on the data.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pipeline.volumes.facts import HISTOGRAM

Fingerprint = Mapping[str, Any]
Verdict = Literal["none", "some", "strong"]

FINGERPRINT = "fingerprint_data"
"""Where a model's config.json keeps the fingerprint of what it was trained on."""
QUANTILES = 21
"""From the least to the greatest value, evenly."""
COARSER = 4
"""Bins of a case's histogram that are one bin here: shares are then seldom zero."""
RAREST = 1e-3
"""The least share that is reckoned with, so that an empty bin is no infinite difference."""
SOME_PSI, STRONG_PSI = 0.1, 0.25
"""Customary: N. Siddiqi, Credit Risk Scorecards (2006)."""
SOME_SHIFT, STRONG_SHIFT = 0.4, 1.0
"""Standard deviations of the earlier data, on average over the quantiles."""
SMALLEST_SPREAD = 0.1
"""Of the logarithm: where earlier values hardly differ, 10 % takes the place of their deviation."""
NOT_KNOWN = "not known"
"""The scanner of an image whose header does not say it, such as a NIfTI file's."""


@dataclass(frozen=True)
class Drift:
    """One comparison."""

    what: str
    measure: str
    """How the distance is measured."""
    distance: float
    verdict: Verdict
    sentence: str

    def record(self) -> dict[str, Any]:
        """As JSON-like content."""
        return asdict(self)


def fingerprint(accepted: pd.DataFrame, plan: Mapping[str, Any]) -> dict[str, Any]:
    """What is kept of a data set, JSON-like.

    Args:
        accepted: the accepted cases, rows of the case table.
        plan: of the organ, with `modality` and `labels`.
    """
    volumes = {name: pd.to_numeric(accepted[f"ml_{name}"], errors="coerce") for name in plan["labels"]}
    return {
        "cases": len(accepted),
        "modality": plan["modality"],
        "spacing": {axis: _quantiles(accepted[f"spacing_{axis}"]) for axis in "zyx"},
        "histogram": _mean_histogram(accepted["histogram"]),
        "volumes": {name: _quantiles(ml[ml > 0]) for name, ml in volumes.items()},
        "labelled": {name: int((ml > 0).sum()) for name, ml in volumes.items()},
        "scanners": _counts(accepted["scanner"]) if "scanner" in accepted else {},
    }


def drift(now: Fingerprint, then: Fingerprint) -> list[Drift]:
    """How far `now` is from `then`, subject by subject."""
    if now["modality"] != then["modality"]:
        told = f"the data are {now['modality']}, the model was trained on {then['modality']}"
        return [Drift("modality", "none", 1.0, "strong", told)]
    rows = [
        _shift(f"spacing along {axis}", "mm", now["spacing"][axis], then["spacing"][axis], _few(now, then))
        for axis in "zyx"
    ]
    rows.append(_histograms(now, then))
    rows += [_volume(name, now, then) for name in {**now["volumes"], **then["volumes"]}]
    rows.append(_scanners(now["scanners"], then["scanners"]))
    return rows


def verdict(rows: Sequence[Drift]) -> Verdict:
    """The strongest of all verdicts."""
    order: tuple[Verdict, ...] = ("none", "some", "strong")
    return max((row.verdict for row in rows), key=order.index, default="none")


def bins(modality: str) -> NDArray[np.float64]:
    """The middle of each bin of a fingerprint's histogram: HU or z-scores."""
    low, high = HISTOGRAM[modality]
    count = 64 // COARSER
    return low + (np.arange(count) + 0.5) * (high - low) / count


def _quantiles(values: "pd.Series[float]") -> list[float]:
    numbers = pd.to_numeric(values, errors="coerce").dropna().to_numpy(float)
    if not numbers.size:
        return []
    return [round(float(value), 6) for value in np.quantile(numbers, np.linspace(0, 1, QUANTILES))]


def _mean_histogram(column: "pd.Series[str]") -> list[float]:
    """Every case counts the same, however large its image."""
    shares = [json.loads(entry) for entry in column if isinstance(entry, str) and entry]
    if not shares:
        return []
    mean = np.mean(np.array(shares, float), axis=0).reshape(-1, COARSER).sum(axis=1)
    return [round(float(share), 6) for share in mean]


def _counts(column: "pd.Series[str]") -> dict[str, int]:
    counts = column.fillna("").map(str).value_counts()
    return {str(name) or NOT_KNOWN: int(count) for name, count in sorted(counts.items())}


def _few(now: Fingerprint, then: Fingerprint) -> float:
    """How far two samples of one distribution lie apart by chance, in standard deviations."""
    return float(np.sqrt(1 / max(now["cases"], 1) + 1 / max(then["cases"], 1)))


def _shift(what: str, unit: str, now: Sequence[float], then: Sequence[float], chance: float) -> Drift:
    """Wasserstein's distance between the logarithms, in standard deviations of the earlier data."""
    measure = "Wasserstein distance / deviation"
    if not now or not then:
        lacks = "now" if then else "then"
        found: Verdict = "strong" if now else "none"
        return Drift(what, measure, 0.0, found, f"{what}: no values {lacks}, nothing to compare")
    old, new = np.log(np.maximum(then, 1e-6)), np.log(np.maximum(now, 1e-6))
    spread = max(float(np.subtract(*np.quantile(old, (0.84, 0.16)))) / 2, SMALLEST_SPREAD)
    distance = float(np.abs(new - old).mean()) / spread
    # Of few cases a larger distance is needed before it means anything.
    found = _grade(distance, max(SOME_SHIFT, 1.5 * chance), max(STRONG_SHIFT, 3 * chance))
    middle = f"median {np.median(now):.3g} {unit}, it was {np.median(then):.3g} {unit}"
    return Drift(what, measure, round(distance, 4), found, f"{what}: {middle}")


def _volume(name: str, now: Fingerprint, then: Fingerprint) -> Drift:
    what = f"volume of {name}"
    if name not in then["volumes"]:
        return Drift(what, "none", 1.0, "strong", f"{name} was no label when the model was trained")
    if name not in now["volumes"]:
        return Drift(what, "none", 1.0, "strong", f"{name} is no label any more")
    counts = [{"cases": part["labelled"][name]} for part in (now, then)]
    return _shift(what, "ml", now["volumes"][name], then["volumes"][name], _few(*counts))


def _histograms(now: Fingerprint, then: Fingerprint) -> Drift:
    what = "HU histogram" if now["modality"] == "CT" else "histogram of z-scores"
    if not now["histogram"] or not then["histogram"]:
        return Drift(what, "PSI", 0.0, "none", f"{what}: not measured, nothing to compare")
    new, old = np.array(now["histogram"]), np.array(then["histogram"])
    distance = stability_index(new, old)
    place = int(np.abs(new - old).argmax())
    middle = float(bins(now["modality"])[place])
    changed = f"most changed near {middle:.4g}: {new[place]:.1%} of the voxels, they were {old[place]:.1%}"
    found = _grade(distance, SOME_PSI, STRONG_PSI)
    return Drift(what, "PSI", round(distance, 4), found, f"{what}: {changed}")


def _scanners(now: Mapping[str, int], then: Mapping[str, int]) -> Drift:
    names = sorted({*now, *then})
    if not now or not then or names == [NOT_KNOWN]:
        return Drift("scanner", "PSI", 0.0, "none", "scanner: not known, nothing to compare")
    counts = [np.array([part.get(name, 0) for name in names], float) for part in (now, then)]
    distance = stability_index(*(count / count.sum() for count in counts))
    # What so many categories differ by when nothing has changed.
    by_chance = (len(names) - 1) * sum(1 / float(count.sum()) for count in counts)
    unknown = [name for name in names if name in now and name not in then]
    told = (
        f"never seen before: {', '.join(unknown[:5])}" if unknown else f"{len(now)} kinds, none of them new"
    )
    found = _grade(distance, SOME_PSI + by_chance, STRONG_PSI + 2 * by_chance)
    return Drift("scanner", "PSI", round(distance, 4), found, f"scanner: {told}")


def stability_index(now: NDArray[np.float64], then: NDArray[np.float64]) -> float:
    """The population stability index of two lists of shares: 0 where they are equal."""
    new, old = np.maximum(now, RAREST), np.maximum(then, RAREST)
    return float(((new - old) * np.log(new / old)).sum())


def _grade(distance: float, some: float, strong: float) -> Verdict:
    if distance < some:
        return "none"
    return "some" if distance < strong else "strong"
