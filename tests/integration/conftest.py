import pytest

from tests.conftest import Project

ORGAN = "abdomen"


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A project with a small phantom, patches and policy; what comes after is made by the tests."""
    project = Project(tmp_path_factory.mktemp("project"))
    project.set_params(
        organs__abdomen__ingest__spacing=[12, 6, 6],
        organs__abdomen__validate={"spacing_range": [0.1, 30], "test_share": 0.2},
        organs__abdomen__patches={"per_case": 4, "size": [8, 16, 16]},
        organs__abdomen__evaluate={"worst_cases": 1},
    )
    project.hounsfield("phantom", "--patients", "10", "--size", "0.3")
    project.commit("small")
    project.dvc("repro", f"augment@{ORGAN}")
    return project
