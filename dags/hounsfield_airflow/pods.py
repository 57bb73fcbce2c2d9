"""A stage in its image on Kubernetes: one pod, or for `train` over several nodes a Kubeflow TrainJob.

What `params.yaml` says under `kubernetes` is put in as Kubernetes writes it. Both are locked down: no root,
a file system that is only read but for the runs' volume and /tmp, no capabilities, no token of the cluster.
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from airflow.providers.cncf.kubernetes.hooks.kubernetes import KubernetesHook
from airflow.providers.cncf.kubernetes.operators.pod import KubernetesPodOperator
from airflow.sdk import BaseOperator, BaseSensorOperator
from airflow.sdk.exceptions import AirflowException, AirflowFailException
from kubernetes.client import ApiException

from hounsfield_airflow.deployment import project, settings
from pipeline.graph import load_stages
from pipeline.params import AirflowParams, KubernetesParams
from pipeline.runs.errors import FINAL
from pipeline.runs.settings import IMAGE

USER = 10001
"""Whom the images run as, and the group of the volume that all runs share."""
POD_SECURITY = {
    "runAsNonRoot": True,
    "runAsUser": USER,
    "runAsGroup": USER,
    "fsGroup": USER,
    # A large volume is not gone through before every pod.
    "fsGroupChangePolicy": "OnRootMismatch",
    "seccompProfile": {"type": "RuntimeDefault"},
}
SECURITY = {
    "allowPrivilegeEscalation": False,
    "readOnlyRootFilesystem": True,
    "capabilities": {"drop": ["ALL"]},
}
CONFIGURATION = "hounsfield"
"""The ConfigMap of the installation, which workers have as well: MLFLOW_TRACKING_URI is in it."""
SECRET = "hounsfield-registry"
"""Holds what else the registry's server is asked with, a name and a password; what it says wins."""
SCHEDULE_WITHIN = 3600
"""Seconds that a pod may wait for a node: one with a GPU has yet to be started, or is busy."""
START_WITHIN = 1800
"""Seconds that it may take there: a new node has no image yet."""
TRAINER = {"group": "trainer.kubeflow.org", "version": "v1alpha1", "plural": "trainjobs"}
RUNTIME = "torch-distributed"
"""Kubeflow Trainer's own runtime for PyTorch: it tells torchrun where the other nodes are."""
NODE = "node"
"""What that runtime calls its job and the container in it."""


def pod_task(
    task_id: str,
    command: Sequence[str],
    cwd: str,
    stage: str,
    env: Mapping[str, str],
    params: AirflowParams,
    **arguments: Any,
) -> BaseOperator:
    """A task that runs a command in the image of a stage; arguments as `runners.command_task` has them."""
    deployment, kubernetes = settings(), params.kubernetes
    image = f"{deployment.images}{stage}:{deployment.image_tag}"
    if stage == "train" and kubernetes.nodes > 1:
        organ = command[-1]
        manifest = train_job_of(image, organ, cwd, deployment.home, kubernetes, env)
        return TrainJob(task_id=task_id, manifest=manifest, **arguments)
    meta = load_stages(project())[stage].meta
    gpu, network = bool(meta.get("gpu")), bool(meta.get("network"))
    return StagePod(
        task_id=task_id,
        name=f"hounsfield-{stage}",
        namespace=kubernetes.namespace,
        env_vars=dict(env),
        pod_template_dict=pod_of(image, command, cwd, deployment.home, kubernetes, stage, gpu, network),
        **arguments,
    )


class StagePod(KubernetesPodOperator):
    """A command in the image of a stage, in the folder of a run's workspace; it waits without a worker."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(
            deferrable=True,
            log_pod_spec_on_failure=False,
            schedule_timeout_seconds=SCHEDULE_WITHIN,
            startup_timeout_seconds=START_WITHIN,
            **kwargs,
        )

    def cleanup(self, pod: Any, remote_pod: Any, *args: Any, **kwargs: Any) -> None:
        """Remove the pod and fail as it has.

        Raises:
            AirflowFailException: it ended in a way that no retry mends.
        """
        try:
            super().cleanup(pod, remote_pod, *args, **kwargs)
        except AirflowException as error:
            code = exit_code(remote_pod)
            if code in FINAL:
                raise AirflowFailException(f"the stage ended with {code}, see its log: {error}") from None
            raise


def exit_code(pod: Any) -> int | None:
    """With what the container of a pod ended; None if it did not or nobody knows."""
    for container in (pod.status.container_statuses or []) if pod and pod.status else []:
        if container.state and container.state.terminated:
            return int(container.state.terminated.exit_code)
    return None


class TrainJob(BaseSensorOperator):
    """A training over several nodes: made if it is not there, asked after until it has ended.

    Between two looks no worker is taken, and nobody hears that the task is stopped or cleared: another
    attempt finds the job of the one before it.

    Args:
        manifest: the job, but for its name, which is the task's and the run's.
        kwargs: as a sensor has them.
    """

    template_fields = (*BaseSensorOperator.template_fields, "manifest")

    def __init__(self, *, manifest: dict[str, Any], **kwargs: Any) -> None:
        super().__init__(mode="reschedule", poke_interval=30, **kwargs)
        self.manifest = manifest
        self._remove: Callable[[], Any] | None = None

    def poke(self, context: Any) -> bool:
        """Whether the job is done.

        Raises:
            AirflowException: it failed; it is removed, so that the next attempt goes on in a new one.
        """
        hook, name = KubernetesHook(), job_name(context)
        place = {"namespace": self.manifest["metadata"]["namespace"]} | TRAINER
        self._remove = partial(hook.delete_custom_object, **place, name=name)
        try:
            job = hook.get_custom_object(**place, name=name)
        except ApiException as error:
            if error.status != 404:
                raise
            metadata = self.manifest["metadata"] | {"name": name}
            hook.create_custom_object(**place, body=self.manifest | {"metadata": metadata})
            return False
        for condition in job.get("status", {}).get("conditions", []):
            if condition["status"] == "True" and condition["type"] in ("Complete", "Failed"):
                self._remove()
                if condition["type"] == "Failed":
                    raise AirflowException(f"the TrainJob {name} failed: {condition.get('message', '')}")
                return True
        return False

    def on_kill(self) -> None:
        """End the job of a task that is stopped while it looks; the next attempt goes on in a new one."""
        if self._remove is not None:
            try:
                self._remove()
            except ApiException as error:
                if error.status != 404:
                    raise


def job_name(context: Any) -> str:
    """The same for every attempt of a task of a run, and no other's."""
    task = context["ti"]
    key = f"{task.dag_id} {task.run_id} {task.task_id}"
    return f"hounsfield-train-{hashlib.sha256(key.encode()).hexdigest()[:12]}"


