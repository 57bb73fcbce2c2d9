"""Runs DAGs for real by `dag.test()`: a request a line on stdin, an answer a line on the descriptor in argv.

    {"dag": DAG_ID, "conf": {…}, "answer": …}

`answer` is what a person says where the DAG asks: Approve, Reject, or none, and the deadline passes.
"""

import json
import os
import sys
import threading
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

# All before the thread that answers is started: two threads that import at once wait for each other.
from airflow.api_fastapi.app import create_app
from airflow.dag_processing.dagbag import BundleDagBag
from airflow.jobs.job import Job
from airflow.jobs.scheduler_job_runner import SchedulerJobRunner
from airflow.models.asset import AssetEvent
from airflow.models.taskinstance import TaskInstance
from airflow.utils.session import create_session
from airflow.utils.state import TaskInstanceState
from fastapi.testclient import TestClient

CLIENT = TestClient(create_app())
"""Of Airflow's API, in this process; making it takes seconds, so it is made once."""


def main() -> None:
    with open(int(sys.argv[1]), "w", encoding="utf-8") as answers:
        for line in sys.stdin:
            request = json.loads(line)
            print(json.dumps(ended(**request)), file=answers, flush=True)


def ended(dag: str, conf: Any, answer: str) -> dict[str, Any]:
    """Run a DAG, and say how each task ended."""
    folder = Path(os.environ["AIRFLOW__CORE__DAGS_FOLDER"])
    bag = BundleDagBag(dag_folder=str(folder), bundle_path=folder, bundle_name="dags-folder")
    assert not bag.import_errors, bag.import_errors
    if answer:
        threading.Thread(target=answer_when_asked, args=(dag, answer), daemon=True).start()
    run = bag.dags[dag].test(run_conf=conf, logical_date=datetime.now(UTC))
    tasks = {task.task_id: str(task.state) for task in run.get_task_instances()}
    return {"state": str(run.state), "run": run.run_id, "tasks": tasks, "events": events(run)}


def events(run: Any) -> list[str]:
    """The assets that the run has updated."""
    with create_session() as session:
        found = session.query(AssetEvent).filter_by(source_run_id=run.run_id, source_dag_id=run.dag_id)
        return [event.asset.name for event in found]


def answer_when_asked(dag_id: str, answer: str) -> None:
    """Answer as a person does in the UI, by the API; or let the deadline pass, as the scheduler sees it."""
    waiting = {"dag_id": dag_id, "state": TaskInstanceState.AWAITING_INPUT}
    while True:
        time.sleep(0.5)
        with create_session() as session:
            task = session.query(TaskInstance).filter_by(**waiting).first()
            if task is not None:
                if answer == "none":
                    pass_deadline(session, task)
                else:
                    respond(task, answer)
                return


def respond(task: Any, answer: str) -> None:
    login = {"username": "admin", "password": "admin"}
    token = CLIENT.post("/auth/token", json=login).json()["access_token"]
    place = f"/api/v2/dags/{task.dag_id}/dagRuns/{task.run_id}/taskInstances/{task.task_id}/-1/hitlDetails"
    body = {"chosen_options": [answer], "params_input": {}}
    said = CLIENT.patch(place, json=body, headers={"Authorization": f"Bearer {token}"})
    assert said.status_code == 200, said.text


def pass_deadline(session: Any, task: Any) -> None:
    task.trigger_timeout = datetime.now(UTC) - timedelta(seconds=1)
    session.commit()
    SchedulerJobRunner(job=Job()).check_awaiting_input_timeouts()


if __name__ == "__main__":
    main()
