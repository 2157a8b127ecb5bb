"""The mesh of `deploy/compose.yaml` in real containers. The tests run in this order."""

import json
import re
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import yaml
from container_mesh import PORT, PROJECT, SERVICES, STAGES, wait_for
from docker_daemon import ROOT
from PIL import Image

# With each `up`: docker-compose 1.29.2 makes all containers anew for one file or for several.
TEST_FILE = "tests/compose/compose.test.yaml"
TWO_DEVICES = "deploy/compose.two-devices.yaml"
ALERTS = ROOT / "deploy" / "observability" / "prometheus" / "alerts.yml"
# A stage that is away is missed after this, and back after that.
CALL_TIMEOUT_S = 15.0
RETURN_TIMEOUT_S = 30.0

METHODS = dict(
    zip(STAGES, ("EncodeText", "PrepareLatents", "Denoise", "DecodeLatents"), strict=True)
)
TRACE_ID = "0af7651916cd43dd8448eb211c80319c"

pytestmark = pytest.mark.timeout(900)


def test_a_picture_comes_out(mesh, measured, tmp_path):
    file = tmp_path / "rocket.png"
    printed = mesh.sangsang("generate", "a rocket", "--seed", "7", "--output", str(file))
    assert "diffusion" in printed
    with Image.open(file) as picture:
        picture.load()
        assert picture.format == "PNG"
        assert picture.size == (64, 64)
        assert len(picture.getcolors(4096) or ()) > 100
    measured["memory MiB"] = {service: _memory_mib(mesh, service) for service in SERVICES}


def test_the_same_request_gives_the_same_picture(mesh):
    first, second = mesh.ask()[0], mesh.ask()[0]
    assert (first.code, second.code) == ("OK", "OK")
    assert first.digest == second.digest


@pytest.mark.parametrize("service", SERVICES)
def test_a_container_may_do_little(mesh, service):
    [found] = mesh.inspect(service)
    settings = found["HostConfig"]
    assert settings["ReadonlyRootfs"]
    assert settings["Init"]
    assert settings["CapDrop"] == ["ALL"]
    assert settings["SecurityOpt"] == ["no-new-privileges:true"]
    assert not settings["Privileged"]
    models = next(mount for mount in found["Mounts"] if mount["Destination"] == "/models")
    assert not models["RW"]
    status = mesh.execute(service, "cat", "/proc/1/status")
    fields = dict(line.split(":\t", 1) for line in status.splitlines())
    assert fields["Uid"].split() == ["10001"] * 4
    assert int(fields["CapEff"], 16) == 0
    assert int(fields["CapBnd"], 16) == 0
    assert fields["NoNewPrivs"] == "1"
    written = mesh.execute(service, "sh", "-c", "touch /x /models/x 2>/dev/null; ls /x || echo no")
    assert written.strip() == "no"


def test_only_the_orchestrator_is_published_and_on_loopback_alone(mesh):
    published = {
        found["Config"]["Labels"]["com.docker.compose.service"]: bindings
        for found in mesh.inspect()
        if (bindings := found["HostConfig"]["PortBindings"])
    }
    place = [{"HostIp": "127.0.0.1", "HostPort": str(PORT)}]
    assert published == {"orchestrator": {f"{PORT}/tcp": place}}


@pytest.mark.parametrize("service", SERVICES)
def test_an_image_has_what_it_runs_and_no_more(mesh, service):
    code = (
        "import importlib.util as u, json; print(json.dumps([name for name in "
        "('torch', 'diffusers', 'transformers', 'onnxruntime', 'pip') if u.find_spec(name)]))"
    )
    found = json.loads(mesh.execute(service, "python", "-c", code))
    assert found == (["onnxruntime"] if service in STAGES else [])


def test_the_health_check_is_quick(mesh, measured):
    code = (
        "import subprocess, time; t = time.perf_counter(); "
        "subprocess.run(['sangsang', 'healthcheck', '127.0.0.1:50053'], check=True); "
        "print(time.perf_counter() - t)"
    )
    runs = [mesh.execute("diffusion", "python", "-c", code).splitlines() for _ in range(5)]
    assert {said for said, _ in runs} == {"127.0.0.1:50053: SERVING"}
    measured["healthcheck s"] = sorted(round(float(taken), 3) for _, taken in runs)


