import errno
import os
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from requests import HTTPError

import pipeline
from pipeline.errors import DataError, MissingError, ParamsError
from pipeline.registry import artifacts, folders
from pipeline.registry.connection import connect, reached
from pipeline.registry.models import ModelRegistry
from pipeline.registry.version import CONTENT, Description

DESCRIPTION = Description({"network": "residual_unet", "steps": "400"}, {"mean": 0.9, "left": 0.91}, "abc123")


def write_model(folder, weights=b"weights"):
    """A model folder with a subfolder, as one folder a fold."""
    (folder / "fold_0").mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    (folder / "fold_0" / "weights.safetensors").write_bytes(weights)
    return folder


@pytest.fixture
def model(tmp_path):
    return write_model(tmp_path / "models" / "liver")


@pytest.fixture
def evidence(tmp_path):
    file = tmp_path / "cases.csv"
    file.write_text("case,label,dice\n")
    return [file]


@pytest.fixture
def registry(tmp_path, home):
    return ModelRegistry(tmp_path)


@pytest.fixture
def client(home):
    return connect(home)


def promote(registry, version):
    registry.settle(version, promoted=True)


def runs_of(client):
    return client.search_runs([entry.experiment_id for entry in client.search_experiments()])


def test_without_a_registry_there_is_no_champion_and_mlflow_is_not_loaded(tmp_path):
    code = (
        "import sys, pathlib; from pipeline.registry.models import ModelRegistry\n"
        "assert ModelRegistry(pathlib.Path.cwd()).champion('liver') is None\n"
        "assert 'mlflow' not in sys.modules and not list(pathlib.Path.cwd().iterdir())\n"
    )
    environment = {key: value for key, value in os.environ.items() if key != "MLFLOW_TRACKING_URI"}
    environment |= {
        "HOUNSFIELD_HOME": str(tmp_path / "home"),
        "PYTHONPATH": str(Path(pipeline.__file__).parents[1]),
    }
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment, check=True)


def test_the_same_content_is_one_version_and_other_content_the_next(registry, model, evidence, tmp_path):
    first = registry.register("liver", model, evidence, DESCRIPTION)
    again = registry.register("liver", model, evidence, DESCRIPTION)
    other = write_model(tmp_path / "other", b"other weights")
    second = registry.register("liver", other, evidence, DESCRIPTION)
    assert (first.number, again.number, second.number) == (1, 1, 2)
    assert registry.register("spleen", model, evidence, DESCRIPTION).number == 1


def test_of_several_versions_of_one_content_the_oldest_is_found(registry, model, evidence, client):
    first = registry.register("liver", model, evidence, DESCRIPTION)
    client.create_model_version("liver", first.source, first.run, tags={CONTENT: first.content})
    assert registry.register("liver", model, evidence, DESCRIPTION).number == 1


def test_the_champion_is_the_registered_folder_where_it_lies(registry, model, evidence, home):
    assert registry.champion("liver") is None
    version = registry.register("liver", model, evidence, DESCRIPTION)
    assert registry.champion("liver") is None
    promote(registry, version)
    champion = registry.champion("liver")
    assert champion.version == registry.champion_version("liver") == 1
    assert champion.folder.is_relative_to(home / "mlartifacts")
    assert (champion.folder / "fold_0" / "weights.safetensors").read_bytes() == b"weights"
    assert registry.champion("spleen") is None


def test_the_files_of_a_server_are_fetched_once_and_again_where_they_were_damaged_here(
    registry, model, evidence, home, monkeypatch
):
    # To us its artifacts are in no file system.
    for module in (folders, artifacts):
        monkeypatch.setattr(module, "local_path", lambda _uri: None)
    fetched, fetch = [], artifacts.download
    monkeypatch.setattr(folders, "download", lambda *asked: fetched.append(asked) or fetch(*asked))
    version = registry.register("liver", model, evidence, DESCRIPTION)
    promote(registry, version)
    kept = registry.champion("liver").folder
    assert kept == registry.champion("liver").folder == home / "champions" / version.content
    assert len(fetched) == 1
    (kept / "config.json").write_text("damaged")
    assert artifacts.content_of(registry.champion("liver").folder) == version.content
    assert len(fetched) == 2
    assert registry.evidence_names(version) == {"cases.csv"}
    assert registry.evidence(version, "cases.csv") == evidence[0].read_text()
    (weights,) = (home / "mlartifacts").rglob("weights.safetensors")
    weights.write_bytes(b"others")
    assert registry.champion("liver").folder == kept, "what is whole here is not asked for"
    (kept / "config.json").unlink()
    with pytest.raises(DataError, match="are not those registered"):
        registry.champion("liver")
    assert not kept.exists()


