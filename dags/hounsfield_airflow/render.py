"""`dvc.yaml` as a task group: a task a stage, an edge a dependency, for one organ; and a run around it."""

from collections.abc import Sequence
from datetime import timedelta

from airflow.providers.standard.operators.hitl import ApprovalOperator
from airflow.sdk import BaseOperator, TaskGroup, TriggerRule, chain

from hounsfield_airflow.deployment import project, trying
from hounsfield_airflow.runners import command_task, hounsfield
from pipeline.graph import load_stages
from pipeline.params import AirflowParams, RegisterParams

WORKSPACE = "{{ ti.xcom_pull(task_ids='open')['path'] }}"
RUN = "{{ run_id }}"
DEFAULT_POOL = "default_pool"


def stage_group(organ: str, params: AirflowParams, *, cwd: str) -> TaskGroup:
    """The stages of the pipeline for `organ`, as tasks that run in the workspace `cwd`; both templates."""
    stages = load_stages(project())
    with TaskGroup("pipeline", prefix_group_id=False, tooltip="the stages of dvc.yaml") as group:
        tasks = {
            name: command_task(
                name,
                hounsfield("run", "stage", name, organ),
                cwd=cwd,
                stage=name,
                params=params,
                doc_md=stage.desc,
                pool=params.gpu_pool if stage.meta.get("gpu") else DEFAULT_POOL,
                **trying(params),
            )
            for name, stage in stages.items()
        }
        for name, stage in stages.items():
            for needed in stage.needs:
                chain(tasks[needed], tasks[name])
    return group


def run_group(
    organ: str, params: AirflowParams, register: RegisterParams, opening: Sequence[str], *, branch: str = ""
) -> None:
    """The tasks of a run: open it, the stages, approval where it is asked for, publish, close.

    Args:
        organ: a name, or a template of one.
        params: of the organ.
        register: of the organ: whether a person has to approve.
        opening: the command that makes the workspace.
        branch: to publish on, a template; '': the one that runs start from.
    """
    here = str(project())
    opened: BaseOperator = command_task("open", opening, cwd=here)
    opened.is_setup = True
    stages = stage_group(organ, params, cwd=WORKSPACE)
    published = command_task(
        "publish",
        hounsfield("run", "publish", organ, "--id", RUN, *(["--branch", branch] if branch else [])),
        cwd=here,
        # What has to be approved and is not is published all the same: it stays a challenger.
        trigger_rule=TriggerRule.NONE_FAILED_MIN_ONE_SUCCESS,
        doc_md="Data to the DVC remote; dvc.lock, metrics and decision as a tagged commit",
    )
    # A teardown runs whatever happened, and does not hide it; clearing a stage opens the run again.
    closed = command_task(
        "close", hounsfield("run", "close", organ, "--id", RUN, "--keep-unpublished"), cwd=here
    ).as_teardown(setups=opened)
    chain(opened, stages, published, closed)
    if register.may_wait:
        chain(stages, *approval_of(organ, params), published)


def approval_of(organ: str, params: AirflowParams) -> list[BaseOperator]:
    """Tasks that have a person decide about a model that won: in the Airflow UI, until a deadline."""
    awaited = command_task("awaited", hounsfield("run", "awaited", organ), cwd=WORKSPACE, **trying(params))
    version = "{{ ti.xcom_pull(task_ids='awaited')['version'] }}"
    approved = ApprovalOperator(
        task_id="approve",
        subject=f"{organ}: version {version} won. Shall it become the champion?",
        body="The evidence: [challenger beside champion]({{ ti.xcom_pull(task_ids='awaited')['decision'] }}) "
        "and the [report]({{ ti.xcom_pull(task_ids='awaited')['report'] }}) on the challenger. "
        f"Without an answer in {params.approval_hours:g} hours it stays a challenger.",
        defaults=ApprovalOperator.REJECT,
        response_timeout=timedelta(hours=params.approval_hours),
    )
    by = "{{ (ti.xcom_pull(task_ids='approve')['responded_by_user'] or {}).get('name') or 'somebody' }}"
    promoted = command_task(
        "promote", hounsfield("run", "promote", organ, version, "--by", by), cwd=WORKSPACE, **trying(params)
    )
    return [awaited, approved, promoted]
