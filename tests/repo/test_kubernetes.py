"""The Kustomize overlays build, are what Kubernetes' schemas ask for, and name the right ports."""

import shutil
import subprocess
from pathlib import Path

import kubernetes_validate
import pytest
import yaml
from deployed_services import SETTINGS, drain_s

KUBERNETES = Path(__file__).parents[2] / "deploy" / "kubernetes"
VERSION = "1.32"
OVERLAYS = ("base", "overlays/cpu", "overlays/two-devices")

pytestmark = pytest.mark.skipif(not shutil.which("kubectl"), reason="kubectl is not installed")


@pytest.fixture(scope="module", params=OVERLAYS)
def objects(request) -> list[dict]:
    command = ["kubectl", "kustomize", str(KUBERNETES / request.param)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    assert done.stderr == ""
    return list(yaml.safe_load_all(done.stdout))


def workloads(objects) -> dict[str, dict]:
    kinds = ("Deployment", "StatefulSet")
    return {one["metadata"]["name"]: one for one in objects if one["kind"] in kinds}


def container(workload) -> dict:
    [found] = workload["spec"]["template"]["spec"]["containers"]
    return found


def test_each_object_fits_its_schema(objects):
    for one in objects:
        kubernetes_validate.validate(one, VERSION, strict=True)


def test_probes_and_services_have_the_service_s_port(objects):
    services = {one["metadata"]["name"]: one for one in objects if one["kind"] == "Service"}
    assert set(workloads(objects)) == set(services) == set(SETTINGS)
    for name, workload in workloads(objects).items():
        port = SETTINGS[name]().port
        found = container(workload)
        probes = [found[f"{kind}Probe"]["grpc"]["port"] for kind in ("startup", "readiness")]
        ports = [found["ports"][0]["containerPort"], services[name]["spec"]["ports"][0]["port"]]
        assert {*probes, found["livenessProbe"]["grpc"]["port"], *ports} == {port}


def test_the_orchestrator_knows_every_replica(objects):
    found = workloads(objects)
    told = {pair["name"]: pair["value"] for pair in container(found["orchestrator"])["env"]}
    for name in SETTINGS.keys() - {"orchestrator"}:
        port = SETTINGS[name]().port
        count = found[name]["spec"]["replicas"]
        replicas = [f"{name}-{number}.{name}:{port}" for number in range(count)]
        assert told[f"SANGSANG_{name.replace('-', '_').upper()}_ADDRESS"] == ",".join(replicas)


def test_every_pod_is_held_tight_and_has_time_to_drain(objects):
    for name, workload in workloads(objects).items():
        pod = workload["spec"]["template"]["spec"]
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["automountServiceAccountToken"] is False
        context = container(workload)["securityContext"]
        assert context["readOnlyRootFilesystem"] is True
        assert context["allowPrivilegeEscalation"] is False
        assert context["capabilities"] == {"drop": ["ALL"]}
        told = {pair["name"]: pair["value"] for pair in container(workload)["env"]}
        least_s = drain_s(SETTINGS[name](lame_duck_s=float(told["SANGSANG_LAME_DUCK_S"])))
        assert least_s <= pod["terminationGracePeriodSeconds"] < least_s + 10


def test_every_workload_has_a_disruption_budget(objects):
    budgets = [one for one in objects if one["kind"] == "PodDisruptionBudget"]
    named = {one["spec"]["selector"]["matchLabels"]["app.kubernetes.io/name"] for one in budgets}
    assert named == set(SETTINGS)