def test_a_model_that_was_fetched_and_damaged_is_as_good_as_none(model, tmp_path):
    content = artifacts.content_of(model)
    folder = model.rename(tmp_path / content)
    assert folders.registered(tmp_path, content, "train.start", "fetch it") == folder
    (folder / "config.json").write_text("damaged")
    with pytest.raises(MissingError, match=rf"the model {content} that train\.start names is not at"):
        folders.registered(tmp_path, content, "train.start", "fetch it")


def test_artifacts_are_looked_for_where_they_were_and_then_below_the_home_of_now(tmp_path):
    recorded = tmp_path / "before" / "mlartifacts" / "liver"
    moved = tmp_path / "now" / "mlartifacts" / "liver"
    assert artifacts.where_now(recorded, tmp_path / "now", 2) == recorded
    moved.mkdir(parents=True)
    assert artifacts.where_now(recorded, tmp_path / "now", 2) == moved
    recorded.mkdir(parents=True)
    assert artifacts.where_now(recorded, tmp_path / "now", 2) == recorded


def test_a_changed_champion_is_refused_and_a_lost_one_reported(registry, model, evidence):
    promote(registry, registry.register("liver", model, evidence, DESCRIPTION))
    folder = registry.champion("liver").folder
    (folder / "config.json").write_text('{"labels": {}}')
    with pytest.raises(DataError, match=r"liver: the files of version 1 .* are not those registered"):
        registry.champion("liver")
    folder.rename(folder.parent / "elsewhere")
    with pytest.raises(MissingError, match="liver: the files of version 1 are not at"):
        registry.champion("liver")


def test_a_home_that_was_moved_keeps_its_champion_and_takes_new_models(
    registry, model, evidence, home, tmp_path, monkeypatch
):
    promote(registry, registry.register("liver", model, evidence, DESCRIPTION))
    moved = home.rename(tmp_path / "moved")
    monkeypatch.setenv("HOUNSFIELD_HOME", str(moved))
    registry = ModelRegistry(tmp_path)
    assert registry.champion("liver").folder.is_relative_to(moved)
    first = registry.version("liver", 1)
    assert registry.evidence(first, "cases.csv") == evidence[0].read_text()
    evidence[0].write_text("decided again")
    registry.record(first, {"decision": "kept"}, evidence)
    assert registry.evidence(first, "cases.csv") == "decided again"
    promote(
        registry, registry.register("liver", write_model(tmp_path / "new", b"new"), evidence, DESCRIPTION)
    )
    assert registry.champion("liver").version == 2
    assert registry.champion("liver").folder.is_relative_to(moved)
    assert not home.exists()


def test_an_experiment_that_was_deleted_is_told_with_what_restores_it(
    registry, model, evidence, client, tmp_path
):
    registry.register("liver", model, evidence, DESCRIPTION)
    (number,) = {run.info.experiment_id for run in runs_of(client)}
    client.delete_experiment(number)
    with pytest.raises(MissingError, match=f"was deleted in MLflow: .* restore --experiment-id {number}"):
        registry.register("liver", write_model(tmp_path / "new", b"new"), evidence, DESCRIPTION)
    client.restore_experiment(number)
    assert registry.register("liver", tmp_path / "new", evidence, DESCRIPTION).number == 2


def test_a_version_registered_by_hand_cannot_be_champion(registry, client):
    client.create_registered_model("liver")
    client.create_model_version("liver", "file:///nowhere")
    client.set_registered_model_alias("liver", "champion", "1")
    with pytest.raises(DataError, match=CONTENT):
        registry.champion("liver")


