"""Stage `register`: the gate; a better model becomes the champion, with its evidence.

The challenger is `models/<organ>`, the champion what the registry's alias says. Both are judged on the
same frozen test cases, the champion by running it now.

A decision is bound to what it was made from: the challenger's files, its figures, the test cases, the
parameters, the code, and the champion it was held against. While these stand it is replayed, never
made again: a run that was killed after the promotion would otherwise hold the new champion against
itself. Once another model is champion, or anything else has changed, it is made anew.
"""

import tempfile
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from pipeline.atomic import read_json, sha256_code, sha256_file, sha256_json, write_json, write_text
from pipeline.errors import DataError, MissingError
from pipeline.export.registered import keep_export
from pipeline.metrics.case_table import JUDGED, read_cases, subject_of
from pipeline.metrics.subgroups import patients_of, subgroups
from pipeline.params import RegisterParams
from pipeline.progress import console
from pipeline.registry.card import NAME as CARD
from pipeline.registry.card import model_card
from pipeline.registry.comparison import paired_dice
from pipeline.registry.data_conditions import data_conditions, drift_between, waits_for_drift
from pipeline.registry.gate import decide
from pipeline.registry.learned import cannot_be_judged, learned_cases, start_of
from pipeline.registry.models import ModelRegistry, RegisteredModel, Version
from pipeline.registry.origin import NAME as LINEAGE
from pipeline.registry.origin import origin
from pipeline.registry.run_page import description_of
from pipeline.registry.version import AWAITING, KEPT, PROMOTED, REIGN
from pipeline.reports.decision import NAME as PAGE
from pipeline.reports.decision import decision_page
from pipeline.validation.drift import FINGERPRINT

CODE = (
    "stages/register.py",
    "registry/gate.py",
    "registry/comparison.py",
    "registry/learned.py",
    "registry/data_conditions.py",
    "inference",
    "metrics",
)
"""What decides."""
CHAMPION_CASES = "champion_cases.csv"
"""Evidence: the champion's figures on the same cases."""
Judge = Callable[[RegisteredModel, pd.DataFrame, Path, dict[str, Any]], pd.DataFrame]
"""Figures of a model (rows as in `cases.csv`) on test rows of the accepted table, from raw scans.

The last is the configuration of the challenger: both are judged against the truth as it is read now.
"""


@dataclass(frozen=True)
class Challenge:
    """What the decision is made from, but for the champion."""

    organ: str
    params: RegisterParams
    raw: Path
    models: Path
    """The challenger's folder."""
    table: pd.DataFrame
    """Of accepted cases."""
    figures: pd.DataFrame
    """The challenger's: case, label, dice; NaN where undefined."""
    evidence: list[Path]
    config: dict[str, Any]
    """The challenger's."""
    commit: str | None
    """That is checked out; None: not known."""
    inputs: str
    """Hash of all of this; the challenger's files have their own, `Version.content`."""

    @property
    def test(self) -> pd.DataFrame:
        """Test rows of the accepted table."""
        return self.table[self.table["split"] == "test"].reset_index(drop=True)

    @property
    def patients(self) -> dict[str, str]:
        """Whose each case is."""
        return patients_of(self.table)


def judge_champion(
    champion: RegisteredModel, test: pd.DataFrame, raw: Path, config: dict[str, Any]
) -> pd.DataFrame:
    """The champion's figures, predicted now."""
    from pipeline.inference.judge import judge_cases
    from pipeline.inference.model import load_model
    from pipeline.volumes.cases import Recipe

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
    table, config = pd.read_parquet(accepted), _config(models)
    test = table[table["split"] == "test"].reset_index(drop=True)
    measured = read_json(metrics)
    _check_judged(organ, measured, models, test)
    known = origin(Path.cwd(), organ, table, start_of(config))
    challenge = Challenge(
        organ=organ,
        params=params,
        raw=raw,
        models=models,
        table=table,
        figures=_figures(cases, test),
        evidence=[metrics, cases, report],
        config=config,
        commit=known["commit"],
        inputs=_inputs(table, cases, params),
    )
    models_known = ModelRegistry(Path.cwd())
    with models_known.lock(organ), tempfile.TemporaryDirectory() as scratch:
        challenge.evidence.append(Path(scratch) / LINEAGE)
        write_json(challenge.evidence[-1], known)
        description = description_of(config, measured, pd.read_csv(curves), known)
        version = models_known.register(organ, models, challenge.evidence, description)
        outcome = _outcome(challenge, version, models_known, judge)
        write_json(registry, outcome)
        write_text(decision, _page(outcome, challenge, _their_figures(outcome, challenge, models_known)))
        console.print(_summary(outcome, decision), markup=False)
        if outcome["decision"] in (PROMOTED, AWAITING):
            keep_export(models_known, organ, version.number)


def _outcome(
    challenge: Challenge, version: Version, models_known: ModelRegistry, judge: Judge
) -> dict[str, Any]:
    """The decision about `version`: replayed while it stands, else made; the aliases follow it."""
    # One that a person made champion again by hand in MLflow is that.
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
    theirs = _their_figures(outcome, challenge, models_known)
    with tempfile.TemporaryDirectory() as scratch:
        return models_known.record(version, outcome, _told(outcome, challenge, theirs, Path(scratch)))


