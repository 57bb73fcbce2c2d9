import time
from types import SimpleNamespace

import pytest

from pipeline.leaderboard import board
from pipeline.leaderboard.systems import Budget, systems
from pipeline.params import TrainParams


def test_after_an_interruption_no_other_system_begins(tmp_path, monkeypatch):
    begun = []

    def run(job, _threads):
        begun.append(job.system.name)
        time.sleep(0.2)

    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(board, "load_organ", lambda *_: SimpleNamespace(train=TrainParams()))
    monkeypatch.setattr(board, "inputs_of", lambda *_: {})
    monkeypatch.setattr(board, "_key", lambda system, *_: system.folder)
    monkeypatch.setattr(board, "_run", run)
    monkeypatch.setattr(board, "track", interrupted)
    with pytest.raises(KeyboardInterrupt):
        board.run_all(tmp_path, "spleen", systems(["unet", "vnet", "fcn"]), Budget("steps", 1), "small")
    assert len(begun) < 2
