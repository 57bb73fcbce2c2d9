"""Stages as pods and TrainJobs: what is asked of Kubernetes, and what is made of its answers."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from airflow.sdk.exceptions import AirflowException, AirflowFailException
from hounsfield_airflow.pods import StagePod, TrainJob, pod_of, pod_task, train_job_of
from kubernetes.client import ApiClient, V1Pod

from pipeline.params import AirflowParams, KubernetesParams
from tests.conftest import ROOT
from tests.integration.containers.kubeflow_models import refused_by_kubeflow

PARAMS = KubernetesParams(
    namespace="lab",
    claim="scans",
    resources={
        "default": {"requests": {"cpu": "1"}},
        "train": {"limits": {"nvidia.com/gpu": "1", "memory": "16Gi"}},
    },
    node_selector={"zone": "a"},
    tolerations=({"key": "lab", "operator": "Exists"},),
    gpu_node_selector={"pool": "gpu"},
    gpu_tolerations=({"key": "nvidia.com/gpu", "operator": "Exists"},),
    volumes=({"name": "shm", "emptyDir": {"medium": "Memory"}},),
    volume_mounts=({"name": "shm", "mountPath": "/dev/shm"},),
    nodes=2,
)
HOME, FOLDER = Path("/srv/hounsfield"), "/srv/hounsfield/workspaces/spleen/r1"
COMMAND = ["hounsfield", "run", "stage", "train", "spleen"]
JOBS = "/apis/trainer.kubeflow.org/v1alpha1/namespaces/lab/trainjobs"
CONTEXT = {"ti": SimpleNamespace(dag_id="retrain_spleen", run_id="r1", task_id="spleen.train")}


def stage_pod(stage: str = "train", network: bool = False, **options: Any) -> StagePod:
    template = pod_of("hounsfield/train:v1", COMMAND, FOLDER, HOME, PARAMS, stage, network=network)
    return StagePod(
        task_id="train",
        name="spleen-train",
        namespace="lab",
        pod_template_dict=template,
        **options,
    )


def requested(operator: StagePod) -> dict[str, Any]:
    made: dict[str, Any] = ApiClient().sanitize_for_serialization(
        operator.build_pod_request_obj(dry_run=True)
    )
    return made


def test_pod_runs_the_stage_in_its_workspace_with_what_params_ask_for() -> None:
    pod = requested(stage_pod())
    (container,) = pod["spec"]["containers"]
    assert container["image"] == "hounsfield/train:v1"
    assert container["args"] == COMMAND
    assert not container.get("command")
    assert container["workingDir"] == FOLDER
    assert container["resources"]["limits"] == {"nvidia.com/gpu": "1", "memory": "16Gi"}
    mounts = {mount["mountPath"]: mount["name"] for mount in container["volumeMounts"]}
    assert mounts == {"/srv/hounsfield": "home", "/tmp": "tmp", "/dev/shm": "shm"}
    claims = {volume["name"]: volume.get("persistentVolumeClaim") for volume in pod["spec"]["volumes"]}
    assert claims == {"home": {"claimName": "scans"}, "tmp": None, "shm": None}
    assert pod["metadata"]["namespace"] == "lab"


def test_pod_is_locked_down() -> None:
    spec = requested(stage_pod())["spec"]
    assert spec["automountServiceAccountToken"] is False
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert spec["securityContext"]["runAsUser"] == 10001
    security = spec["containers"][0]["securityContext"]
    assert security["readOnlyRootFilesystem"] is True
    assert security["allowPrivilegeEscalation"] is False
    assert security["capabilities"]["drop"] == ["ALL"]


def test_a_pod_is_told_its_image_for_the_lineage_beside_what_the_task_sets() -> None:
    (container,) = requested(stage_pod(env_vars={"OMP_NUM_THREADS": "2"}))["spec"]["containers"]
    told = {variable["name"]: variable["value"] for variable in container["env"]}
    assert told == {"HOUNSFIELD_IMAGE": "hounsfield/train:v1", "OMP_NUM_THREADS": "2"}


def test_pods_that_need_no_server_are_told_apart_from_those_that_do() -> None:
    alone, asking = (requested(stage_pod(network=network)) for network in (False, True))
    assert alone["metadata"]["labels"]["hounsfield.io/network"] == "none"
    assert asking["metadata"]["labels"]["hounsfield.io/network"] == "registry"
    assert not alone["spec"]["containers"][0].get("envFrom")


def test_a_stage_that_asks_the_registry_is_told_of_it_as_workers_are_and_what_the_secret_says_counts() -> (
    None
):
    asked = requested(stage_pod(network=True))["spec"]["containers"][0]["envFrom"]
    assert asked == [
        {"configMapRef": {"name": "hounsfield", "optional": True}},
        {"secretRef": {"name": "hounsfield-registry", "optional": True}},
    ]
    manifest = yaml.safe_load((ROOT / "infra/kubernetes/configuration.yaml").read_text())
    assert manifest["metadata"]["name"] == "hounsfield"
    assert manifest["data"]["MLFLOW_TRACKING_URI"].startswith("http")


def test_a_pod_waits_for_a_gpu_node_that_has_yet_to_start_and_to_fetch_the_image() -> None:
    pod = stage_pod()
    # Airflow would give each of them up after two minutes.
    assert pod.schedule_timeout_seconds >= 3600
    assert pod.startup_timeout_seconds >= 1800


@pytest.mark.parametrize(
    ("stage", "gpu"), [("ingest", False), ("patches", False), ("train", True), ("evaluate", True)]
)
def test_only_what_computes_on_a_gpu_is_sent_to_the_nodes_that_have_one(stage: str, gpu: bool) -> None:
    params = AirflowParams(kubernetes=PARAMS.model_copy(update={"nodes": 1}))
    spec = requested(pod_task(stage, COMMAND, FOLDER, stage, {}, params))["spec"]
    assert spec["nodeSelector"] == {"zone": "a"} | ({"pool": "gpu"} if gpu else {})
    assert [toleration["key"] for toleration in spec["tolerations"]] == (
        ["lab", "nvidia.com/gpu"] if gpu else ["lab"]
    )


def test_a_training_over_several_nodes_is_sent_to_those_with_a_gpu() -> None:
    (patch,) = job()["spec"]["runtimePatches"]
    (node,) = patch["trainingRuntimeSpec"]["template"]["spec"]["replicatedJobs"]
    spec = node["template"]["spec"]["template"]["spec"]
    assert spec["nodeSelector"] == {"zone": "a", "pool": "gpu"}
    assert [toleration["key"] for toleration in spec["tolerations"]] == ["lab", "nvidia.com/gpu"]


def test_resources_of_a_stage_that_none_are_written_for_are_the_default_ones() -> None:
    assert requested(stage_pod("patches"))["spec"]["containers"][0]["resources"] == {"requests": {"cpu": "1"}}


@pytest.mark.parametrize(("code", "kind"), [(3, AirflowFailException), (75, AirflowException)])
def test_a_pod_that_no_retry_mends_is_told_apart(code: int, kind: type[Exception], api: "Api") -> None:
    status = {
        "phase": "Failed",
        "containerStatuses": [
            {
                "name": "base",
                "state": {"terminated": {"exitCode": code}},
                "image": "i",
                "imageID": "i",
                "ready": False,
                "restartCount": 0,
            }
        ],
    }
    operator = stage_pod()
    made = requested(operator) | {"status": status}
    pod = ApiClient()._ApiClient__deserialize(made, V1Pod)
    api.objects[f"/api/v1/namespaces/lab/pods/{pod.metadata.name}"] = made
    with pytest.raises(AirflowException) as raised:
        operator.cleanup(pod, pod)
    assert type(raised.value) is kind
    assert api.objects == {}


def job() -> dict[str, Any]:
    return train_job_of("hounsfield/train:v1", "spleen", FOLDER, HOME, PARAMS, {"HOUNSFIELD_HOME": str(HOME)})


def test_train_job_is_one_that_kubeflow_takes() -> None:
    assert refused_by_kubeflow(job() | {"metadata": {"name": "x", "namespace": "lab"}}) == ""
    spec = job()["spec"]
    assert spec["trainer"]["numNodes"] == 2
    assert "torchrun -m pipeline train spleen" in spec["trainer"]["command"][-1]
    broken = job() | {"spec": spec | {"trainer": spec["trainer"] | {"numNodes": "two"}}}
    assert "numNodes" in refused_by_kubeflow(broken)


def test_train_job_is_made_once_and_waited_for(api: "Api") -> None:
    task = TrainJob(task_id="train", manifest=job())
    assert task.poke(CONTEXT) is False
    (path,) = api.objects
    assert path.startswith(f"{JOBS}/hounsfield-train-")
    assert api.objects[path]["spec"] == json.loads(json.dumps(job()["spec"]))
    # Another attempt, in another worker, finds it.
    assert TrainJob(task_id="train", manifest=job()).poke(CONTEXT) is False
    assert list(api.objects) == [path]
    api.objects[path]["status"] = {"conditions": [{"type": "Complete", "status": "True"}]}
    assert task.poke(CONTEXT) is True
    assert api.objects == {}


def test_a_failed_train_job_is_removed_so_that_the_retry_makes_a_new_one(api: "Api") -> None:
    task = TrainJob(task_id="train", manifest=job())
    task.poke(CONTEXT)
    for made in api.objects.values():
        made["status"] = {"conditions": [{"type": "Failed", "status": "True", "message": "node 1 is gone"}]}
    with pytest.raises(AirflowException, match="node 1 is gone"):
        task.poke(CONTEXT)
    assert api.objects == {}
    assert task.poke(CONTEXT) is False
    assert len(api.objects) == 1


def test_a_train_job_whose_task_is_stopped_while_it_looks_is_ended(api: "Api") -> None:
    task = TrainJob(task_id="train", manifest=job())
    task.on_kill()
    task.poke(CONTEXT)
    task.on_kill()
    assert api.objects == {}
    task.on_kill()


class Api:
    """As much of Kubernetes' HTTP interface as keeps objects: there is no server of it to start here."""

    def __init__(self) -> None:
        self.objects: dict[str, dict[str, Any]] = {}
        """By path."""

    def answer(self, method: str, path: str, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        if method == "POST":
            self.objects[f"{path}/{body['metadata']['name']}"] = body
            return 201, body
        found = self.objects.pop(path, None) if method == "DELETE" else self.objects.get(path)
        return (200, found) if found else (404, {"reason": "NotFound"})


@pytest.fixture
def api(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Api]:
    api = Api()

    class Handler(BaseHTTPRequestHandler):
        def handle_any(self) -> None:
            length = int(self.headers.get("Content-Length") or 0)
            body = json.loads(self.rfile.read(length) or b"{}")
            code, found = api.answer(self.command, self.path.partition("?")[0], body)
            self.send_response(code)
            self.send_header("Content-Type", "application/json")
            self.end_headers()
            self.wfile.write(json.dumps(found).encode())

        do_GET = do_POST = do_DELETE = do_PATCH = handle_any  # noqa: N815

        def log_message(self, *_: Any) -> None:
            """Be quiet."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "here",
        "clusters": [{"name": "here", "cluster": {"server": f"http://127.0.0.1:{server.server_port}"}}],
        "contexts": [{"name": "here", "context": {"cluster": "here", "user": "me"}}],
        "users": [{"name": "me", "user": {"token": "t"}}],
    }
    (tmp_path / "config").write_text(yaml.safe_dump(config))
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "config"))
    monkeypatch.setenv("AIRFLOW_CONN_KUBERNETES_DEFAULT", f"kubernetes://?kube_config_path={tmp_path}/config")
    yield api
    server.shutdown()
    server.server_close()
