"""`rollback_model`: a former champion becomes the champion again, with a reason that is kept.

The current champion will not come back by itself, whatever is retrained on the same data.
"""

from airflow.sdk import DAG, Param
from hounsfield_airflow.deployment import organs, project, trying
from hounsfield_airflow.runners import command_task, hounsfield

from pipeline.params import AirflowParams

with DAG(
    dag_id="rollback_model",
    description="A former champion becomes the champion again",
    doc_md=__doc__,
    schedule=None,
    is_paused_upon_creation=False,
    tags=["hounsfield"],
    params={
        "organ": Param(type="string", enum=list(organs()), title="Organ"),
        "version": Param(
            None,
            type=["null", "integer"],
            minimum=1,
            title="Version",
            description="that becomes the champion; empty: the champion before",
        ),
        "reason": Param(
            "", type="string", title="Reason", description="why the champion has to go; it is kept"
        ),
    },
):
    command_task(
        "rollback",
        hounsfield(
            "rollback",
            "--reason={{ params.reason }}",
            "{{ '--to=%d' % params.version if params.version else '' }}",
            "--by={{ dag_run.triggering_user_name or '' }}",
            "--id={{ run_id }}",
            "--json",
            "--",
            "{{ params.organ }}",
        ),
        cwd=str(project()),
        **trying(AirflowParams()),
    )
