"""A leaderboard of real trainings on a small phantom: made, stopped, gone on with."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from tests.conftest import Project

ORGAN = "abdomen"
SYSTEMS = ["fcn", "auto_context", "fcn,loss.focal_gamma=2", "fcn,ensemble=2"]
BUDGET = ["--steps", "6"]


def rows(project: Project) -> list[dict[str, object]]:
    page = project.folder / "docs" / "leaderboard" / ORGAN / "leaderboard.json"
    systems: list[dict[str, object]] = json.loads(page.read_text())["systems"]
    return systems


def test_systems_are_trained_judged_and_ranked(project: Project) -> None:
    said = project.hounsfield("leaderboard", ORGAN, *SYSTEMS, *BUDGET, "--jobs", "2")
    found = rows(project)
    assert {row["system"] for row in found} == set(SYSTEMS)
    assert [row["dice"] for row in found] == sorted((row["dice"] for row in found), reverse=True)
    for row in found:
        assert row["steps"] == 6
        assert row["parameters"] > 1000
        assert row["gflops"] > 0
        assert row["memory_mb"] > 100
        assert f"{row['system']}: Dice" in said
    by_name = {row["system"]: row for row in found}
    assert by_name["fcn,ensemble=2"]["parameters"] == 2 * by_name["fcn"]["parameters"]
    worst = project.folder / "docs" / "leaderboard" / ORGAN / "worst"
    assert len(list(worst.glob("*.png"))) == 4

    # Again, and with one more: what is there is not trained anew.
    began = time.time()
    said = project.hounsfield("leaderboard", ORGAN, *SYSTEMS, *BUDGET)
    assert "4 of 4 systems are done already" in said
    assert rows(project) == found
    made = project.folder / ".hounsfield" / "leaderboard" / ORGAN
    assert all(path.stat().st_mtime < began for path in made.rglob("*") if path.is_file())


def test_killed_and_run_again_it_goes_on(project: Project) -> None:
    system, steps = "unet,network.width=0.1", "60"
    project.set_params(organs__abdomen__train={"checkpoint_every": 2})
    command = [sys.executable, "-m", "pipeline", "leaderboard", ORGAN, system, "--steps", steps]
    running = subprocess.Popen(
        command,
        cwd=project.folder,
        env=project.environment,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    made = project.folder / ".hounsfield" / "leaderboard" / ORGAN
    while not list(made.glob("unet*/home/checkpoints/*/*/step_*")):
        assert running.poll() is None
        time.sleep(0.05)
    os.killpg(running.pid, signal.SIGKILL)
    running.wait()
    project.hounsfield("leaderboard", ORGAN, system, "--steps", steps)
    (row,) = rows(project)
    assert row["resumed"]
    (folder,) = made.glob("unet*")
    assert "going on from step" in (folder / "log.txt").read_text()
    assert not (folder / "home").exists()


def test_a_system_that_fails_stops_no_other(project: Project) -> None:
    broken = "patch_cnn,network.width=-1"
    said = project.hounsfield("leaderboard", ORGAN, broken, "fcn", "--steps", "2", code=2)
    assert "width is -1" in said
    assert [("error" in row) for row in rows(project)] == [False, True]


def test_a_budget_of_seconds_or_voxels_becomes_steps_once(project: Project) -> None:
    project.hounsfield("leaderboard", ORGAN, "fcn", "auto_context", "--voxels", "100000")
    by_name = {row["system"]: row for row in rows(project)}
    # Two patches a step, which the FCN widens to 32 voxels in the plane.
    assert by_name["fcn"]["steps"] == 100000 // (2 * 8 * 32 * 32)
    assert by_name["auto_context"]["steps"] == 3 * (100000 // (2 * 8 * 16 * 16) // 3)
    project.hounsfield("leaderboard", ORGAN, "fcn", "--seconds", "1")
    assert rows(project)[0]["steps"] >= 1
    said = project.hounsfield("leaderboard", ORGAN, "fcn", "--steps", "2", "--seconds", "1", code=3)
    assert "leave out the others" in said


def test_without_patches_the_way_there_is_told(project: Project, tmp_path: Path) -> None:
    table = project.folder / "data" / "patches" / f"{ORGAN}.parquet"
    table.rename(tmp_path / "aside")
    said = project.hounsfield("leaderboard", ORGAN, "fcn", code=4)
    (tmp_path / "aside").rename(table)
    assert f"run dvc repro augment@{ORGAN}" in said
