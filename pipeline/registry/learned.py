"""On which cases a challenger and a champion can be compared: those that neither has learned from.

The test set is frozen, but not for ever: another `validate.test_share` or `validate.split_seed` draws it
anew, and a champion of before has then learned from some of it, and would look better there than it is.
"""

import json
from collections.abc import Mapping
from typing import Any

from pipeline.atomic import read_json
from pipeline.errors import DataError, MissingError
from pipeline.registry.models import ModelRegistry, RegisteredModel, Version
from pipeline.registry.origin import NAME as LINEAGE

SCRATCH = "scratch"


def learned_cases(
    registry: ModelRegistry, champion: RegisteredModel, config: Mapping[str, Any], patients: Mapping[str, str]
) -> set[str]:
    """The cases whose patients the champion has learned from, or a model that one of the two began with.

    What an evidence that somebody deleted would say is not known, nor what models of other organs saw, which
    learned other labels.

    Args:
        registry: that knows the models.
        champion: of now.
        config: of the challenger.
        patients: whose a case is, of all cases of now.
    """
    cases, wanted, done = set[str](), [champion.content, _start(config)], {SCRATCH}
    while wanted:
        content = wanted.pop()
        if content in done:
            continue
        done.add(content)
        version = registry.find(champion.organ, content)
        if version is not None:
            cases |= _trained_on(registry, version)
            wanted.append(_began_with(registry, version))
    seen = {patients[case] for case in cases if case in patients}
    return {case for case, patient in patients.items() if patient in seen}


def cannot_be_judged(champion: RegisteredModel, config: Mapping[str, Any], left: int) -> str:
    """Why the champion cannot be judged on the test cases of now; '' if it can.

    Args:
        champion: of now.
        config: of the challenger, which has learned from cases as they are now.
        left: test cases that can be compared.
    """
    told = f"version {champion.version}"
    own = read_json(champion.folder / "config.json")
    (before, was), (now, is_) = ((one["recipe"].get("channels", 1), one["modality"]) for one in (own, config))
    if (before, was) == (now, is_):
        return "" if left else f"No test case is left that the champion, {told}, has not learned from"
    return (
        f"The champion, {told}, was trained on {_images(before)} of {was} a case and now "
        f"there {'is' if now == 1 else 'are'} {_images(now)} of {is_}, so that it cannot be judged"
    )


def _images(count: int) -> str:
    return "one image" if count == 1 else f"{count} images"


def _start(config: Mapping[str, Any]) -> str:
    """Hash of the model that a training began with."""
    return str(config.get("training", {}).get("start", SCRATCH))


def _trained_on(registry: ModelRegistry, version: Version) -> set[str]:
    try:
        lineage = json.loads(registry.evidence(version, LINEAGE))
    except MissingError:
        return set()
    return {record["case"] for record in lineage["cases"] if record["split"] == "train"}


def _began_with(registry: ModelRegistry, version: Version) -> str:
    try:
        return _start(read_json(registry.model(version.organ, version.number).folder / "config.json"))
    except (DataError, MissingError):
        # Its files are gone.
        return SCRATCH
