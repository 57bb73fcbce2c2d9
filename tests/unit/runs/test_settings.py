from pathlib import Path

import pytest

from pipeline.errors import ParamsError
from pipeline.runs.settings import read_settings

CHECKOUT = Path("/srv/hounsfield")


def test_nothing_has_to_be_set() -> None:
    settings = read_settings(CHECKOUT, {})
    assert settings.project == "/srv/hounsfield"
    assert settings.local == CHECKOUT
    assert settings.home == CHECKOUT / ".hounsfield"
    assert (settings.branch, settings.runner) == ("main", "process")
    assert (settings.images, settings.image_tag) == ("hounsfield/", "latest")


@pytest.mark.parametrize(
    "address", ["https://git.example/x.git", "git@example.org:x.git", "ssh://git@host/x"]
)
def test_a_project_may_be_elsewhere(address: str) -> None:
    settings = read_settings(CHECKOUT, {"HOUNSFIELD_PROJECT": address})
    assert settings.project == address
    assert settings.local is None


def test_the_environment_of_a_command_gives_the_same_settings_elsewhere() -> None:
    given = {
        "HOUNSFIELD_HOME": "/data/home",
        "HOUNSFIELD_BRANCH": "trunk",
        "HOUNSFIELD_REPORTS": "https://r/",
    }
    settings = read_settings(CHECKOUT, given)
    assert read_settings(Path("/elsewhere"), settings.environment) == settings
    assert settings.reports == "https://r"


def test_an_unknown_runner_is_refused_with_those_there_are() -> None:
    with pytest.raises(ParamsError, match="HOUNSFIELD_RUNNER is 'docker'; set it to one of process,"):
        read_settings(CHECKOUT, {"HOUNSFIELD_RUNNER": "docker"})
