import shutil

import pytest

from pipeline.registry import connection


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory):
    """An empty registry's database, made once because making it takes a second."""
    folder = tmp_path_factory.mktemp("registry")
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        connection.connect(folder)
    return folder / "mlflow.db"


@pytest.fixture
def home(tmp_path, empty_database, monkeypatch):
    """A home with an empty registry, which is where everything looks for it."""
    folder = tmp_path / "home"
    folder.mkdir()
    shutil.copy(empty_database, folder)
    monkeypatch.setenv("HOUNSFIELD_HOME", str(folder))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return folder
