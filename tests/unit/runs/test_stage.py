import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import yaml

from pipeline.errors import MissingError, ParamsError, Unfinished
from pipeline.runs.attempts import PLACE, _numbers, end_attempts
from pipeline.runs.stage import run_stage
from pipeline.runs.workspaces import Run
from tests.unit.runs.conftest import Toy, opened

PROJECT = Path(__file__).parents[3]


@pytest.fixture
def run(toy: Toy) -> Run:
    return opened(toy)


def trouble(run: Run, stage: str, what: str) -> None:
    (run.folder / "trouble").mkdir(exist_ok=True)
    (run.folder / "trouble" / stage).write_text(what)


def begin(run: Run, stage: str) -> subprocess.Popen[str]:
    """Start a stage that waits, as a worker does, and return when it is at it."""
    trouble(run, stage, "wait 300")
    process = subprocess.Popen(
        [sys.executable, "-m", "pipeline", "run", "stage", stage, run.organ],
        cwd=run.folder,
        env={**os.environ, "PYTHONPATH": str(PROJECT)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    while not (run.folder / "began").is_file():
        assert process.poll() is None, process.stderr
        time.sleep(0.05)
    return process


def at_work(run: Run) -> list[int]:
    """Processes in the workspace."""
    found = []
    for process in psutil.process_iter(["cwd", "status"]):
        if process.info["cwd"] == str(run.folder) and process.info["status"] != psutil.STATUS_ZOMBIE:
            found.append(process.pid)
    return found


def test_a_stage_runs_once_and_is_up_to_date_then(run: Run, capfd: pytest.CaptureFixture[str]) -> None:
    assert run_stage(run.folder, "copy", "liver") == 0
    assert (run.folder / "data/copy/liver.txt").read_text() == "liver 1\n"
    assert "Running stage 'copy@liver'" in capfd.readouterr().out
    assert run_stage(run.folder, "copy", "liver") == 0
    assert "Running stage" not in capfd.readouterr().out
    assert run_stage(run.folder, "copy", "liver", force=True) == 0
    assert "Running stage" in capfd.readouterr().out


def test_a_lock_that_a_killed_attempt_cut_short_is_mended(
    run: Run, capfd: pytest.CaptureFixture[str]
) -> None:
    assert run_stage(run.folder, "copy", "liver") == 0
    lock = run.folder / "dvc.lock"
    whole = lock.read_text()
    lock.write_text(whole[: whole.index("deps") + 20])
    capfd.readouterr()
    assert run_stage(run.folder, "copy", "liver") == 0
    assert "Running stage" not in capfd.readouterr().out, "its result is in the run cache"
    assert lock.read_text() == whole


def test_what_other_stages_and_organs_have_is_in_a_lock_that_was_cut_short(ran_toy: Toy) -> None:
    run = opened(ran_toy, "spleen")
    assert run_stage(run.folder, "copy", "spleen") == 0
    lock = run.folder / "dvc.lock"
    before = lock.read_text()
    trouble(run, "collect", "exit 9")
    with pytest.raises(Unfinished):
        run_stage(run.folder, "collect", "spleen")
    (run.folder / "trouble/collect").unlink()
    lock.write_text("")
    assert run_stage(run.folder, "collect", "spleen") == 0
    assert lock.read_text().startswith(before)


@pytest.mark.parametrize("code", [2, 3, 4])
def test_what_no_retry_mends_keeps_its_code_and_its_sentence(
    run: Run, code: int, capfd: pytest.CaptureFixture[str]
) -> None:
    trouble(run, "copy", f"exit {code}")
    assert run_stage(run.folder, "copy", "liver") == code
    assert "error the scan is torn" in capfd.readouterr().err


@pytest.mark.parametrize("code", [1, Unfinished.exit_code])
def test_any_other_end_may_go_well_the_next_time(run: Run, code: int) -> None:
    trouble(run, "copy", f"exit {code}")
    with pytest.raises(Unfinished, match=rf"ended with code {code} \(the scan is torn\)") as raised:
        run_stage(run.folder, "copy", "liver")
    assert raised.value.exit_code == 75
    (run.folder / "trouble/copy").unlink()
    assert run_stage(run.folder, "copy", "liver") == 0


def test_a_stage_whose_product_the_cache_did_not_keep_is_tried_again(run: Run, toy: Toy) -> None:
    """DVC says so and ends with 0; a folder that cannot be made stands for the disk that is full."""
    assert run_stage(run.folder, "copy", "liver") == 0
    kept = hashlib.md5(b"liver 1\n", usedforsecurity=False).hexdigest()
    place = toy.settings().home / "cache/files/md5" / kept[:2]
    shutil.rmtree(place)
    place.symlink_to("nowhere")
    with pytest.raises(Unfinished, match=f"did not keep what the stage collect made .*{kept}.*make room"):
        run_stage(run.folder, "collect", "liver")
    place.unlink()
    assert run_stage(run.folder, "collect", "liver") == 0
    assert (place / kept[2:]).read_bytes() == b"liver 1\n"


def test_an_unknown_stage_is_refused_with_those_there_are(run: Run) -> None:
    with pytest.raises(ParamsError, match=r"no stage 'train'\. It has: copy, collect, judge"):
        run_stage(run.folder, "train", "liver")


def test_an_unknown_organ_is_refused_and_not_tried_again(run: Run) -> None:
    with pytest.raises(ParamsError, match="no organ 'nope'"):
        run_stage(run.folder, "copy", "nope")


def test_a_stage_whose_files_are_not_made_yet_is_refused_and_not_tried_again(run: Run) -> None:
    with pytest.raises(MissingError, match=r"data/copy/liver\.txt is not there: run dvc repro copy@liver"):
        run_stage(run.folder, "collect", "liver")


def test_asked_to_stop_it_ends_what_it_started_and_says_that_a_retry_goes_on(run: Run) -> None:
    process = begin(run, "copy")
    process.send_signal(signal.SIGTERM)
    said = process.communicate(timeout=60)[1]
    assert process.returncode == 75
    assert "the stage copy was stopped" in said
    assert at_work(run) == []


@pytest.mark.parametrize("whom", ["the command", "the command and dvc"])
def test_what_a_killed_worker_left_running_is_ended_by_the_next_attempt(run: Run, whom: str) -> None:
    process = begin(run, "copy")
    dvc = psutil.Process(process.pid).children()
    process.kill()
    process.wait()
    assert process.stderr is not None
    process.stderr.close()
    if whom == "the command and dvc":
        for child in dvc:
            child.kill()
        psutil.wait_procs(dvc)
    assert at_work(run), "the stage lives on"
    (run.folder / "trouble/copy").unlink()
    assert run_stage(run.folder, "copy", "liver") == 0
    assert at_work(run) == []


def test_a_number_that_was_given_anew_is_not_ended(run: Run) -> None:
    """After a reboot the number of a former attempt may be another program's."""
    innocent = subprocess.Popen(["sleep", "60"], start_new_session=True)
    try:
        began = psutil.Process(innocent.pid).create_time()
        older = {"process": innocent.pid, "command": None, "began": began - 1, "numbers": _numbers()}
        elsewhere = {"process": innocent.pid, "command": innocent.pid, "began": began, "numbers": "another"}
        for who in (older, elsewhere):
            (run.folder / PLACE / "attempt.copy.json").write_text(json.dumps(who))
            end_attempts(run.folder)
        assert innocent.poll() is None
    finally:
        innocent.kill()
        innocent.wait()


def test_a_stage_that_runs_beside_another_waits_for_it_and_does_not_end_it(run: Run) -> None:
    aside = {"foreach": "${organs}", "do": {"cmd": "python tool.py aside ${key}", "deps": ["tool.py"]}}
    content = yaml.safe_load((run.folder / "dvc.yaml").read_text())
    content["stages"]["aside"] = aside
    (run.folder / "dvc.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
    trouble(run, "copy", "wait 4")
    commands = [
        subprocess.Popen(
            [sys.executable, "-m", "pipeline", "run", "stage", stage, "liver"],
            cwd=run.folder,
            env={**os.environ, "PYTHONPATH": str(PROJECT)},
            stdout=subprocess.DEVNULL,
        )
        for stage in ("copy", "aside")
    ]
    assert [command.wait(120) for command in commands] == [0, 0]
    locked = yaml.safe_load((run.folder / "dvc.lock").read_text())["stages"]
    assert set(locked) == {"copy@liver", "aside@liver"}
