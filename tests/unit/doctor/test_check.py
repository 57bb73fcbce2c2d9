import pytest
from rich.console import Console

from pipeline.doctor import Check, as_table, exit_code

OK = Check("disk", "ok", "[bold]80[/] GiB free")
WARNING = Check("DVC remote", "warning", "none", "dvc remote add -d storage s3://bucket/path")
MISSING = Check("DVC", "missing", "not initialised", "dvc init")


def test_only_what_is_missing_makes_the_exit_code() -> None:
    assert exit_code([OK, WARNING]) == 0
    assert exit_code([OK, MISSING]) == 4


def test_the_table_shows_what_was_found_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    Console(width=120).print(as_table([OK, MISSING]))
    shown = capsys.readouterr().out
    assert "[bold]80[/] GiB free" in shown
    assert "dvc init" in shown