def pod_of(
    image: str,
    command: Sequence[str],
    folder: str,
    home: Path,
    params: KubernetesParams,
    stage: str,
    gpu: bool = False,
    network: bool = False,
) -> dict[str, Any]:
    """The pod of a stage; `folder` is the workspace, on the volume that holds `home`."""
    container = {
        "name": "base",
        "image": image,
        "imagePullPolicy": params.image_pull_policy,
        "args": list(command),
        "env": [{"name": IMAGE, "value": image}],
        "workingDir": folder,
        "resources": params.resources.get(stage, params.resources.get("default", {})),
        "securityContext": SECURITY,
        "volumeMounts": _mounts(home, params),
        **({"envFrom": _registry()} if network else {}),
    }
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        # Where network policies tell a pod that may reach a server from one that may not.
        "metadata": {"labels": labels(stage, network)},
        "spec": {
            "serviceAccountName": params.service_account,
            "automountServiceAccountToken": False,
            "restartPolicy": "Never",
            "securityContext": POD_SECURITY,
            **_nodes(params, gpu),
            "volumes": _volumes(params),
            "containers": [container],
        },
    }


def train_job_of(
    image: str,
    organ: str,
    folder: str,
    home: Path,
    params: KubernetesParams,
    environment: Mapping[str, str],
) -> dict[str, Any]:
    """The TrainJob of an organ's training on `params.nodes` nodes; a node's processes are torchrun's.

    The first node notes in `dvc.lock` what came out, as if DVC had run the stage.
    """
    command = (
        f"cd '{folder}' && umask 0002 && torchrun -m pipeline train {organ}"
        f' && if [ "${{PET_NODE_RANK:-0}}" = 0 ]; then dvc commit --force train@{organ}; fi'
    )
    pod = {
        "serviceAccountName": params.service_account,
        "securityContext": POD_SECURITY,
        **_nodes(params, gpu=True),
        "volumes": _volumes(params),
        "containers": [
            {"name": NODE, "securityContext": SECURITY, "volumeMounts": _mounts(home, params)},
        ],
    }
    template = {"metadata": {"labels": labels("train", network=False)}, "spec": pod}
    patch = {
        "manager": "hounsfield.io/airflow",
        "trainingRuntimeSpec": {
            "template": {
                "spec": {"replicatedJobs": [{"name": NODE, "template": {"spec": {"template": template}}}]}
            }
        },
    }
    return {
        "apiVersion": f"{TRAINER['group']}/{TRAINER['version']}",
        "kind": "TrainJob",
        "metadata": {"namespace": params.namespace, "labels": labels("train", network=False)},
        "spec": {
            "runtimeRef": {"name": RUNTIME},
            "trainer": {
                "image": image,
                "command": ["sh", "-c", command],
                "numNodes": params.nodes,
                "resourcesPerNode": params.resources.get("train", params.resources.get("default", {})),
                "env": [{"name": name, "value": value} for name, value in environment.items()],
            },
            "runtimePatches": [patch],
        },
    }


def labels(stage: str, network: bool) -> dict[str, str]:
    """By which pods of Hounsfield are found, and by which network policies choose them."""
    return {
        "app.kubernetes.io/name": "hounsfield",
        "app.kubernetes.io/component": stage,
        "hounsfield.io/network": "registry" if network else "none",
    }


def _registry() -> list[dict[str, Any]]:
    """Where a stage is told of the registry's server; of a variable that both have, the last counts."""
    sources = {"configMapRef": CONFIGURATION, "secretRef": SECRET}
    return [{kind: {"name": name, "optional": True}} for kind, name in sources.items()]


def _nodes(params: KubernetesParams, gpu: bool) -> dict[str, Any]:
    """Where a pod may run: nodes with a GPU are for what computes on one."""
    return {
        "nodeSelector": params.node_selector | (params.gpu_node_selector if gpu else {}),
        "tolerations": [*params.tolerations, *(params.gpu_tolerations if gpu else ())],
    }


def _volumes(params: KubernetesParams) -> list[dict[str, Any]]:
    return [
        {"name": "home", "persistentVolumeClaim": {"claimName": params.claim}},
        {"name": "tmp", "emptyDir": {}},
        *params.volumes,
    ]


def _mounts(home: Path, params: KubernetesParams) -> list[dict[str, Any]]:
    return [
        {"name": "home", "mountPath": str(home)},
        {"name": "tmp", "mountPath": "/tmp"},
        *params.volume_mounts,
    ]