def test_one_trace_has_every_service(mesh, tmp_path):
    """Without a collector the orchestrator keeps it, and the published port shows it."""
    assert mesh.ask(trace_id=TRACE_ID)[0].code == "OK"

    def shown() -> str:
        return mesh.sangsang("trace", "show", TRACE_ID)

    def has_all() -> bool:
        text = shown()
        return all(f" {method} " in text for method in METHODS.values())

    wait_for(has_all, timeout_s=30.0, what="the spans of every stage")
    listed = mesh.sangsang("trace", "ls")
    assert shown().split()[0][:13] in listed
    assert "spans lost" not in listed

    text = shown()
    for service, method in METHODS.items():
        name = service.replace("-", " ")
        assert len(re.findall(rf"^ +call {method} +orchestrator ", text, re.MULTILINE)) == 1
        assert len(re.findall(rf"^ +{method} +{name} ", text, re.MULTILINE)) == 1
    assert re.search(r"^ +3 batch steps +diffusion ", text, re.MULTILINE)

    page, file = tmp_path / "trace.html", tmp_path / "trace.json"
    mesh.sangsang("trace", "show", TRACE_ID, "--html", str(page), "--perfetto", str(file))
    drawn = re.search(r"const data = (\{.*\});", page.read_text("utf-8"))
    assert drawn
    lines = json.loads(drawn[1])["lines"]
    assert {line["service"] for line in lines} == {name.replace("-", " ") for name in SERVICES}
    assert not any(line["failed"] for line in lines)
    # A span goes out when it has ended. What is below one that has not would be on no line.
    spans = [one for one in json.loads(file.read_text("utf-8"))["traceEvents"] if is_span(one)]
    assert len(spans) > 2 * len(STAGES)
    assert sum(len(line["inner"]) or 1 for line in lines) == len(spans)


def test_prometheus_fetches_every_service_and_has_the_alerts(mesh):
    if not Path("/usr/bin/prometheus").exists():
        pytest.skip("Debian's prometheus is not installed")
    arguments = ("--profile", "observability", "up", "--detach", "--no-deps", "prometheus")
    mesh.compose(*arguments, files=(TEST_FILE,))
    container = mesh.container("prometheus")

    def targets() -> dict[str, str]:
        found = mesh.prometheus("targets")["activeTargets"]
        return {one["labels"]["host"]: one["health"] for one in found}

    def exemplars() -> set[str]:
        asked = {"query": "sangsang_request_seconds_bucket", "start": "0", "end": f"{time.time()}"}
        found = mesh.prometheus("query_exemplars", **asked)
        return {one["labels"]["trace_id"] for series in found for one in series["exemplars"]}

    try:
        ready = "Server is ready to receive web requests"
        wait_for(lambda: ready in mesh.logs(container), timeout_s=30.0, what="Prometheus")
        up = dict.fromkeys(SERVICES, "up")
        wait_for(lambda: targets() == up, timeout_s=60.0, what="every service to be fetched")
        assert mesh.ask(trace_id=TRACE_ID)[0].code == "OK"
        wait_for(lambda: TRACE_ID in exemplars(), timeout_s=60.0, what="a request's exemplar")
        groups = mesh.prometheus("rules")["groups"]
    finally:
        mesh.daemon.docker("rm", "--force", container)
    written = yaml.safe_load(ALERTS.read_text("utf-8"))["groups"]
    assert [[rule["name"] for rule in group["rules"]] for group in groups] == [
        [rule["alert"] for rule in group["rules"]] for group in written
    ]


def test_a_paused_stage_is_told_of_in_time_and_comes_back(mesh, measured):
    container = mesh.container("diffusion")
    mesh.daemon.docker("pause", container)
    try:
        [answer] = mesh.ask(timeout_s=CALL_TIMEOUT_S)
        measured["paused"] = f"{answer.code} after {answer.seconds:.1f} s: {answer.details}"
        assert answer.code in ("UNAVAILABLE", "DEADLINE_EXCEEDED")
        assert answer.seconds < CALL_TIMEOUT_S + 1
    finally:
        mesh.daemon.docker("unpause", container)
    measured["back after the pause s"] = _seconds_until_well(mesh)


def test_a_stage_that_is_cut_off_is_told_of_in_time_and_comes_back(mesh, measured):
    container = mesh.container("diffusion")
    network = f"{PROJECT}_mesh"
    mesh.daemon.docker("network", "disconnect", network, container)
    try:
        [answer] = mesh.ask(timeout_s=CALL_TIMEOUT_S)
        measured["cut off"] = f"{answer.code} after {answer.seconds:.1f} s: {answer.details}"
        assert answer.code in ("UNAVAILABLE", "DEADLINE_EXCEEDED")
        assert answer.seconds < CALL_TIMEOUT_S + 1
    finally:
        mesh.daemon.docker("network", "connect", "--alias", "diffusion", network, container)
    measured["back after the cut s"] = _seconds_until_well(mesh)


def test_a_stage_that_is_made_anew_elsewhere_is_found(mesh, measured):
    """Its address changes: something else takes the old one first."""
    started_at = time.monotonic()
    mesh.compose("stop", "text-encoding")
    measured["a stage stops s"] = round(time.monotonic() - started_at, 1)
    mesh.compose("rm", "--force", "text-encoding")
    arguments = ("--detach", "--network", f"{PROJECT}_mesh", "sangsang-orchestrator")
    other = mesh.daemon.docker("run", *arguments, "sleep", "600").strip()
    try:
        arguments = ("up", "--detach", "--no-deps", "text-encoding")
        mesh.compose(*arguments, files=(TEST_FILE,), timeout_s=60.0)
        measured["back at another address s"] = _seconds_until_well(mesh)
    finally:
        mesh.daemon.docker("rm", "--force", other)


