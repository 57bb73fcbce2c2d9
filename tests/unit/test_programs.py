import time

import pytest

from pipeline import programs


def test_a_program_that_hangs_or_fails_or_is_not_there_is_no_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(programs, "ANSWER_WITHIN", 0.1)
    started = time.perf_counter()
    assert programs.ask("sleep", "30") is None
    assert time.perf_counter() - started < 5
    assert programs.ask("false") is None
    assert programs.ask("no-such-program") is None
    assert programs.ask("true") == ""
    assert programs.ask("echo", "here") == "here"


def test_packages_are_looked_up_by_name() -> None:
    assert programs.installed("pytest") == pytest.__version__
    assert programs.installed("no-such-package") is None