def test_an_upload_cut_short_is_no_version_and_is_completed_in_the_same_run(
    registry, model, evidence, client, monkeypatch
):
    sent = []
    send = type(client).log_artifact

    def send_one(self, run, file, *place):
        if sent:
            raise ConnectionError("cut")
        sent.append(file)
        send(self, run, file, *place)

    with monkeypatch.context() as patch:
        patch.setattr(type(client), "log_artifact", send_one)
        with pytest.raises(ConnectionError):
            registry.register("liver", model, evidence, DESCRIPTION)
    assert not client.search_model_versions("name = 'liver'")
    # What arrived is damaged, too, and a hidden leftover lies beside it.
    (run,) = runs_of(client)
    stored = Path(run.info.artifact_uri.removeprefix("file://")) / "model"
    (stored / "config.json").write_text("half")
    (stored / ".artifact.uploading.1").write_text("half")
    version = registry.register("liver", model, evidence, DESCRIPTION)
    promote(registry, version)
    assert version.number == 1
    assert [run.info.run_id for run in runs_of(client)] == [version.run]
    assert (registry.champion("liver").folder / "config.json").read_text() == "{}"


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (HTTPError("413 Client Error: Too Large for url: http://me:secret@there"), "413 Client Error"),
        (OSError(errno.ENOSPC, "No space left on device"), "No space left on device"),
    ],
)
def test_a_store_that_takes_no_more_is_told_in_one_line_and_without_a_password(
    registry, model, evidence, client, monkeypatch, error, told
):
    def refuse(self, run, file, place):
        raise error

    monkeypatch.setattr(type(client), "log_artifact", refuse)
    # Connected before, so that no server is asked.
    registry.find("liver", "anything")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://me:secret@there")
    with pytest.raises(MissingError, match=told) as refusal:
        registry.register("liver", model, evidence, DESCRIPTION)
    assert "secret" not in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_a_store_that_keeps_something_else_makes_no_version(registry, model, evidence, client, monkeypatch):
    def damage(self, run, file, place):
        folder = Path(self.get_run(run).info.artifact_uri.removeprefix("file://")) / place
        folder.mkdir(parents=True, exist_ok=True)
        (folder / Path(file).name).write_bytes(b"")

    monkeypatch.setattr(type(client), "log_artifact", damage)
    with pytest.raises(DataError, match="did not keep what it was sent"):
        registry.register("liver", model, evidence, DESCRIPTION)
    assert not client.search_model_versions("name = 'liver'")


def test_the_run_says_what_the_model_is_once(registry, model, evidence, client):
    version = registry.register("liver", model, evidence, DESCRIPTION)
    client.delete_model_version("liver", "1")
    assert registry.register("liver", model, evidence, DESCRIPTION).run == version.run
    run = client.get_run(version.run)
    assert run.data.params == DESCRIPTION.params
    assert run.data.metrics == {"dice.mean": 0.9, "dice.left": 0.91}
    assert len(client.get_metric_history(version.run, "dice.mean")) == 1
    assert run.data.tags["mlflow.source.git.commit"] == "abc123"
    assert run.info.status == "FINISHED"


def test_a_label_may_have_a_name_that_mlflow_would_refuse(registry, model, evidence, client):
    version = registry.register("liver", model, evidence, Description({}, {"tumour (left)": 0.5}))
    assert client.get_run(version.run).data.metrics == {"dice.tumour _left_": 0.5}


def test_a_decision_is_kept_with_its_evidence_and_replaced_by_the_next(registry, model, evidence, client):
    version = registry.register("liver", model, evidence, DESCRIPTION)
    assert version.decision is None
    assert registry.record(version, {"decision": "kept"}, evidence).decision == {"decision": "kept"}
    evidence[0].write_text("case,label,dice\ncase_001,left,0.9\n")
    registry.record(version, {"decision": "promoted"}, evidence)
    found = registry.find("liver", version.content)
    assert found.decision == {"decision": "promoted"}
    stored = Path(client.get_run(version.run).info.artifact_uri.removeprefix("file://")) / "evidence"
    assert (stored / "cases.csv").read_text() == evidence[0].read_text()


def test_aliases_follow_the_decision(registry, model, evidence, client, tmp_path):
    first = registry.register("liver", model, evidence, DESCRIPTION)
    second = registry.register("liver", write_model(tmp_path / "second", b"2"), evidence, DESCRIPTION)
    registry.settle(first, promoted=True)
    registry.settle(second, promoted=False)
    assert client.get_registered_model("liver").aliases == {"champion": 1, "challenger": 2}
    registry.settle(second, promoted=True)
    registry.settle(second, promoted=True)
    assert client.get_registered_model("liver").aliases == {"champion": 2}


