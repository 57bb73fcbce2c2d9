import json
import os
import shutil
import time
from pathlib import Path

from tests.integration.dags.conftest import Deployment


def test_new_scans_become_a_version_and_an_event_once_they_have_settled(
    deployment: Deployment, tmp_path: Path
) -> None:
    incoming = tmp_path / "incoming"
    incoming.mkdir()
    deployment.project.set_params(
        organs__abdomen__airflow={"incoming": str(incoming), "settle_seconds": 3, "poll_seconds": 1}
    )
    deployment.project.commit("where scans arrive")
    before = deployment.git("show", "HEAD:data/raw/abdomen.dvc")
    deployment.begin_dag("receive_data")
    time.sleep(5)
    raw = deployment.project.folder / "data/raw/abdomen"
    for kind, name in (("imagesTr", "patient_001_0000.nii.gz"), ("labelsTr", "patient_001.nii.gz")):
        found = raw / kind / name if (raw / kind / name).is_file() else next((raw / kind).iterdir())
        (incoming / kind).mkdir()
        # As an upload does it: the file grows, and is whole only later.
        half = incoming / kind / found.name.replace("001", "099")
        half.write_bytes(found.read_bytes()[:1000])
        time.sleep(1)
        shutil.copyfile(found, half)
    written = time.time()
    ended = deployment.end_dag()
    assert time.time() - written >= 3, "it waited until nothing changed any more"
    assert ended.state == "success", ended.said
    assert ended.tasks == {"wait_for_scans": "success", "receive_abdomen": "success"}
    assert ended.events == ["scans_abdomen"]
    assert deployment.git("show", "HEAD:data/raw/abdomen.dvc") != before
    assert deployment.git("log", "-1", "--format=%s") == "data: new scans of abdomen"
    deployment.project.dvc("checkout", "data/raw/abdomen.dvc")
    assert len(list(raw.glob("*/*099*"))) == 2

    # Written again with the same bytes: there is something to look at, and nothing to take in.
    head = deployment.git("rev-parse", "HEAD")
    for path in incoming.glob("*/*"):
        os.utime(path)
    again = deployment.run_dag("receive_data")
    assert again.tasks == {"wait_for_scans": "success", "receive_abdomen": "skipped"}, again.said
    assert again.events == []
    assert deployment.git("rev-parse", "HEAD") == head
    known = json.loads((deployment.home / "incoming/abdomen.json").read_text())
    assert known["taken"] == known["seen"]
