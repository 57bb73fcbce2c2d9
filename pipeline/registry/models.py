"""The registry of models in MLflow: one registered model an organ, one version a model folder.

A version is the content of a `models/<organ>` folder, kept as artifacts of one run and found again by
its hash. The alias `champion` is the model in use, `challenger` the latest that was refused. Nothing
is pickled, MLflow's model flavours are not used.

Every step can be killed and repeated: a run left behind by a killed registration is found by its
content and completed; a version comes into being only after all its files were read back and
compared; a decision is written down before the alias it leads to is set.
"""

import json
import tempfile
from contextlib import AbstractContextManager
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import Any

from pipeline.atomic import locked
from pipeline.errors import DataError, MissingError
from pipeline.registry.artifacts import content_of, download, files_of, names_in, store, uri_of
from pipeline.registry.connection import connect, is_local, is_present, reached
from pipeline.registry.folders import folder_of
from pipeline.registry.run_page import describe
from pipeline.registry.version import (
    CONTENT,
    DECISION,
    EXPORT,
    Description,
    RegisteredModel,
    Version,
    version_of,
)
from pipeline.workspace import home

CHAMPION = "champion"
CHALLENGER = "challenger"
ROLLBACK = "hounsfield.rollback"
"""Of the registered model, with a number: the rollbacks there were."""
LONGEST = 100_000
"""Characters of a tag that MLflow takes; what is decided about some two hundred labels is longer."""
LONG = ("reasons", "met", "evidence", "learned")
"""What a tag lacks then; the evidence has all of it."""
MODEL = "model"
EVIDENCE = "evidence"