def test_a_second_device_shares_the_work(mesh, measured):
    mesh.up(files=(TEST_FILE, TWO_DEVICES))
    places = [mesh.container("diffusion"), mesh.container("diffusion-2")]
    shares, codes = _shares(mesh, places, "Denoise", 12)
    measured["shares of two devices"] = shares
    assert codes == {"OK"}
    assert min(shares) > 0
    assert sum(shares) == 12


def test_a_device_that_ends_under_load_is_not_missed(mesh):
    places = [mesh.container("diffusion"), mesh.container("diffusion-2")]
    seen = mesh.call_count(places[1], "Denoise")
    with ThreadPoolExecutor(1) as pool:
        load = pool.submit(mesh.ask, 60)
        wait_for(
            lambda: mesh.call_count(places[1], "Denoise") > seen, timeout_s=30.0, what="a call"
        )
        assert not load.done()
        mesh.daemon.docker("kill", places[1])
        assert {answer.code for answer in load.result()} == {"OK"}


def test_a_scaled_light_stage_has_a_spare(mesh, measured):
    mesh.up("--remove-orphans", "--scale", "text-encoding=2", files=(TEST_FILE,))
    both = mesh.containers("text-encoding")
    shares, codes = _shares(mesh, both, "EncodeText", 8)
    measured["shares of a scaled stage"] = shares
    assert codes == {"OK"}
    assert len(shares) == 2
    mesh.daemon.docker("kill", both[shares.index(max(shares))])
    measured["back with the spare s"] = _seconds_until_well(mesh)


def test_a_collector_gets_the_spans_of_every_service(mesh):
    told = mesh.told(SANGSANG_OTLP_ENDPOINT="http://trace-receiver:4317")
    told.up(files=(TEST_FILE,))
    assert mesh.ask(trace_id=TRACE_ID)[0].code == "OK"
    receiver = mesh.container("trace-receiver")

    def seen() -> set[str]:
        lines = [json.loads(line) for line in mesh.logs(receiver).splitlines() if line[:1] == "{"]
        return {line["service"] for line in lines if line["trace"] == TRACE_ID}

    names = {f"sangsang-{service.replace('-', '_')}" for service in SERVICES}
    wait_for(lambda: seen() >= names, timeout_s=30.0, what=f"spans of {names}")


def test_down_leaves_nothing(mesh):
    pids = [found["State"]["Pid"] for found in mesh.inspect()]
    assert pids
    assert all(Path(f"/proc/{pid}").exists() for pid in pids)
    started_at = time.monotonic()
    mesh.down()
    # Nothing was killed at the end of its grace.
    assert time.monotonic() - started_at < 25 + 25
    label = f"label=com.docker.compose.project={PROJECT}"
    for kind in (("ps", "--all"), ("network", "ls"), ("volume", "ls")):
        assert mesh.daemon.docker(*kind, "--quiet", "--filter", label) == ""
    assert not any(Path(f"/proc/{pid}").exists() for pid in pids)


def _shares(mesh, places: list[str], method: str, count: int) -> tuple[list[int], set[str]]:
    """How many calls of a method each container got of some requests, and how these ended."""
    before = [mesh.call_count(place, method) for place in places]
    codes = {answer.code for answer in mesh.ask(count)}
    after = [mesh.call_count(place, method) for place in places]
    return [now - then for now, then in zip(after, before, strict=True)], codes


def _seconds_until_well(mesh) -> float:
    """Seconds until pictures come again; in between, failures are told at once."""
    taken = wait_for(
        lambda: mesh.ask(timeout_s=CALL_TIMEOUT_S)[0].code == "OK",
        timeout_s=RETURN_TIMEOUT_S,
        what="pictures",
    )
    return round(taken, 1)


def is_span(event: dict) -> bool:
    """Whether an event of a file for Perfetto is a span, and not what a lane did."""
    return event["ph"] == "X" and "span_id" in event.get("args", {})


def _memory_mib(mesh, service: str) -> dict[str, float]:
    """Resident memory of a service's process, and what its container holds without page cache."""
    [found] = mesh.inspect(service)
    init = Path(f"/proc/{found['State']['Pid']}")
    [child] = (init / "task" / init.name / "children").read_text().split()
    status = Path(f"/proc/{child}/status").read_text().splitlines()
    resident_kib = next(int(line.split()[1]) for line in status if line.startswith("VmRSS:"))
    # The first is of cgroup v1, the second of v2.
    command = "cat /sys/fs/cgroup/memory/memory.stat 2>/dev/null || cat /sys/fs/cgroup/memory.stat"
    fields = dict(line.split() for line in mesh.execute(service, "sh", "-c", command).splitlines())
    held = int(fields.get("total_rss") or fields["anon"])
    return {"resident": round(resident_kib / 1024, 1), "held": round(held / 2**20, 1)}
