"""Manifests, pod template and Helm values, against the schemas of Kubernetes and of Airflow."""

import json
import re

import pytest
import yaml
from jsonschema import Draft202012Validator, ValidationError

from tests.conftest import ROOT

MANIFESTS = sorted((ROOT / "infra/kubernetes").glob("*.yaml"))
TEMPLATE = ROOT / "infra/helm/pod_template.yaml"
VALUES = ROOT / "infra/helm/values.yaml"
VERSIONS = ("1.31", "1.34", "1.37")


def documents(*kinds: str) -> list[dict]:
    """Every object of the manifests, or those of some kinds."""
    found = [
        document
        for path in MANIFESTS
        if path.name != "kustomization.yaml"
        for document in yaml.safe_load_all(path.read_text())
    ]
    return [document for document in found if not kinds or document["kind"] in kinds]


@pytest.mark.parametrize("version", VERSIONS)
def test_kubernetes_knows_every_field(lint, version):
    files = [str(path) for path in (*MANIFESTS, TEMPLATE) if path.name != "kustomization.yaml"]
    lint("kubernetes-validate", "--strict", "--quiet", "--kubernetes-version", version, *files)


def test_a_field_that_kubernetes_does_not_know_is_refused(lint, tmp_path):
    wrong = tmp_path / "pod.yaml"
    wrong.write_text(TEMPLATE.read_text().replace("serviceAccountName", "serviceAccountNames"))
    said = lint("kubernetes-validate", "--strict", "--kubernetes-version", VERSIONS[-1], str(wrong), code=1)
    assert "serviceAccountNames" in said


def test_the_kustomization_lists_every_manifest():
    listed = yaml.safe_load((ROOT / "infra/kubernetes/kustomization.yaml").read_text())["resources"]
    assert sorted(listed) == [path.name for path in MANIFESTS if path.name != "kustomization.yaml"]


def test_nobody_may_read_secrets_or_enter_pods_or_act_outside_the_namespace():
    assert documents("ClusterRole", "ClusterRoleBinding") == []
    for role in documents("Role"):
        for rule in role["rules"]:
            assert not {"*", "secrets", "pods/exec", "pods/attach"} & set(rule["resources"])
            assert "*" not in rule["verbs"]
            assert "*" not in rule["apiGroups"]


def test_every_account_that_is_bound_or_used_is_made():
    made = {account["metadata"]["name"] for account in documents("ServiceAccount")}
    bound = {subject["name"] for binding in documents("RoleBinding") for subject in binding["subjects"]}
    used = {
        deployment["spec"]["template"]["spec"]["serviceAccountName"] for deployment in documents("Deployment")
    }
    values = yaml.safe_load(VALUES.read_text())
    chart = {
        values[part]["serviceAccount"]["name"]
        for part in ("apiServer", "scheduler", "dagProcessor", "triggerer")
    } | {values["workers"]["kubernetes"]["serviceAccount"]["name"]}
    template = yaml.safe_load(TEMPLATE.read_text())["spec"]["serviceAccountName"]
    assert bound | used | chart | {template} <= made


def test_pods_of_stages_have_the_account_the_claim_and_the_network_of_the_manifests():
    from pipeline.params import KubernetesParams

    params = KubernetesParams()
    accounts = {one["metadata"]["name"]: one for one in documents("ServiceAccount")}
    assert accounts[params.service_account]["automountServiceAccountToken"] is False
    assert params.claim in {claim["metadata"]["name"] for claim in documents("PersistentVolumeClaim")}
    assert {
        document["metadata"]["namespace"] for document in documents() if document["kind"] != "Namespace"
    } == {params.namespace}
    # The label that dags/hounsfield_airflow/pods.py gives to the stage that needs a server.
    chosen = [policy["spec"]["podSelector"].get("matchLabels", {}) for policy in documents("NetworkPolicy")]
    assert {"hounsfield.io/network": "registry"} in chosen
    assert {"name": "nothing-by-default", "namespace": params.namespace} in [
        policy["metadata"] for policy in documents("NetworkPolicy")
    ]


def test_pods_are_restricted():
    template = yaml.safe_load(TEMPLATE.read_text())["spec"]
    mlflow = documents("Deployment")[0]["spec"]["template"]["spec"]
    for pod in (template, mlflow):
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        for container in pod["containers"]:
            assert container["securityContext"]["allowPrivilegeEscalation"] is False
            assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
            assert set(container["resources"]) == {"requests", "limits"}