class ModelRegistry:
    """Models of the project at `root`: at `MLFLOW_TRACKING_URI`, else in a database in its home.

    Args:
        root: the project.
        place: its home; None: as the environment says.

    Every method that asks the registry raises MissingError if it cannot be used.
    """

    def __init__(self, root: Path, place: Path | None = None) -> None:
        self._home = place or home(root.absolute())

    @reached()
    def champion_version(self, organ: str) -> int | None:
        """The number of the version in use; None if there is none yet."""
        return self._aliases(organ).get(CHAMPION)

    @reached()
    def challenger_version(self, organ: str) -> int | None:
        """The number of the latest version that was refused or waits; None if there is none."""
        return self._aliases(organ).get(CHALLENGER)

    @reached()
    def model(self, organ: str, number: int) -> RegisteredModel:
        """A version with its files, verified.

        The files of a registry on this machine are used where they lie, a server's are fetched once.

        Raises:
            MissingError: there is no such version, or its files are gone.
            DataError: its files are not those that were registered.
        """
        version = self.version(organ, number)
        if not version.content:
            raise DataError(
                f"{organ}: version {number} was not registered by this pipeline (it has no tag {CONTENT})",
                "point the alias 'champion' in MLflow at one that was",
            )
        return RegisteredModel(organ, number, version.content, folder_of(self._client, version, self._home))

    @reached()
    def champion(self, organ: str) -> RegisteredModel | None:
        """The model in use, as of `model`; None if there is none yet.

        Raises:
            MissingError: its files are gone.
            DataError: its files are not those that were registered.
        """
        number = self.champion_version(organ)
        return None if number is None else self.model(organ, number)

    def lock(self, organ: str) -> AbstractContextManager[int]:
        """Let one process of this machine at a time decide about `organ`."""
        return locked(self._home / f"registry.{organ}.lock", f"the model registry of {organ}")

    @reached()
    def register(self, organ: str, models: Path, evidence: list[Path], description: Description) -> Version:
        """The version with the content of the folder `models`, made if there is none.

        Raises:
            DataError: what was stored is not what was sent.
        """
        content = content_of(models)
        version = self.find(organ, content)
        if version is not None:
            return version
        run = self._run(organ, content)
        describe(self._client, run, description)
        store(self._client, run.info.run_id, MODEL, files_of(models), self._home)
        self._store_evidence(run.info.run_id, evidence)
        self._client.set_terminated(run.info.run_id)
        if not self._registered(organ):
            self._client.create_registered_model(organ)
        source = f"{run.info.artifact_uri}/{MODEL}"
        tags = {CONTENT: content}
        return version_of(self._client.create_model_version(organ, source, run.info.run_id, tags=tags))

    @reached()
    def restore(self, version: Version, models: Path) -> None:
        """Bring back what is lost of the files of a version, from the folder `models` of the same content.

        Raises:
            DataError: what was stored is not what was sent.
        """
        store(self._client, version.run, MODEL, files_of(models), self._home)

    @reached()
    def find(self, organ: str, content: str) -> Version | None:
        """The version with this content, the oldest if there are several."""
        found = self._client.search_model_versions(f"name = '{organ}' and tags.`{CONTENT}` = '{content}'")
        return min((version_of(entry) for entry in found), key=lambda version: version.number, default=None)

    @reached()
    def record(self, version: Version, decision: dict[str, Any], evidence: list[Path]) -> Version:
        """Keep the decision about a version and what it rests on, in place of a former decision."""
        self._store_evidence(version.run, evidence)
        text = json.dumps(decision, sort_keys=True, allow_nan=False)
        if len(text) > LONGEST:
            # Named by its hash: until the tag is set, the earlier decision stands, with its own file.
            name = f"decision-{sha256(text.encode()).hexdigest()[:12]}.json"
            with tempfile.TemporaryDirectory() as scratch:
                whole = Path(scratch) / name
                whole.write_text(text, encoding="utf-8")
                self._store_evidence(version.run, [whole])
            verdict = {key: value for key, value in decision.items() if key not in LONG}
            text = json.dumps(verdict | {"whole": name}, sort_keys=True, allow_nan=False)
        self._client.set_model_version_tag(version.organ, str(version.number), DECISION, text)
        return version_of(self._client.get_model_version(version.organ, str(version.number)))

    @reached()
    def decision(self, version: Version) -> dict[str, Any] | None:
        """What was decided about a version, in full; None: nothing, or it was deleted from the evidence."""
        if version.decision is None or "whole" not in version.decision:
            return version.decision
        whole = version.decision["whole"]
        kept = whole in self.evidence_names(version)
        return dict(json.loads(self.evidence(version, whole))) if kept else None

    @reached()
    def evidence_names(self, version: Version) -> set[str]:
        """The files that were kept with the decision about a version."""
        return names_in(self._client, version.run, EVIDENCE, self._home)

    @reached()
    def evidence(self, version: Version, name: str) -> str:
        """A text file that was kept with the decision about a version.

        Raises:
            MissingError: there is none of that name.
        """
        kept = self.evidence_names(version)
        if name not in kept:
            others = ", ".join(sorted(kept)) or "nothing"
            raise MissingError(
                f"{version.organ}: version {version.number} has no {name}, but {others}",
                f"decide about it again: dvc repro --force register@{version.organ}",
            )
        with tempfile.TemporaryDirectory() as scratch:
            uri = f"{uri_of(self._client, version.run, self._home)}/{EVIDENCE}/{name}"
            return download(self._client, uri, Path(scratch)).read_text(encoding="utf-8")

    @reached()
    def version(self, organ: str, number: int) -> Version:
        """A version by its number.

        Raises:
            MissingError: there is none of that number.
        """
        found = self._client.search_model_versions(f"name = '{organ}'") if is_present(self._home) else []
        versions = {int(entry.version): entry for entry in found}
        if number not in versions:
            known = ", ".join(map(str, sorted(versions))) or "none"
            raise MissingError(f"{organ}: there is no version {number} in the registry; there is {known}")
        return version_of(versions[number])

    @reached()
    def verify(self, version: Version) -> Path:
        """See that the files of a version are there and are those that were registered; their folder.

        Raises:
            MissingError: they are gone.
            DataError: they are others.
        """
        return folder_of(self._client, version, self._home)

    @reached()
    def store_export(self, version: Version, folder: Path) -> None:
        """Keep the files of `folder` with a version, as artifacts `export/` of its run.

        That they are all there is noted last: what a killed call left is written over by the next.

        Raises:
            DataError: what was stored is not what was sent.
        """
        store(self._client, version.run, "export", files_of(folder), self._home)
        self.note(version, EXPORT, {"content": content_of(folder)})

    @reached()
    def note(self, version: Version, tag: str, content: dict[str, Any] | None) -> None:
        """Keep `content` with a version, by the name `tag`; None: forget it."""
        name, number = version.organ, str(version.number)
        if content is not None:
            self._client.set_model_version_tag(name, number, tag, json.dumps(content, sort_keys=True))
        elif tag in self._client.get_model_version(name, number).tags:
            self._client.delete_model_version_tag(name, number, tag)

    @reached()
    def rollbacks(self, organ: str) -> list[dict[str, Any]]:
        """The rollbacks there were, oldest first."""
        tags = {tag: value for model in self._registered(organ) for tag, value in model.tags.items()}
        places = sorted(int(tag.rpartition(".")[2]) for tag in tags if tag.startswith(f"{ROLLBACK}."))
        return [json.loads(tags[f"{ROLLBACK}.{place}"]) for place in places]

    @reached()
    def log_rollback(self, organ: str, rollback: dict[str, Any]) -> None:
        """Add to the rollbacks there were."""
        place = len(self.rollbacks(organ)) + 1
        text = json.dumps(rollback, sort_keys=True)
        self._client.set_registered_model_tag(organ, f"{ROLLBACK}.{place}", text)

    @reached()
    def settle(self, version: Version, promoted: bool) -> None:
        """Point the aliases where the decision says."""
        aliases, number = self._aliases(version.organ), str(version.number)
        if promoted:
            if aliases.get(CHAMPION) != version.number:
                self._client.set_registered_model_alias(version.organ, CHAMPION, number)
            if aliases.get(CHALLENGER) == version.number:
                self._client.delete_registered_model_alias(version.organ, CHALLENGER)
        elif aliases.get(CHALLENGER) != version.number:
            self._client.set_registered_model_alias(version.organ, CHALLENGER, number)

    @cached_property
    def _client(self) -> Any:
        return connect(self._home)

    def _aliases(self, organ: str) -> dict[str, int]:
        """Version number by alias."""
        models = self._registered(organ)
        return {alias: int(number) for model in models for alias, number in model.aliases.items()}

    def _registered(self, organ: str) -> Any:
        """MLflow's entry of the organ, if any; without a registry MLflow is not loaded."""
        return self._client.search_registered_models(f"name = '{organ}'") if is_present(self._home) else ()

    def _run(self, organ: str, content: str) -> Any:
        """The run that carries this content: what a killed registration left, or a new one."""
        experiment = self._experiment(organ)
        found = self._client.search_runs([experiment], f"tags.`{CONTENT}` = '{content}'", max_results=1)
        return found[0] if found else self._client.create_run(experiment, tags={CONTENT: content})

    def _experiment(self, organ: str) -> str:
        local = is_local(self._client.tracking_uri)
        # An experiment keeps the place of its artifacts for ever: when the home moves, it needs another.
        name = f"{organ} in {self._home}" if local else organ
        found = self._client.get_experiment_by_name(name)
        if found is not None and found.lifecycle_stage == "deleted":
            raise MissingError(
                f"{organ}: the experiment '{name}', which its models are kept in, was deleted in MLflow",
                f"mlflow experiments restore --experiment-id {found.experiment_id}",
            )
        if found is not None:
            return str(found.experiment_id)
        place = (self._home / "mlartifacts" / organ).as_uri() if local else None
        return str(self._client.create_experiment(name, artifact_location=place))

    def _store_evidence(self, run: str, evidence: list[Path]) -> None:
        store(self._client, run, EVIDENCE, {file.name: file for file in evidence}, self._home)
