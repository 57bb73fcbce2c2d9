"""Runs the stage `register` in forked processes, killed or all at once; test_register.py starts it.

A process of its own loads MLflow once and has no database open that its children use.

    python forked_register.py FOLDER

Prints as JSON what is left: "killed" at every step and run again, "same" model in four projects with
one registry at once, "other" models in four such projects at once, "crowd" of twenty, of which every
second is killed on the way and run again.
"""

import json
import os
import shutil
import signal
import sys
from functools import cache
from itertools import count
from pathlib import Path

import pandas as pd

from pipeline.params import RegisterParams
from pipeline.registry.connection import connect
from pipeline.stages.register import run

ORGAN = "liver"
STEPS = (
    "create_experiment",
    "create_run",
    "log_batch",
    "log_inputs",
    "set_terminated",
    "create_registered_model",
    "create_model_version",
    "set_model_version_tag",
    "set_registered_model_alias",
    "delete_registered_model_alias",
)
"""What changes the registry; each file comes into its place by a rename, those come on top."""
CROWD = [0.7 + place % 7 / 100 + place / 1000 for place in range(20)]
"""Dice of twenty models, neither from the worst to the best nor the other way round."""


def main(folder):
    be_quick()
    # What is loaded once here is not loaded by every child: for a first champion, and for one after it.
    os.environ["HOUNSFIELD_HOME"] = str(folder / "warm" / "home")
    for dice in (0.8, 0.9):
        write_project(folder / "warm", dice)
        stage(folder / "warm")
    found = {
        "killed": killed_at_every_step(folder / "killed"),
        "same": at_once(folder / "same", [0.8, 0.8, 0.8, 0.8]),
        "other": at_once(folder / "other", [0.8, 0.83, 0.86, 0.89]),
        "crowd": at_once(folder / "crowd", CROWD, kill_at=[1 + 3 * place % 13 for place in range(10)]),
    }
    print(json.dumps(found))


def be_quick():
    """Leave out what only takes time here: flushing to disk, which a killed process does not need (only
    a power cut would), and reading MLflow's schema files again in every process."""
    from mlflow.store.db import utils
    from sqlalchemy import Engine, event

    utils._get_latest_schema_revision = cache(utils._get_latest_schema_revision)
    event.listen(Engine, "connect", lambda connection, _: connection.execute("PRAGMA synchronous = OFF"))


def at_once(folder, dice, kill_at=()):
    """What is left after a project for each Dice has registered its model in one new registry.

    Args:
        folder: of the projects.
        dice: of the models.
        kill_at: the step at which the second, fourth, … is killed; those are run again, at once as well.
    """
    home = os.environ["HOUNSFIELD_HOME"] = str(folder / "home")
    projects = [folder / f"project_{number}" for number in range(len(dice))]
    for project, value in zip(projects, dice, strict=True):
        write_project(project, value)
    steps = dict(zip(projects[1::2], kill_at, strict=False))
    children = {project: fork(stage, project, kill_at=steps.get(project)) for project in projects}
    ended = {project: wait(child) for project, child in children.items()}
    killed = [project for project, code in ended.items() if code == -signal.SIGKILL and project in steps]
    assert [code for project, code in ended.items() if project not in killed] == [0] * (
        len(projects) - len(killed)
    )
    again = [fork(stage, project) for project in killed]
    assert [wait(child) for child in again] == [0] * len(killed)
    return {"killed": len(killed)} | forked_result(state, Path(home), projects)


def killed_at_every_step(folder):
    """What is left after a kill at each step and the run after it; the last was not killed."""
    project, home, before = folder / "project", folder / "home", folder / "before"
    os.environ["HOUNSFIELD_HOME"] = str(home)
    write_project(project, dice=0.8)
    assert wait(fork(stage, project)) == 0
    shutil.copytree(home, before)
    write_project(project, dice=0.9)
    found = []
    for step in count(1):
        shutil.rmtree(home)
        shutil.copytree(before, home)
        (project / "registry" / f"{ORGAN}.json").unlink(missing_ok=True)
        killed = wait(fork(stage, project, kill_at=step)) == -signal.SIGKILL
        found.append(forked_result(completed if killed else state, home, [project]))
        if not killed:
            return found
    raise AssertionError("count never ends")


def completed(home, projects):
    """What is left after the run that follows a kill."""
    for project in projects:
        stage(project)
    return state(home, projects)


