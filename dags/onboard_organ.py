"""`onboard_organ`: an organ that nobody has trained, from a form to a registered model on a branch.

Every field is checked before anything is made; what is wrong is refused in a sentence, with nothing left
behind. The branch `onboard/<organ>` has params.yaml and dvc.lock changed: merged, `retrain_<organ>` appears.
"""

from airflow.sdk import DAG
from hounsfield_airflow.deployment import defaults, trying
from hounsfield_airflow.forms import ORGAN_FORM
from hounsfield_airflow.render import RUN, run_group
from hounsfield_airflow.runners import hounsfield

airflow, register = defaults()

with DAG(
    dag_id="onboard_organ",
    description="A new organ: scans in, model out, on a branch",
    doc_md=__doc__,
    schedule=None,
    is_paused_upon_creation=False,
    tags=["hounsfield"],
    default_args=trying(airflow),
    params=ORGAN_FORM,
):
    organ = "{{ ti.xcom_pull(task_ids='open')['organ'] }}"
    opening = hounsfield("run", "onboard", f"--id={RUN}", "--form={{ params | tojson }}")
    run_group(organ, airflow, register, opening, branch=f"onboard/{organ}")
