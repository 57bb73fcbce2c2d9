"""On which cases a challenger and a champion can be compared: those that neither has learned from.

The test set is frozen, but not for ever: another `validate.test_share` or `validate.split_seed` draws it
anew. An earlier champion may have learned from some of it, and would look better there than it is.
"""

import json
from collections.abc import Mapping
from typing import Any

from pipeline.atomic import read_json
from pipeline.registry.models import ModelRegistry
from pipeline.registry.origin import NAME as LINEAGE
from pipeline.registry.origin import SCRATCH
from pipeline.registry.version import RegisteredModel


def learned_cases(
    registry: ModelRegistry, champion: RegisteredModel, config: Mapping[str, Any], patients: Mapping[str, str]
) -> set[str]:
    """The cases whose patients the champion has learned from, or a model that one of the two began with.

    Cases are missed where somebody deleted the evidence. Models of other organs are passed over, as they
    learned other labels. An old lineage names cases alone, and not what a training began with.

    Args:
        registry: that knows the models.
        champion: the current one.
        config: of the challenger.
        patients: whose a case is, of all current cases.

    Raises:
        MissingError: the registry cannot be used.
    """
    own = read_json(champion.folder / "config.json")
    wanted, done = [champion.content, start_of(own), start_of(config)], {SCRATCH}
    seen: set[str] = set()
    while wanted:
        content = wanted.pop()
        if content in done:
            continue
        done.add(content)
        version = registry.find(champion.organ, content)
        if version is None or LINEAGE not in registry.evidence_names(version):
            continue
        lineage = json.loads(registry.evidence(version, LINEAGE))
        wanted.append(lineage.get("start", SCRATCH))
        seen |= {_patient(one, patients) for one in lineage["cases"] if one["split"] == "train"}
    return {case for case, patient in patients.items() if patient in seen}


def start_of(config: Mapping[str, Any]) -> str:
    """Hash of the model that a training began with, or `scratch`."""
    return str(config.get("training", {}).get("start", SCRATCH))


def _patient(record: Mapping[str, Any], patients: Mapping[str, str]) -> str:
    """Whose a case was; a case that is called otherwise now is found by its patient."""
    return str(record.get("patient", patients.get(record["case"], "")))


def cannot_be_judged(champion: RegisteredModel, config: Mapping[str, Any], left: int) -> str:
    """Why the champion cannot be judged on the current test cases; '' if it can.

    Args:
        champion: the current one.
        config: of the challenger, which has learned from cases as they are now.
        left: test cases that can be compared.
    """
    told = f"version {champion.version}"
    before, now = (_images(one) for one in (read_json(champion.folder / "config.json"), config))
    if before == now:
        return "" if left else f"No test case is left that the champion, {told}, has not learned from"
    learned = f"The champion, {told}, was trained on {before} a case"
    return f"{learned}, and a case has {now} now: it cannot be judged"


def _images(config: Mapping[str, Any]) -> str:
    """What a case consists of."""
    count = config["recipe"].get("channels", 1)
    return f"{'one image' if count == 1 else f'{count} images'} of {config['modality']}"