def write_project(project, dice):
    """A project whose model has this Dice in every case; the model's weights say so, too."""
    for folder in ("models", "metrics", "reports"):
        (project / folder).mkdir(parents=True, exist_ok=True)
    config = {
        "network": {"name": "residual_unet"},
        "training": {"steps": 3, "profile": "small"},
        "labels": {"left": 1},
        "modality": "CT",
        "spacing": [1.0, 1.0, 1.0],
        "recipe": {},
    }
    (project / "models" / "config.json").write_text(json.dumps(config))
    (project / "models" / "weights.safetensors").write_text(str(dice))
    (project / "metrics" / f"{ORGAN}.json").write_text(json.dumps({"dice": {"mean": dice, "left": dice}}))
    cases = [f"case_{number}" for number in range(6)]
    pd.DataFrame({"case": cases, "label": "left", "dice": dice}).to_csv(project / "reports/cases.csv")
    (project / "reports" / "curves.csv").write_text("step,loss,dice\n1,0.9,0.1\n2,0.5,\n")
    (project / "reports" / "report.html").write_text("<html></html>")
    table = pd.DataFrame({"case": [*cases, "learned"], "key": "k", "split": ["test"] * 6 + ["train"]})
    table.to_parquet(project / "accepted.parquet")


def stage(project, kill_at=None):
    os.chdir(project)
    if kill_at is not None:
        kill_before(kill_at)
    run(
        ORGAN,
        RegisterParams(resamples=100),
        raw=Path("raw"),
        accepted=Path("accepted.parquet"),
        models=Path("models"),
        metrics=Path(f"metrics/{ORGAN}.json"),
        curves=Path("reports/curves.csv"),
        cases=Path("reports/cases.csv"),
        report=Path("reports/report.html"),
        registry=Path(f"registry/{ORGAN}.json"),
        decision=Path("reports/decision.html"),
        judge=dice_in_the_weights,
    )


def dice_in_the_weights(champion, test, _raw, _config):
    dice = float((champion.folder / "weights.safetensors").read_text())
    return pd.DataFrame({"case": test["case"], "label": "left", "dice": dice})


def kill_before(step):
    """End this process without a word before the `step`-th thing it writes."""
    from mlflow import MlflowClient

    moments = count(1)

    def moment():
        if next(moments) == step:
            os.kill(os.getpid(), signal.SIGKILL)

    def watched(method):
        def call(*args, **kwargs):
            moment()
            return method(*args, **kwargs)

        return call

    for name in STEPS:
        setattr(MlflowClient, name, watched(getattr(MlflowClient, name)))
    sys.addaudithook(lambda event, _args: moment() if event == "os.rename" else None)


def state(home, projects):
    """The outcome each project was told, and what the registry holds."""
    client = connect(home)
    versions = client.search_model_versions(f"name = '{ORGAN}'")
    runs = client.search_runs([experiment.experiment_id for experiment in client.search_experiments()])
    return {
        "outcomes": [(project / "registry" / f"{ORGAN}.json").read_text() for project in projects],
        "versions": sorted(int(version.version) for version in versions),
        "contents": sorted(version.tags["hounsfield.content"] for version in versions),
        "decided": sum("hounsfield.decision" in version.tags for version in versions),
        "runs": len(runs),
        "points": [len(client.get_metric_history(run.info.run_id, "learning.loss")) for run in runs],
        "data": [len(run.inputs.dataset_inputs) for run in runs],
        "lineages": [lineage(run) for run in runs],
        "aliases": client.get_registered_model(ORGAN).aliases,
    }


def lineage(run):
    """The text of what was taken down about a run's origin."""
    kept = Path(run.info.artifact_uri.removeprefix("file://")) / "evidence" / "lineage.json"
    return kept.read_text()


def fork(work, *args, **options):
    child = os.fork()
    if child == 0:
        # Never back into the caller, whatever happens.
        try:
            work(*args, **options)
            os._exit(0)
        except BaseException as error:
            print(repr(error), file=sys.stderr, flush=True)
            os._exit(1)
    return child


def wait(child):
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def forked_result(work, *args):
    """What `work` returns, done in a child, so that this process opens no database it forks with."""
    reading, writing = os.pipe()

    def send():
        with os.fdopen(writing, "w") as pipe:
            json.dump(work(*args), pipe)

    child = fork(send)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        text = pipe.read()
    assert wait(child) == 0
    return json.loads(text)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
