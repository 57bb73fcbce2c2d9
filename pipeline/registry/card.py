"""The model card: what a version is for, its data, how good it is and where it may fail.

After Mitchell et al., Model Cards for Model Reporting (FAT* 2019), as Markdown, from what the pipeline knows.
"""

import json
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np
import pandas as pd

from pipeline.metrics.bootstrap import interval, patient_numbers
from pipeline.metrics.case_table import united_in_words

NAME = "model_card.md"
FEW = 10
"""Of fewer cases a mean says little."""


def model_card(
    config: Mapping[str, Any],
    outcome: Mapping[str, Any],
    figures: pd.DataFrame,
    groups: Mapping[str, Sequence[str]],
    commit: str | None,
    patients: Mapping[str, str] = MappingProxyType({}),
    regions: pd.DataFrame | None = None,
    united: Mapping[str, Sequence[str]] = MappingProxyType({}),
) -> str:
    """The card of a version.

    Args:
        config: of the model, as `train` wrote it.
        outcome: of the gate, as in `registry/<organ>.json`.
        figures: case, label, dice on the test cases; NaN where undefined.
        groups: test cases by the name of their group.
        commit: that was checked out; None: not known.
        patients: whose a test case is; one that is not named is of a patient of its own.
        regions: as `figures`, of labels that are judged as one; None: there are none.
        united: the labels of each region.
    """
    labels = list(config["labels"])
    quality = ["On test cases that no training saw:", "", *_quality(figures, labels, patients, "label")]
    if regions is not None and united:
        quality += ["", f"Labels judged as one: {united_in_words(united)}.", ""]
        quality += _quality(regions, list(united), patients, "region")
    sections = {
        "Intended use": _use(config, labels),
        "Its data": _data(config.get("fingerprint_data") or {}),
        "How good it is": quality,
        "By group of cases": _by_group(figures, groups),
        "Why it is where it is": [f"{outcome['decision']}:", "", *(f"* {why}" for why in outcome["reasons"])],
        "Limits": _limits(config, figures),
        "Where it comes from": _origin(config, outcome, commit),
    }
    title = f"# {outcome['organ']}, version {outcome['challenger_version']}"
    parts = [title, *(f"## {name}\n\n" + "\n".join(lines) for name, lines in sections.items() if lines)]
    return "\n\n".join(parts) + "\n"


def _use(config: Mapping[str, Any], labels: Sequence[str]) -> list[str]:
    spacing = " × ".join(f"{one:g}" for one in config["spacing"])
    channels = config["recipe"].get("channels", 1)
    given = f"{config['modality']} volumes" + (f" of {channels} channels" if channels > 1 else "")
    return [
        f"Outlines {', '.join(labels)} in {given}, looked at with {spacing} mm (z, y, x) between voxels.",
        "For research, and as a draft that a person who knows the anatomy looks over. It is not a medical "
        "device, and nothing was proven about volumes unlike those below.",
    ]


def _data(fingerprint: Mapping[str, Any]) -> list[str]:
    if not fingerprint:
        return []
    rows = [f"* {fingerprint['cases']} cases, {fingerprint['modality']}, of the training and of the test"]
    labelled = fingerprint.get("labelled", {})
    if labelled:
        rows.append("* outlined in: " + ", ".join(f"{name} {count}" for name, count in labelled.items()))
    for axis, values in sorted(fingerprint.get("spacing", {}).items(), reverse=True):
        if values:
            rows.append(f"* spacing {axis}: {min(values):g} to {max(values):g} mm")
    for name, values in fingerprint.get("volumes", {}).items():
        if values:
            rows.append(f"* size of {name}: {min(values):.4g} to {max(values):.4g} ml")
    scanners = fingerprint.get("scanners", {})
    if scanners:
        rows.append("* scanners: " + ", ".join(f"{name} {count}" for name, count in scanners.items()))
    return rows


def _quality(figures: pd.DataFrame, labels: Sequence[str], patients: Mapping[str, str], of: str) -> list[str]:
    rows = [f"| {of} | cases | mean Dice | 95 % interval | lowest |", "|---|---|---|---|---|"]
    for label in labels:
        known = figures[figures["label"] == label].dropna(subset=["dice"])
        dice = known["dice"].to_numpy(np.float64)
        if not dice.size:
            rows.append(f"| {label} | 0 | not known | | |")
            continue
        ends = interval(dice, patient=patient_numbers(known["case"].tolist(), patients))
        sure = f"{ends[0]:.3f} to {ends[1]:.3f}" if ends else ""
        rows.append(f"| {label} | {dice.size} | {dice.mean():.3f} | {sure} | {dice.min():.3f} |")
    return rows


def _by_group(figures: pd.DataFrame, groups: Mapping[str, Sequence[str]]) -> list[str]:
    if not groups:
        return []
    rows = ["| group | cases | mean Dice |", "|---|---|---|"]
    of_case = figures.groupby("case")["dice"].mean()
    for name, cases in groups.items():
        dice = of_case[of_case.index.isin(list(cases))].dropna()
        rows.append(f"| {name} | {len(dice)} | {f'{dice.mean():.3f}' if len(dice) else 'not known'} |")
    return rows


def _limits(config: Mapping[str, Any], figures: pd.DataFrame) -> list[str]:
    cases = figures["case"].nunique()
    rows = ["* Outside the spacings, sizes and scanners above nothing was measured."]
    if cases < FEW:
        rows.append(f"* It was tested on {cases} cases only.")
    labelled = (config.get("fingerprint_data") or {}).get("labelled", {})
    whole = (config.get("fingerprint_data") or {}).get("cases", 0)
    partly = [name for name, count in labelled.items() if count < whole]
    if partly:
        rows.append(f"* Not outlined, or not there, in every one of its cases: {', '.join(partly)}.")
    kind = config["recipe"].get("annotation", {}).get("kind", "full")
    if kind != "full":
        rows.append(f"* It learned from annotations that are no full outlines ({kind}).")
    return rows


def _origin(config: Mapping[str, Any], outcome: Mapping[str, Any], commit: str | None) -> list[str]:
    return [
        f"* files: SHA-256 {outcome['content']}",
        f"* commit: {commit or 'not known'}",
        f"* network: `{json.dumps(config['network'], sort_keys=True)}`",
        f"* training: `{json.dumps(config['training'], sort_keys=True)}`",
    ]
