"""How label maps are tidied up, chosen on the cases that the networks have not learned from."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from pipeline.inference.cleaning import Cleaning, adopt, candidates, tried
from pipeline.labels import UNKNOWN
from pipeline.metrics.bootstrap import patient_numbers
from pipeline.progress import console, track
from pipeline.training.data import unknown_classes
from pipeline.training.material import Material, Trained, as_model
from pipeline.volumes.recipe import class_indices
from pipeline.volumes.store import SUFFIX, StoredCase

Dice = dict[str, list[list[float]]]


def helpful_cleaning(
    members: Sequence[Trained], material: Material, patients: Mapping[str, str]
) -> dict[str, dict[str, Any]]:
    """How label maps are tidied up: for each label that gains by it, what is done and what spoke for it.

    Every case of a fold that was left out is predicted by the network that has not learned from it, at the
    network's spacing.

    Args:
        members: networks, each with its own fold left out (`config["training"]["fold"]`).
        material: what they were made from.
        patients: whose a case is.
    """
    classes = list(class_indices(material.plan["labels"]))
    volumes = material.fingerprint.get("volumes", {})
    steps = {name: candidates(min(volumes.get(name) or [0.0])) for name in classes}
    dice: Dice = {name: [] for name in classes}
    judged: dict[str, list[str]] = {name: [] for name in classes}
    cases = material.table.drop_duplicates("case")
    for member in members:
        model = as_model(member)
        left_out = cases[cases["fold"] == member.config["training"]["fold"]]
        for row in track(left_out.itertuples(), "cross-validate", len(left_out)):
            case = StoredCase(material.volumes / f"{row.case}{SUFFIX}")
            slabs = model.slabs(torch.from_numpy(case.image()))
            found = torch.cat([slab.argmax(0).to(torch.uint8).cpu() for slab in slabs]).numpy()
            truth, nobody = case.label(), unknown_classes(str(row.annotated), classes)
            unknown = truth == UNKNOWN if (truth == UNKNOWN).any() else None
            for value, name in enumerate(classes, start=1):
                if not nobody[value]:
                    spacing = tuple(material.plan["spacing"])
                    judged[name].append(str(row.case))
                    dice[name].append(tried(truth == value, found == value, steps[name], spacing, unknown))
    taken = {
        name: adopt(steps[name], np.array(dice[name]), patient_numbers(judged[name], patients))
        for name in classes
        if dice[name]
    }
    return _told({name: how for name, how in taken.items() if how is not None})


def _told(taken: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    for name, how in taken.items():
        step = Cleaning(how["largest"], how["minimum_ml"], how["fill_holes"])
        gain, count = how["gain"], how["cases"]
        console.print(
            f"{name}: {step.sentence}; Dice of {count} left out cases gains {gain:.4f}", markup=False
        )
    return taken
