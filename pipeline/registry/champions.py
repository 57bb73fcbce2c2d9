"""What a person says about the model in use: approve of a challenger, go back to a former champion.

Both are kept in the registry with who said so and why. Killed at any instruction and given again, they
come to the same end; at every moment there is one champion.
"""

import getpass
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from pipeline.errors import DataError, MissingError, ParamsError
from pipeline.registry.models import ModelRegistry
from pipeline.registry.version import APPROVAL, AWAITING, PROMOTED, WITHDRAWN, Version


@dataclass(frozen=True)
class Rollback:
    """A move of the alias `champion` to a version that was champion before."""

    organ: str
    former: int
    """The champion until now."""
    champion: int
    """The champion from now on."""
    reason: str
    by: str
    at: str
    """UTC, ISO 8601."""
    identifier: str
    """Of whoever asked: given again with the same, it is the same rollback."""


def somebody() -> str:
    """Who runs this, as the system knows them."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return "somebody"


def approve(root: Path, organ: str, number: int, by: str, reason: str = "") -> Version:
    """Note that a person approves of a version that won; `register` makes it the champion.

    Raises:
        MissingError: there is no such version.
        DataError: it does not wait for approval.
        ParamsError: nobody is named.
    """
    if not by.strip():
        raise ParamsError("an approval needs somebody who gives it", "name them with --by NAME")
    registry = ModelRegistry(root)
    with registry.lock(organ):
        version = registry.version(organ, number)
        decision = (version.decision or {}).get("decision")
        if decision == PROMOTED and version.approval is not None and version.withdrawn is None:
            # Given again by a task that was killed when it had been promoted.
            return version
        if decision != AWAITING:
            raise DataError(
                f"{organ}: version {number} does not wait for approval (decision: {decision or 'none yet'})",
                f"see registry/{organ}.json for the version that does",
            )
        assert version.decision is not None, "it was just read"
        held = {key: version.decision[key] for key in ("inputs", "compared_with")}
        said = {"by": by.strip(), "reason": reason.strip()} | held
        registry.note(version, APPROVAL, said)
        return registry.version(organ, number)


def check_beaten(root: Path, organ: str, number: int) -> None:
    """Refuse an approval that `register` would not count, as another model is champion now.

    Raises:
        MissingError: there is no such version.
        DataError: it waits, and won against another champion than there is now.
    """
    registry = ModelRegistry(root)
    decision, now = registry.version(organ, number).decision or {}, registry.champion_version(organ)
    if decision.get("decision") == AWAITING and decision["compared_with"] != now:
        beaten = decision["compared_with"]
        was, is_now = (f"version {one}" if one is not None else "none" for one in (beaten, now))
        raise DataError(
            f"{organ}: version {number} won when the champion was {was}, and it is {is_now} now",
            f"bring its files back to models/{organ} and have it judged anew: "
            f"dvc repro --force --single-item register@{organ}",
        )


def rollback(
    root: Path, organ: str, reason: str, *, to: int | None = None, by: str = "", identifier: str = ""
) -> Rollback:
    """Make a former champion the champion again; the current one will not come back by itself.

    Args:
        root: the project.
        organ: whose champion it is.
        reason: why, in a sentence; it is kept.
        to: the version; None: the one before the current champion.
        by: who says so; '': as the system knows them.
        identifier: of the request; a rollback of the same identifier is completed, not made again. Without
            one, so is the last rollback, if the same person gave the same reason.

    Raises:
        ParamsError: there is no reason.
        MissingError: there is no champion, or no former one.
        DataError: the version was never champion, its files are not those that were registered, or the
            rollback of this identifier was made before, and the champion has changed since.
    """
    if not reason.strip():
        raise ParamsError("a rollback needs a reason", "say with --reason why the champion has to go")
    registry = ModelRegistry(root)
    with registry.lock(organ):
        begun = [Rollback(**entry) for entry in registry.rollbacks(organ)]
        why, who = reason.strip(), by.strip() or somebody()
        if identifier:
            found = next((entry for entry in begun if entry.identifier == identifier), None)
        else:
            found = next((entry for entry in begun[-1:] if _is_same(registry, entry, why, who, to)), None)
        if found is None:
            found = _planned(registry, organ, why, to, who, identifier)
            registry.log_rollback(organ, asdict(found))
        elif found != begun[-1] or registry.champion_version(organ) not in (found.former, found.champion):
            # A task that is cleared weeks later would take the current champion out of use.
            raise DataError(
                f"{organ}: this rollback to version {found.champion} was made at {found.at}, and the "
                "champion has changed since",
                "ask for another rollback (in Airflow by a new run) if that is still what you want",
            )
        former, champion = (registry.version(organ, number) for number in (found.former, found.champion))
        # First what keeps a replay of its decision from making it champion again.
        registry.note(former, WITHDRAWN, {"by": found.by, "reason": found.reason, "at": found.at})
        registry.note(champion, WITHDRAWN, None)
        registry.settle(champion, promoted=True)
    return found


def _is_same(registry: ModelRegistry, last: Rollback, reason: str, by: str, to: int | None) -> bool:
    """Whether a person gives the last rollback again, as after a kill: it would go one further back."""
    said = (last.identifier, last.reason, last.by) == ("", reason, by) and to in (None, last.champion)
    return said and registry.champion_version(last.organ) in (last.former, last.champion)


def _planned(
    registry: ModelRegistry, organ: str, reason: str, to: int | None, by: str, identifier: str
) -> Rollback:
    now = registry.champion_version(organ)
    if now is None:
        raise MissingError(f"{organ}: there is no champion to roll back", f"run dvc repro register@{organ}")
    target = to if to is not None else _before(registry, organ, now)
    if target == now:
        raise DataError(f"{organ}: version {now} is the champion", "choose another version with --to")
    version = registry.version(organ, target)
    decision = (version.decision or {}).get("decision", "none")
    # An old registry has decisions but no reigns; a champion that was set by hand has neither.
    replaced = (registry.version(organ, now).reign or {}).get("replaced")
    if version.reign is None and decision != PROMOTED and target != replaced:
        raise DataError(
            f"{organ}: version {target} was never champion (its decision: {decision})",
            "choose one that was, with --to",
        )
    registry.verify(version)
    at = datetime.now(UTC).isoformat(timespec="seconds")
    return Rollback(organ, now, target, reason, by, at, identifier)


def _before(registry: ModelRegistry, organ: str, now: int) -> int:
    """The champion that the current one, version `now`, took the place of."""
    version = registry.version(organ, now)
    if version.reign is not None:
        before = version.reign["replaced"]
    else:
        before = (version.decision or {}).get("compared_with")
    if before is None or before == now:
        raise MissingError(f"{organ}: version {now} is the first champion, there is none before it")
    return int(before)
