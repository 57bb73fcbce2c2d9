"""`receive_data`: new scans become a new version of the raw data, which starts a retraining.

Where they arrive is `airflow.incoming` of each organ in params.yaml, an S3 prefix or a folder. What is still
being uploaded is waited for.
"""

from datetime import UTC, datetime, timedelta

from airflow.sdk import DAG
from hounsfield_airflow.arrivals import ArrivalSensor
from hounsfield_airflow.deployment import defaults, organs, project, scans_of, settings, trying
from hounsfield_airflow.runners import command_task, hounsfield

from pipeline.params import AirflowParams

watched = {organ: params.airflow for organ, params in organs().items() if params.airflow.incoming}

with DAG(
    dag_id="receive_data",
    description="New scans become a new version of the raw data",
    doc_md=__doc__,
    # The next run begins to wait when the last one has ended.
    schedule="@continuous" if watched else None,
    # Without one, Airflow dates the second run like the first, and never starts it.
    start_date=datetime(2026, 1, 1, tzinfo=UTC),
    catchup=False,
    max_active_runs=1,
    is_paused_upon_creation=False,
    tags=["hounsfield"],
    default_args=trying(defaults()[0]),
):
    arrived = ArrivalSensor(
        task_id="wait_for_scans",
        command=hounsfield("run", "incoming"),
        cwd=str(project()),
        env=settings().environment,
        poll=timedelta(seconds=min([params.poll_seconds for params in watched.values()], default=60.0)),
        **trying(AirflowParams()),
    )
    for organ, params in watched.items():
        arrived >> command_task(
            f"receive_{organ}",
            hounsfield("run", "receive", organ),
            cwd=str(project()),
            outlets=[scans_of(organ)],
            **trying(params),
        )
