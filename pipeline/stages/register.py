"""Stage `register`: the gate; a better model becomes the champion, with its evidence.

The challenger is `models/<organ>`, the champion what the registry's alias says. Both are judged on the
same frozen test cases, the champion by running it now.

A decision is bound to what it was made from: the challenger's files, its figures, the test cases, the
parameters, the code, and the champion it was held against. While these stand it is replayed, never
made again: a run that was killed after the promotion would otherwise hold the new champion against
itself. Once another model is champion, or anything else has changed, it is made anew.
"""

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd

from pipeline.atomic import read_json, write_json, write_text
from pipeline.export.registered import keep_export
from pipeline.metrics.case_table import UNITED, labels_and_regions
from pipeline.metrics.subgroups import subgroups
from pipeline.params import RegisterParams
from pipeline.progress import console
from pipeline.registry.account import CHAMPION_CASES, card_and_page, page_of, summary, their_figures
from pipeline.registry.challenge import Challenge, check_judged, config_of, dice_in, inputs_of
from pipeline.registry.data_conditions import data_conditions, drift_between, waits_for_drift
from pipeline.registry.gate import decide
from pipeline.registry.learned import cannot_be_judged, learned_cases, start_of
from pipeline.registry.models import ModelRegistry
from pipeline.registry.origin import NAME as LINEAGE
from pipeline.registry.origin import origin
from pipeline.registry.run_page import description_of
from pipeline.registry.version import AWAITING, KEPT, PROMOTED, REIGN, RegisteredModel, Version
from pipeline.validation.drift import FINGERPRINT

Judge = Callable[[RegisteredModel, pd.DataFrame, Path, dict[str, Any]], pd.DataFrame]
"""Figures of a model (rows as in `cases.csv`) on test rows of the accepted table, from raw scans.

The last is the configuration of the challenger: both are judged against the truth as it is read now.
"""


def judge_champion(
    champion: RegisteredModel, test: pd.DataFrame, raw: Path, config: dict[str, Any]
) -> pd.DataFrame:
    """The champion's figures, predicted now."""
    from pipeline.inference.judge import judge_cases
    from pipeline.inference.model import load_model
    from pipeline.volumes.recipe import Recipe

    console.print(f"{champion.organ}: judging the champion, version {champion.version}", markup=False)
    return judge_cases(load_model(champion.folder), test, raw, reads=Recipe.of(config))


def run(
    organ: str,
    params: RegisterParams,
    *,
    raw: Path,
    accepted: Path,
    models: Path,
    metrics: Path,
    curves: Path,
    cases: Path,
    report: Path,
    registry: Path,
    decision: Path,
    judge: Judge = judge_champion,
) -> None:
    """Register the model in `models`, decide about it, and write decision and evidence to `registry`.

    `decision` is the page that shows them to people; it is kept with the version as well.

    Raises:
        DataError: `metrics` and `cases` are not about this model and the test cases of `accepted`, or the
            champion's files are not those that were registered.
        MissingError: the registry cannot be used, or the champion's files are gone.
    """
    table, config = pd.read_parquet(accepted), config_of(models)
    test = table[table["split"] == "test"].reset_index(drop=True)
    measured = read_json(metrics)
    check_judged(organ, measured, models, test)
    figures, regions = labels_and_regions(dice_in(cases, test), config["labels"])
    known = origin(Path.cwd(), organ, table, start_of(config))
    challenge = Challenge(
        organ=organ,
        params=params,
        raw=raw,
        models=models,
        table=table,
        figures=figures,
        regions=regions,
        united=measured.get(UNITED, {}),
        evidence=[metrics, cases, report],
        config=config,
        commit=known["commit"],
        inputs=inputs_of(table, figures, params),
    )
    models_known = ModelRegistry(Path.cwd())
    with models_known.lock(organ), tempfile.TemporaryDirectory() as scratch:
        challenge.evidence.append(Path(scratch) / LINEAGE)
        write_json(challenge.evidence[-1], known)
        description = description_of(config, measured, pd.read_csv(curves), known)
        version = models_known.register(organ, models, challenge.evidence, description)
        outcome = _outcome(challenge, version, models_known, judge)
        write_json(registry, outcome)
        write_text(decision, page_of(outcome, challenge, their_figures(outcome, challenge, models_known)))
        console.print(summary(outcome, decision), markup=False)
        if outcome["decision"] in (PROMOTED, AWAITING):
            keep_export(models_known, organ, version.number)


def _outcome(
    challenge: Challenge, version: Version, models_known: ModelRegistry, judge: Judge
) -> dict[str, Any]:
    """The decision about `version`: replayed while it stands, else made; the aliases follow it."""
    # Unless a person made it champion again by hand in MLflow.
    if version.withdrawn is not None and models_known.champion_version(challenge.organ) != version.number:
        return _kept_back(challenge, version, models_known)
    # A second round is only needed where another machine changed the champion meanwhile.
    while (
        not _stands(version.decision, challenge, current := models_known.champion_version(challenge.organ))
        or models_known.decision(version) is None
    ):
        if current == version.number:
            return _unchanged(challenge, version)
        version = _decided(challenge, version, models_known, judge)
    if _decision(version)["decision"] == AWAITING and _is_approved(version, challenge):
        version = _approved(challenge, version, models_known)
    outcome = _in_full(version, models_known)
    reign = {"replaced": outcome["compared_with"]}
    if outcome["decision"] == PROMOTED and version.reign != reign:
        # Before it begins, so that a champion always has one.
        models_known.note(version, REIGN, reign)
    if outcome["decision"] == PROMOTED and current != version.number:
        # They may have been lost since they were registered.
        models_known.restore(version, challenge.models)
    models_known.settle(version, promoted=outcome["decision"] == PROMOTED)
    return outcome