@pytest.mark.parametrize(("folder", "database"), [(0o775, 0o664), (0o755, 0o644)])
def test_who_may_write_to_the_home_may_write_to_the_registry(tmp_path, folder, database):
    tmp_path.chmod(folder)
    connect(tmp_path)
    assert (tmp_path / "mlflow.db").stat().st_mode & 0o777 == database


def test_a_damaged_database_is_told_in_one_line(tmp_path, home):
    home.mkdir(exist_ok=True)
    (home / "mlflow.db").write_bytes(b"no database" * 1000)
    with pytest.raises(MissingError, match=r"mlflow\.db.*file is not a database: see that") as error:
        ModelRegistry(tmp_path).champion("liver")
    assert "\n" not in str(error.value)


def test_a_database_that_takes_no_more_is_told_in_its_own_words_and_without_a_traceback(
    registry, model, evidence, capfd
):
    from sqlalchemy import Engine, event

    def refuse(_connection, cursor, statement, *_more):
        if "INTO runs" in statement:
            cursor.execute("PRAGMA query_only = ON")

    event.listen(Engine, "before_cursor_execute", refuse)
    try:
        with pytest.raises(
            MissingError, match=r"cannot be used: .*attempt to write a readonly database: see"
        ):
            registry.register("liver", model, evidence, DESCRIPTION)
    finally:
        event.remove(Engine, "before_cursor_execute", refuse)
    assert "Traceback" not in capfd.readouterr().err


def test_a_server_that_does_not_answer_is_named_without_its_password(tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://somebody:secret@127.0.0.1:9/mlflow")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.raises(MissingError, match=r"http://127\.0\.0\.1:9/mlflow") as error:
        ModelRegistry(tmp_path).champion("liver")
    assert "secret" not in str(error.value)
    assert error.value.exit_code == 75, "a task is tried again"


class _Full(BaseHTTPRequestHandler):
    """A proxy before MLflow that takes no model."""

    def do_GET(self):
        self.send_response(413)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_):
        pass


def test_a_server_that_refuses_files_is_told_in_one_line(monkeypatch):
    from mlflow.store.artifact.http_artifact_repo import HttpArtifactRepository

    server = ThreadingHTTPServer(("127.0.0.1", 0), _Full)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_address[1]}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
    artifacts = HttpArtifactRepository(f"{address}/api/2.0/mlflow-artifacts/artifacts/one")
    try:
        with pytest.raises(MissingError, match=r"cannot be used: 413 Client Error.*see that"), reached():
            artifacts.list_artifacts()
    finally:
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize("name", ["is it?", "no. #1", "100%41"])
def test_a_home_may_have_a_name_that_means_something_in_a_uri(tmp_path, monkeypatch, model, evidence, name):
    home = tmp_path / "homes" / name
    home.mkdir(parents=True)
    monkeypatch.setenv("HOUNSFIELD_HOME", str(home))
    version = ModelRegistry(tmp_path).register("liver", model, evidence, DESCRIPTION)
    found = ModelRegistry(tmp_path).model("liver", version.number)
    assert found.folder.is_relative_to(home)
    assert (home / "mlflow.db").is_file()
    assert [path.name for path in home.parent.iterdir()] == [name]


def test_what_is_no_address_is_told_without_its_password(tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://somebody:secret@[::1")
    with pytest.raises(ParamsError, match=r"MLFLOW_TRACKING_URI is no address .*HOST:PORT") as error:
        ModelRegistry(tmp_path).champion("liver")
    assert "secret" not in str(error.value)


def test_a_database_that_cannot_be_opened_is_told_of_at_once(tmp_path, monkeypatch):
    from mlflow.store.db import utils

    slept = []
    monkeypatch.setattr(utils.time, "sleep", slept.append)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}")
    with pytest.raises(MissingError, match=r"cannot be used: .*unable to open database file"):
        ModelRegistry(tmp_path).champion("liver")
    assert sum(slept) < 2


def test_a_database_whose_driver_is_not_installed_is_told_so(tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "mssql+pymssql://somebody:secret@127.0.0.1:9/mlflow")
    with pytest.raises(MissingError, match="cannot be used: No module named 'pymssql'") as error:
        ModelRegistry(tmp_path).champion("liver")
    assert "secret" not in str(error.value)