def _told(
    outcome: dict[str, Any], challenge: Challenge, theirs: pd.DataFrame | None, folder: Path
) -> list[Path]:
    """Card and page about `outcome`, written to `folder`."""
    groups = subgroups(challenge.test)
    card = model_card(
        challenge.config, outcome, challenge.figures, groups, challenge.commit, challenge.patients
    )
    for name, text in ((CARD, card), (PAGE, _page(outcome, challenge, theirs))):
        (folder / name).write_text(text, encoding="utf-8")
    return [folder / CARD, folder / PAGE]


def _page(outcome: dict[str, Any], challenge: Challenge, theirs: pd.DataFrame | None) -> str:
    """The page about `outcome`; `theirs` are the champion's figures that it was made with."""
    return decision_page(outcome, None if theirs is None else paired_dice(challenge.figures, theirs))


def _their_figures(
    outcome: dict[str, Any], challenge: Challenge, models_known: ModelRegistry
) -> pd.DataFrame | None:
    """The champion's figures that `outcome` was made with, from the evidence; None where it was without.

    None as well where somebody deleted them: the decision stands, and a page without single cases is
    better than a run that fails every night.
    """
    if "overall" not in outcome["evidence"]:
        return None
    version = models_known.version(challenge.organ, outcome["challenger_version"])
    with tempfile.TemporaryDirectory() as scratch:
        kept = Path(scratch) / CHAMPION_CASES
        try:
            kept.write_text(models_known.evidence(version, CHAMPION_CASES), encoding="utf-8")
        except MissingError as error:
            # Not its remedy: the decision would be replayed.
            console.print(f"{error.reason}; {PAGE} shows no single cases", markup=False)
            return None
        return _figures(kept, _compared(challenge, outcome["learned"]))


def _compared(challenge: Challenge, learned: Collection[str]) -> pd.DataFrame:
    """The test rows that challenger and champion are compared on."""
    return challenge.test[~challenge.test["case"].isin(list(learned))]


def _stands(decision: dict[str, Any] | None, challenge: Challenge, champion: int | None) -> bool:
    """Whether a recorded decision was made from the same, and the champion is as before or after it."""
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
            compared = _compared(challenge, learned)
            figures = judge(champion, compared, challenge.raw, challenge.config)
            figures.to_csv(evidence[-1], index=False, float_format="%.6g")
            theirs = _figures(evidence[-1], compared)
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
        learned_from = _config(champion.folder).get(FINGERPRINT, {}) if champion else {}
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
        told = _told(outcome, challenge, theirs, Path(scratch))
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


def _summary(outcome: dict[str, Any], page: Path) -> str:
    organ, number, champion = (outcome[key] for key in ("organ", "challenger_version", "champion_version"))
    mean = outcome["evidence"]["mean_dice"]
    dice = "no Dice" if mean is None else f"mean Dice {mean:.4f}"
    if outcome["decision"] == PROMOTED:
        return f"{organ}: version {number} is promoted to champion, {dice}"
    if outcome["decision"] == "unchanged":
        return f"{organ}: unchanged, the model is the champion, version {number}, {dice}"
    if outcome["decision"] == AWAITING:
        how = f"hounsfield approve {organ} {number} --by NAME"
        return f"{organ}: version {number} won, {dice}, and waits for approval: {how}"
    remains = f"version {champion} remains champion" if champion else "there is no champion"
    return f"{organ}: version {number} is not promoted, {dice}; {remains}; why: {page}"


def _figures(cases: Path, test: pd.DataFrame) -> pd.DataFrame:
    """Case, label and Dice of the challenger."""
    figures = read_cases(cases)[["case", "label", "dice"]]
    if set(figures["case"]) != set(test["case"]):
        raise DataError(
            f"{cases} is about {figures['case'].nunique()} cases, not about the {len(test)} test cases there "
            "are now",
            "run the stage 'evaluate' again",
        )
    return figures


def _check_judged(organ: str, measured: dict[str, Any], models: Path, test: pd.DataFrame) -> None:
    """Refuse figures of another model: a stage that is run by itself does not run those before it.

    Metrics of before do not say what they are about.
    """
    if measured.get(JUDGED) not in (None, subject_of(models, test)):
        raise DataError(
            f"{organ}: the metrics are of another model, or of other test cases, than there are now",
            f"run dvc repro evaluate@{organ}, and then register",
        )


def _inputs(table: pd.DataFrame, cases: Path, params: RegisterParams) -> str:
    test = table[table["split"] == "test"]
    return sha256_json(
        {
            "test": test[["case", "key"]].astype(str).to_numpy().tolist(),
            "patients": patients_of(table),
            "cases": sha256_file(cases),
            "params": params.model_dump(mode="json"),
            "code": sha256_code(*CODE),
        }
    )


def _config(model: Path) -> dict[str, Any]:
    if not (model / "config.json").is_file():
        raise MissingError(f"{model} holds no model (no config.json)", "run the stage 'train'")
    config: dict[str, Any] = read_json(model / "config.json")
    return config
