import time
from types import SimpleNamespace

import pytest

from pipeline.leaderboard import board
from pipeline.leaderboard.systems import Budget, systems
from pipeline.params import EvaluateParams, TrainParams

ROLES = ("accepted", "patches", "augmentation", "plans")


def organ(**evaluate):
    return SimpleNamespace(train=TrainParams(), evaluate=EvaluateParams(**evaluate))


def test_surfaces_are_judged_by_the_tolerance_of_the_organ(tmp_path, monkeypatch):
    jobs = []
    monkeypatch.setattr(board, "_run", lambda job, _threads: jobs.append(job))
    monkeypatch.setattr(board, "sha256_file", lambda _: "")
    monkeypatch.setattr(board, "inputs_of", lambda *_: dict.fromkeys(ROLES, tmp_path))
    for tolerance in (1.0, 3.0):
        monkeypatch.setattr(board, "load_organ", lambda *_, one=tolerance: organ(nsd_tolerance_mm=one))
        board.run_all(tmp_path, "spleen", systems(["unet"]), Budget("steps", 1), "small")
    assert [job.nsd_tolerance_mm for job in jobs] == [1.0, 3.0]
    assert jobs[0].folder != jobs[1].folder


def test_after_an_interruption_no_other_system_begins(tmp_path, monkeypatch):
    begun = []

    def run(job, _threads):
        begun.append(job.system.name)
        time.sleep(0.2)

    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(board, "load_organ", lambda *_: organ())
    monkeypatch.setattr(board, "inputs_of", lambda *_: {})
    monkeypatch.setattr(board, "_key", lambda system, *_: system.folder)
    monkeypatch.setattr(board, "_run", run)
    monkeypatch.setattr(board, "track", interrupted)
    with pytest.raises(KeyboardInterrupt):
        board.run_all(tmp_path, "spleen", systems(["unet", "vnet", "fcn"]), Budget("steps", 1), "small")
    assert len(begun) < 2
