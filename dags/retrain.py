"""`retrain_<organ>`: the pipeline on a schedule and on new scans, for every organ of params.yaml.

A run is a workspace. Where nothing has changed since the last one, it is over at once.
"""

from typing import Any

from airflow.sdk import DAG, Param
from airflow.timetables.assets import AssetOrTimeSchedule
from airflow.timetables.trigger import CronTriggerTimetable
from hounsfield_airflow.deployment import organs, scans_of, trying
from hounsfield_airflow.render import RUN, run_group
from hounsfield_airflow.runners import hounsfield

for organ, params in organs().items():
    cron = params.airflow.schedule
    scans: Any = [scans_of(organ)]
    with DAG(
        dag_id=f"retrain_{organ}",
        description=f"The pipeline for {organ}: a better model becomes the champion",
        doc_md=__doc__,
        schedule=AssetOrTimeSchedule(timetable=CronTriggerTimetable(cron, timezone="UTC"), assets=scans)
        if cron
        else scans,
        catchup=False,
        max_active_runs=1,
        is_paused_upon_creation=False,
        tags=["hounsfield", organ],
        default_args=trying(params.airflow),
        params={
            "start": Param(
                "as_is",
                enum=["as_is", "warm", "scratch"],
                title="Start of the training",
                description="as params.yaml says, from the champion, or from random weights",
            ),
            "force": Param(False, type="boolean", title="Even if nothing has changed"),
        },
    ) as dag:
        begin = ["--start", "{{ params.start }}", "{{ '--force' if params.force else '' }}"]
        opening = hounsfield("run", "open", organ, "--id", RUN, "--by", dag.dag_id, *begin)
        run_group(organ, params.airflow, params.register_, opening)