def test_the_chart_gets_no_secret_and_no_database_of_its_own():
    values = yaml.safe_load(VALUES.read_text())
    text = VALUES.read_text()
    assert not re.search(r"(?i)^\s*(fernetKey|apiSecretKey|jwtSecret|.*password):", text, re.MULTILINE)
    named = {values[key] for key in ("fernetKeySecretName", "apiSecretKeySecretName", "jwtSecretName")}
    assert named == {values["data"]["metadataSecretName"]} == {"hounsfield-airflow"}
    assert values["executor"] == "KubernetesExecutor"
    assert values["postgresql"] == values["redis"] == {"enabled": False}
    assert values["rbac"]["create"] is False
    # The chart's own administrator is admin, with the password admin.
    assert values["createUserJob"] == {"enabled": False}


def test_airflow_knows_every_option_of_the_chart_s_configuration():
    from airflow.configuration import conf
    from airflow.providers.cncf.kubernetes.get_provider_info import get_provider_info

    known = dict(conf.configuration_description) | get_provider_info()["config"]
    for section, options in yaml.safe_load(VALUES.read_text())["config"].items():
        for option in options:
            assert option in known[section]["options"], f"{section}.{option}"


def test_what_people_are_told_of_a_failure_leads_to_where_they_reach_airflow():
    values = yaml.safe_load(VALUES.read_text())
    (host,) = values["ingress"]["apiServer"]["hosts"]
    assert values["config"]["api"]["base_url"] == f"https://{host['name']}"


def test_the_bundle_of_dags_is_named_as_airflow_wants_it():
    values = yaml.safe_load(VALUES.read_text())
    bundles = json.loads(values["config"]["dag_processor"]["dag_bundle_config_list"])
    assert [set(bundle) for bundle in bundles] == [{"name", "classpath", "kwargs"}]
    connection = bundles[0]["kwargs"]["git_conn_id"]
    variable = f"AIRFLOW_CONN_{connection.upper()}"
    assert variable in {entry["envName"] for entry in values["secret"]}
    assert variable in {
        entry["name"] for entry in yaml.safe_load(TEMPLATE.read_text())["spec"]["containers"][0]["env"]
    }


def test_dags_are_read_from_the_git_server_that_is_known_and_from_no_other():
    (text,) = re.findall(r"=connection='(\{.*?\})'\n", (ROOT / "docs/infra.md").read_text(), re.DOTALL)
    extra = json.loads(text)["extra"]
    # Airflow's hook takes any server for the right one unless it is told not to.
    assert extra["strict_host_key_checking"] == "yes"
    (mount,) = yaml.safe_load(VALUES.read_text())["volumeMounts"]
    assert extra["known_hosts_file"] == f"{mount['mountPath']}/known_hosts"
    assert extra["key_file"] == f"{mount['mountPath']}/ssh-key"


@pytest.fixture
def definitions(linters):
    """The definitions of Kubernetes' own types, as its OpenAPI description has them."""
    package = next((linters.parent / "lib").glob("python*/site-packages/kubernetes_validate"))
    folder = package / "kubernetes-json-schema" / "v1.34.0-local-strict"
    return json.loads((folder / "_definitions.json").read_text())["$defs"]


def test_the_chart_s_parts_that_are_kubernetes_own_have_its_form(definitions):
    values = yaml.safe_load(VALUES.read_text())

    def check(part: object, kind: str) -> None:
        reference = f"#/$defs/io.k8s.api.core.v1.{kind}"
        Draft202012Validator({"$ref": reference, "$defs": definitions}).validate(part)

    with pytest.raises(ValidationError):
        check({"name": "home", "claim": "hounsfield-home"}, "Volume")
    for name in ("apiServer", "scheduler", "dagProcessor", "triggerer"):
        check(values[name]["resources"], "ResourceRequirements")
    for volume in values["volumes"]:
        check(volume, "Volume")
    for mount in values["volumeMounts"]:
        check(mount, "VolumeMount")
    check(values["securityContexts"]["pod"], "PodSecurityContext")
    check(values["securityContexts"]["containers"], "SecurityContext")
    for source in yaml.safe_load(values["extraEnvFrom"]):
        check(source, "EnvFromSource")
