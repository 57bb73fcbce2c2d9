from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.volumes.case_files import CaseFiles
from pipeline.volumes.layouts.layout import Layout


@pytest.fixture
def touch(tmp_path: Path) -> Callable[..., Path]:
    """Makes empty files in the source, and returns it."""

    def make(*names: str) -> Path:
        for name in names:
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).touch()
        return tmp_path

    return make


@pytest.fixture
def cases_of() -> Callable[[Layout | None], dict[str, CaseFiles]]:
    """The cases of a layout by their name."""

    def by_name(layout: Layout | None) -> dict[str, CaseFiles]:
        assert layout is not None
        found = {case.case: case for case in layout.cases}
        assert len(found) == len(layout.cases), "a name twice"
        return found

    return by_name


@pytest.fixture
def problem_of() -> Callable[[CaseFiles], str]:
    """What is wrong with a case, said as a case's problem has to be."""

    def reason(case: CaseFiles) -> str:
        assert case.problem is not None
        assert case.problem.reason.startswith(f"{case.case}: ")
        assert case.problem.remedy
        assert not case.complete
        return case.problem.reason

    return reason


@pytest.fixture
def pseudonyms(monkeypatch: pytest.MonkeyPatch) -> None:
    """Patients are called 'hash of' their identifier."""
    monkeypatch.setattr(
        "pipeline.volumes.identity.pseudonym", lambda identifier, kind="patient": f"hash of {identifier}"
    )
