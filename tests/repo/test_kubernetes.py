"""The Kustomize overlays build, fit their schemas, and say what the services' settings say."""

import shutil
import subprocess
from functools import cache
from pathlib import Path

import kubernetes_validate
import pytest
import yaml
from deployed_services import SETTINGS, drain_s
from metric_queries import declared_of, labels_asked, metrics_of
from settings_table import variables

from sangsang.orchestrator.settings import OrchestratorSettings

KUBERNETES = Path(__file__).parents[2] / "deploy" / "kubernetes"
# The first that has ResourceClaimTemplate of `resource.k8s.io/v1`.
VERSION = "1.34"
APART = ("overlays/cpu", "overlays/two-devices")
TOGETHER = ("overlays/gpu", "overlays/eight-gpu-servers", "overlays/autoscaled", "overlays/envoy")
OVERLAYS = (*APART, *TOGETHER)
STAGES = SETTINGS.keys() - {"orchestrator"}
# Of KEDA's scaler for Prometheus, as its documentation names them.
TRIGGER_FIELDS = {"serverAddress", "query", "threshold", "activationThreshold", "ignoreNullValues"}

pytestmark = pytest.mark.skipif(not shutil.which("kubectl"), reason="kubectl is not installed")


@cache
def built(overlay: str) -> tuple[dict, ...]:
    command = ["kubectl", "kustomize", str(KUBERNETES / overlay)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    assert done.stderr == ""
    return tuple(yaml.safe_load_all(done.stdout))


@pytest.fixture(params=OVERLAYS)
def objects(request) -> tuple[dict, ...]:
    return built(request.param)


def of_kind(objects, *kinds) -> dict[str, dict]:
    return {one["metadata"]["name"]: one for one in objects if one["kind"] in kinds}


def workloads(objects) -> dict[str, dict]:
    return of_kind(objects, "Deployment", "StatefulSet")


def pod(workload) -> dict:
    return workload["spec"]["template"]["spec"]


def containers(workload) -> list[dict]:
    return pod(workload)["containers"]


def service_of(container) -> str | None:
    """The name of the service that a container runs; None for one that is not ours."""
    module = container.get("command", ["python", "-m", "sangsang.orchestrator"])[-1]
    if not container["image"].startswith("sangsang-"):
        return None
    return module.rpartition(".")[2].replace("_", "-")


def services(objects) -> dict[str, tuple[dict, dict]]:
    """The workload and the container of each service of the mesh."""
    return {
        name: (workload, container)
        for workload in workloads(objects).values()
        for container in containers(workload)
        if (name := service_of(container))
    }


def told(container) -> dict[str, str]:
    return {pair["name"]: pair["value"] for pair in container.get("env", ())}


def most_replicas(objects, workload) -> int:
    """Replicas of a workload: those that it has, or may be scaled to."""
    for one in of_kind(objects, "ScaledObject").values():
        if one["spec"]["scaleTargetRef"]["name"] == workload["metadata"]["name"]:
            return one["spec"]["maxReplicaCount"]
    return workload["spec"]["replicas"]


def test_every_overlay_is_tested():
    found = {f"overlays/{path.name}" for path in (KUBERNETES / "overlays").iterdir()}
    assert found == set(OVERLAYS)


def test_each_object_fits_its_schema(objects):
    for one in objects:
        if one["apiVersion"].startswith("keda.sh/"):
            check_keda(one)
        else:
            kubernetes_validate.validate(one, VERSION, strict=True)


def check_keda(scaled: dict) -> None:
    """Holds an object to the definition of KEDA's resources, and drops nothing of it."""
    keda = pytest.importorskip("cloudcoil.models.keda.v1alpha1")
    read = getattr(keda, scaled["kind"]).model_validate(scaled)
    # The models take fields that they do not know and lose them.
    assert read.model_dump(by_alias=True, exclude_unset=True, mode="json") == scaled


def test_keda_s_definition_rejects_what_is_not_in_it():
    [scaled] = of_kind(built("overlays/autoscaled"), "ScaledObject").values()
    check_keda(scaled)
    for wrong in ({"minReplicas": 1}, {"minReplicaCount": "many"}):
        with pytest.raises((AssertionError, ValueError)):
            check_keda({**scaled, "spec": {**scaled["spec"], **wrong}})


def test_probes_and_services_have_the_service_s_port(objects):
    found = services(objects)
    assert set(found) == set(SETTINGS)
    for name, (workload, container) in found.items():
        port = SETTINGS[name]().port
        probes = {container[f"{kind}Probe"]["grpc"]["port"] for kind in ("startup", "readiness")}
        assert {*probes, container["livenessProbe"]["grpc"]["port"]} == {port}
        assert port in [one["containerPort"] for one in container["ports"]]
        service = of_kind(objects, "Service")[workload["metadata"]["name"]]
        assert port in [one["port"] for one in service["spec"]["ports"]]
        if workload["kind"] == "StatefulSet":
            assert service["spec"]["clusterIP"] == "None", "each replica has a name"
            assert workload["spec"]["serviceName"] == service["metadata"]["name"]


def test_the_orchestrator_knows_every_replica(objects):
    found = services(objects)
    addresses = told(found["orchestrator"][1])
    for name in STAGES:
        workload, port = found[name][0], SETTINGS[name]().port
        service = workload["spec"]["serviceName"]
        host = workload["metadata"]["name"]
        count = most_replicas(objects, workload)
        replicas = [f"{host}-{number}.{service}:{port}" for number in range(count)]
        assert addresses[f"SANGSANG_{name.replace('-', '_').upper()}_ADDRESS"] == ",".join(replicas)


@pytest.mark.parametrize("overlay", TOGETHER)
def test_a_device_s_stages_are_in_one_pod(overlay):
    fields = {
        name.removeprefix("SANGSANG_").lower(): value
        for name, value in told(services(built(overlay))["orchestrator"][1]).items()
        if name.endswith("_ADDRESS")
    }
    settings = OrchestratorSettings(**fields)
    assert len(settings.devices) == (1 if overlay.endswith("/gpu") else 8)
    for number, device in enumerate(settings.devices):
        hosts = {address.partition(":")[0] for address in device.addresses.values()}
        assert hosts == {f"device-{number}.device"}
        assert len(device.addresses) == 4
        assert device.lane_count == 2


@pytest.mark.parametrize("overlay", TOGETHER)
def test_the_containers_of_a_device_share_its_gpu_and_nothing_else(overlay):
    objects = built(overlay)
    device = workloads(objects)["device"]
    [claim] = pod(device)["resourceClaims"]
    template = of_kind(objects, "ResourceClaimTemplate")[claim["resourceClaimTemplateName"]]
    devices = template["spec"]["spec"]["devices"]
    [request] = devices["requests"]
    assert request["exactly"]["count"] == 1
    [config] = devices["config"]
    assert config["requests"] == [request["name"]]
    assert config["opaque"]["parameters"]["sharing"]["strategy"] == "MPS"
    every = [*pod(device)["initContainers"], *containers(device)]
    assert [one["resources"]["claims"] for one in every] == [[{"name": claim["name"]}]] * 5
    assert {told(one)["SANGSANG_BACKEND"] for one in every} == {"tensorrt"}
    assert len({told(one)["SANGSANG_MODELS"] for one in every}) == 1
    # One network for the four: no port twice.
    ports = [port["containerPort"] for one in containers(device) for port in one["ports"]]
    assert len(set(ports)) == len(ports) == 8


def test_every_container_s_variables_are_settings(objects):
    for name, (_, container) in services(objects).items():
        known = {
            variable
            for field_name, field in SETTINGS[name].model_fields.items()
            for variable in variables(field_name, field)
        }
        named = {variable for variable in told(container) if variable.startswith("SANGSANG_")}
        assert named <= known, name


def test_metrics_are_served_where_they_may_be_fetched(objects):
    for workload in workloads(objects).values():
        labels = workload["spec"]["template"]["metadata"]["labels"]
        assert labels["app.kubernetes.io/part-of"] == "sangsang", "by it they are found"
    policy = of_kind(objects, "NetworkPolicy")["stages"]
    [[open_ports]] = [rule["ports"] for rule in policy["spec"]["ingress"] if "from" not in rule]
    for _, container in services(objects).values():
        port = int(told(container)["SANGSANG_METRICS_PORT"])
        assert port in [one["containerPort"] for one in container["ports"]]
        assert open_ports["port"] <= port <= open_ports["endPort"]


def test_every_pod_is_held_tight(objects):
    for name, workload in workloads(objects).items():
        spec = pod(workload)
        assert spec["securityContext"]["runAsNonRoot"] is True
        assert spec["securityContext"]["runAsUser"] == 10001
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert spec["automountServiceAccountToken"] is False
        assert "hostNetwork" not in spec
        for container in [*spec.get("initContainers", ()), *spec["containers"]]:
            context = container["securityContext"]
            assert context["readOnlyRootFilesystem"] is True, name
            assert context["allowPrivilegeEscalation"] is False
            assert context["capabilities"] == {"drop": ["ALL"]}
            assert container["resources"]["requests"].keys() >= {"cpu", "memory"}
            assert "memory" in container["resources"]["limits"]
            models = [one for one in container["volumeMounts"] if one["mountPath"] == "/models"]
            assert all(one["readOnly"] for one in models)


def test_every_pod_has_time_to_drain(objects):
    for name, (workload, container) in services(objects).items():
        lame_duck_s = float(told(container)["SANGSANG_LAME_DUCK_S"])
        least_s = drain_s(SETTINGS[name](lame_duck_s=lame_duck_s))
        assert pod(workload)["terminationGracePeriodSeconds"] >= least_s


def test_the_orchestrator_says_which_stage_is_missing_before_it_is_ended(objects):
    _, container = services(objects)["orchestrator"]
    probe = container["startupProbe"]
    said_s = float(
        told(container).get(
            "SANGSANG_STAGE_START_TIMEOUT_S", OrchestratorSettings().stage_start_timeout_s
        )
    )
    assert said_s < probe["periodSeconds"] * probe["failureThreshold"]


def test_every_workload_has_a_disruption_budget(objects):
    budgets = of_kind(objects, "PodDisruptionBudget")
    chosen = [one["spec"]["selector"]["matchLabels"] for one in budgets.values()]
    for workload in workloads(objects).values():
        labels = workload["spec"]["template"]["metadata"]["labels"]
        assert sum(wanted.items() <= labels.items() for wanted in chosen) == 1


def test_only_the_orchestrator_reaches_stages(objects):
    policy = of_kind(objects, "NetworkPolicy")["stages"]["spec"]
    wanted = policy["podSelector"]["matchLabels"]
    for name, (workload, _) in services(objects).items():
        labels = workload["spec"]["template"]["metadata"]["labels"]
        assert (wanted.items() <= labels.items()) == (name != "orchestrator")
    [calls] = [rule for rule in policy["ingress"] if "from" in rule]
    [who] = calls["from"]
    orchestrator = workloads(objects)["orchestrator"]["spec"]["template"]["metadata"]["labels"]
    assert who["podSelector"]["matchLabels"].items() <= orchestrator.items()


def test_envoy_takes_no_call_that_its_service_does_not_promise():
    objects = built("overlays/envoy")
    [config] = of_kind(objects, "ConfigMap").values()
    file = KUBERNETES / "components" / "envoy" / "envoy.yaml"
    assert config["data"]["envoy.yaml"] == file.read_text("utf-8")
    read = yaml.safe_load(config["data"]["envoy.yaml"])
    listeners = {one["name"]: one for one in read["static_resources"]["listeners"]}
    proxy = workloads(objects)["envoy"]
    [container] = containers(proxy)
    ports = {one["name"]: one["containerPort"] for one in container["ports"]}
    for port, listener in (("grpc", "calls"), ("alive", "alive")):
        assert listeners[listener]["address"]["socket_address"]["port_value"] == ports[port]
    [cluster] = read["static_resources"]["clusters"]
    [locality] = cluster["load_assignment"]["endpoints"]
    [first] = locality["lb_endpoints"]
    address = first["endpoint"]["address"]["socket_address"]
    assert (address["address"], address["port_value"]) == ("orchestrator", 50050)
    admin = read["admin"]["address"]["socket_address"]
    assert admin["address"] == "127.0.0.1", "whoever reaches it can end Envoy"
    assert f"/dev/tcp/127.0.0.1/{admin['port_value']}" in str(container["lifecycle"])
    drained_s = int(container["lifecycle"]["preStop"]["exec"]["command"][-1].rsplit(" ", 1)[1])
    assert drained_s < pod(proxy)["terminationGracePeriodSeconds"]


def test_each_product_s_service_is_a_virtual_host():
    objects = built("overlays/envoy")
    [config] = of_kind(objects, "ConfigMap").values()
    read = yaml.safe_load(config["data"]["envoy.yaml"])
    [chain] = read["static_resources"]["listeners"][0]["filter_chains"]
    hosts = chain["filters"][0]["typed_config"]["route_config"]["virtual_hosts"]
    tenants = {
        host["name"]: header["header"]["value"]
        for host in hosts
        for header in host.get("request_headers_to_add", ())
    }
    proxied = {
        name
        for name, service in of_kind(objects, "Service").items()
        if service["spec"]["selector"] == {"app.kubernetes.io/name": "envoy"}
    }
    assert tenants == {name: name for name in proxied}
    assert len(proxied) == 2


def test_a_product_cannot_fill_the_queue():
    objects = built("overlays/eight-gpu-servers")
    variables = told(services(objects)["orchestrator"][1])
    most = int(variables["SANGSANG_TENANT_IN_FLIGHT_COUNT"])
    assert 0 < most < int(variables["SANGSANG_MAX_QUEUED_REQUESTS"])


def test_autoscaling_asks_for_metrics_that_exist():
    [scaled] = of_kind(built("overlays/autoscaled"), "ScaledObject").values()
    triggers = scaled["spec"]["triggers"]
    asked = set()
    for trigger in triggers:
        assert trigger["type"] == "prometheus"
        metadata = trigger["metadata"]
        assert metadata.keys() <= TRIGGER_FIELDS
        assert metadata.keys() >= {"serverAddress", "query", "threshold"}
        assert float(metadata["threshold"]) > 0
        found = {declared_of(name) for name in metrics_of(metadata["query"])}
        assert found
        assert None not in found, metadata["query"]
        labels = {label for one in found for label in one.labels}
        assert labels_asked(metadata["query"]) <= labels
        asked |= {one.name for one in found}
    assert asked >= {"sangsang_queue_depth", "sangsang_lane_busy_seconds_total"}


def test_what_is_scaled_has_no_count_of_its_own():
    objects = built("overlays/autoscaled")
    [scaled] = of_kind(objects, "ScaledObject").values()
    target = scaled["spec"]["scaleTargetRef"]
    assert target["kind"] == workloads(objects)[target["name"]]["kind"]
    assert "replicas" not in workloads(objects)[target["name"]]["spec"]
    assert 1 <= scaled["spec"]["minReplicaCount"] < scaled["spec"]["maxReplicaCount"]
