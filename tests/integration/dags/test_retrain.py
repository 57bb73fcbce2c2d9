import yaml

from pipeline.workspace import STAGES
from tests.integration.dags.conftest import Deployment


def test_a_retraining_ends_with_a_champion_and_a_tagged_commit_and_the_next_skips(
    deployment: Deployment,
) -> None:
    before = deployment.git("rev-parse", "HEAD")
    ended = deployment.run_dag("retrain_abdomen")
    assert ended.state == "success", ended.said
    assert set(ended.tasks.values()) == {"success"}
    assert set(ended.tasks) == {"open", *STAGES, "publish", "close"}
    assert deployment.champion() == 1
    tag = deployment.git("tag", "--points-at", "HEAD")
    assert tag.startswith("abdomen/manual__")
    assert deployment.git("rev-parse", "HEAD~1") == before
    locked = yaml.safe_load((deployment.project.folder / "dvc.lock").read_text())["stages"]
    assert set(locked) == {f"{stage}@abdomen" for stage in STAGES}
    assert not list((deployment.home / "workspaces/abdomen").glob("[!.]*"))

    again = deployment.run_dag("retrain_abdomen")
    assert set(again.tasks.values()) == {"skipped"}, again.said
    assert deployment.git("tag", "--points-at", "HEAD") == tag