def _decision(version: Version) -> dict[str, Any]:
    """The verdict."""
    assert version.decision is not None, "it was decided"
    return version.decision


def _in_full(version: Version, models_known: ModelRegistry) -> dict[str, Any]:
    decision = models_known.decision(version)
    assert decision is not None, "it was just kept, or seen to be there"
    return decision


def _is_approved(version: Version, challenge: Challenge) -> bool:
    """Whether a person approved of this version on this evidence, against this champion."""
    if version.approval is None:
        return False
    held = {"inputs": challenge.inputs, "compared_with": _decision(version)["compared_with"]}
    return {key: version.approval.get(key) for key in held} == held


def _approved(challenge: Challenge, version: Version, models_known: ModelRegistry) -> Version:
    """Record the decision after a person has approved of it."""
    assert version.approval is not None, "it was approved"
    said = {key: version.approval[key] for key in ("by", "reason")}
    promoted = {"decision": PROMOTED, "champion_version": version.number, "approval": said}
    outcome = _in_full(version, models_known) | promoted
    theirs = their_figures(outcome, challenge, models_known)
    with tempfile.TemporaryDirectory() as scratch:
        return models_known.record(version, outcome, card_and_page(outcome, challenge, theirs, Path(scratch)))


def _stands(decision: dict[str, Any] | None, challenge: Challenge, champion: int | None) -> bool:
    """Whether a recorded decision was made from the same, and the champion is the one before or after it."""
    if decision is None or decision["inputs"] != challenge.inputs:
        return False
    return champion in (decision["compared_with"], decision["champion_version"])


def _decided(challenge: Challenge, version: Version, models_known: ModelRegistry, judge: Judge) -> Version:
    """Hold the challenger against the champion and record what the gate says."""
    champion, theirs, evidence = models_known.champion(challenge.organ), None, list(challenge.evidence)
    obstacle, learned = "", set[str]()
    if champion is not None:
        known = learned_cases(models_known, champion, challenge.config, challenge.patients)
        learned = known & set(challenge.test["case"])
        obstacle = cannot_be_judged(champion, challenge.config, len(challenge.test) - len(learned))
    with tempfile.TemporaryDirectory() as scratch:
        if champion is not None and not obstacle:
            # By way of a file like the challenger's, so that both are rounded alike.
            evidence.append(Path(scratch) / CHAMPION_CASES)
            compared = challenge.compared(learned)
            figures = judge(champion, compared, challenge.raw, challenge.config)
            figures.to_csv(evidence[-1], index=False, float_format="%.6g")
            theirs = dice_in(evidence[-1], compared)
        decision = decide(
            challenge.figures,
            theirs,
            challenge.params,
            subgroups(challenge.test),
            challenge.config.get("fold_dice", {}),
            challenge.patients,
            learned,
            obstacle,
        )
        compared_with = champion.version if champion else None
        learned_from = config_of(champion.folder).get(FINGERPRINT, {}) if champion else {}
        drifted = drift_between(challenge.config.get(FINGERPRINT, {}), learned_from)
        verdict_now = _verdict(decision.promoted, challenge.params, drifted)
        of_data = data_conditions(len(challenge.test), drifted, challenge.params)
        outcome = _document(challenge, version) | {
            "decision": verdict_now,
            "champion_version": version.number if verdict_now == PROMOTED else compared_with,
            "compared_with": compared_with,
            "reasons": [*decision.reasons, *(reason for _, reason in of_data)],
            "met": [*decision.met, *(met for met, _ in of_data)],
            "evidence": decision.evidence,
            "learned": sorted(learned),
            "drift": drifted,
        }
        told = card_and_page(outcome, challenge, theirs, Path(scratch))
        return models_known.record(version, outcome, [*evidence, *told])


def _verdict(won: bool, params: RegisterParams, drifted: dict[str, Any] | None) -> str:
    if not won:
        return KEPT
    waits = params.approval == "required" or waits_for_drift(drifted, params)
    return AWAITING if waits else PROMOTED


def _kept_back(challenge: Challenge, version: Version, models_known: ModelRegistry) -> dict[str, Any]:
    """The outcome where a person took the challenger out of use before: no gate brings it back."""
    assert version.withdrawn is not None, "it was withdrawn"
    champion = models_known.champion_version(challenge.organ)
    models_known.settle(version, promoted=False)
    by, why = (version.withdrawn[key] for key in ("by", "reason"))
    said = f"Version {version.number} was withdrawn by {by}: {why}"
    return _document(challenge, version) | {
        "decision": KEPT,
        "champion_version": champion,
        "compared_with": champion,
        "reasons": [f"{said.rstrip('.')}."],
        "met": [False],
        "evidence": decide(challenge.figures, None, challenge.params).evidence,
    }


def _unchanged(challenge: Challenge, version: Version) -> dict[str, Any]:
    """The outcome where the challenger is the champion; what made it champion stays on record."""
    return _document(challenge, version) | {
        "decision": "unchanged",
        "champion_version": version.number,
        "compared_with": version.number,
        "reasons": [f"The model is, file for file, version {version.number}, which is the champion."],
        "met": [True],
        "evidence": decide(challenge.figures, None, challenge.params).evidence,
    }


def _document(challenge: Challenge, version: Version) -> dict[str, Any]:
    """What every outcome says."""
    return {
        "organ": challenge.organ,
        "challenger_version": version.number,
        "content": version.content,
        "inputs": challenge.inputs,
    }
