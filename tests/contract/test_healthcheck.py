"""`sangsang healthcheck`, in full and by its short way, against a real health service."""

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from typer.testing import CliRunner

from sangsang.orchestrator import command
from sangsang.orchestrator.cli import app

STATUS = health_pb2.HealthCheckResponse.ServingStatus


@pytest.fixture
def served():
    """A health service, and its address."""
    servicer = health.HealthServicer()
    server = grpc.server(ThreadPoolExecutor(2))
    health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield servicer, f"127.0.0.1:{port}"
    server.stop(0).wait()


def run(monkeypatch, *words: str) -> int | str | None:
    """What the command exits with."""
    monkeypatch.setattr(sys, "argv", ["sangsang", *words])
    with pytest.raises(SystemExit) as ended:
        command.main()
    return ended.value.code


@pytest.mark.parametrize(
    ("status", "code"), [(STATUS.SERVING, 0), (STATUS.NOT_SERVING, 1)], ids=["serving", "not"]
)
def test_it_exits_with_what_a_process_says(served, monkeypatch, capsys, status, code):
    servicer, address = served
    servicer.set("", status)
    assert run(monkeypatch, "healthcheck", address) == code
    assert capsys.readouterr().out == f"{address}: {STATUS.Name(status)}\n"


def test_nobody_there_is_a_failure(monkeypatch, capsys):
    assert run(monkeypatch, "healthcheck", "127.0.0.1:1") == 1
    assert capsys.readouterr().out == "127.0.0.1:1: UNAVAILABLE\n"


def test_with_options_the_whole_command_line_answers(served):
    servicer, address = served
    servicer.set("some.Service", STATUS.SERVING)
    runner = CliRunner()
    known = runner.invoke(app, ["healthcheck", address, "--service", "some.Service"])
    unknown = runner.invoke(app, ["healthcheck", address, "--service", "no.Service"])
    assert (known.exit_code, unknown.exit_code) == (0, 1)
    assert known.output.strip() == f"{address}: SERVING"
    assert "NOT_FOUND" in unknown.output


def test_the_short_way_imports_little(served):
    servicer, address = served
    servicer.set("", STATUS.SERVING)
    code = (
        "import sys\n"
        f"sys.argv = ['sangsang', 'healthcheck', {address!r}]\n"
        "from sangsang.orchestrator.command import main\n"
        "try:\n"
        "    main()\n"
        "finally:\n"
        "    heavy = {'typer', 'rich', 'pydantic', 'numpy', 'opentelemetry', 'structlog'}\n"
        "    print(sorted(heavy & set(sys.modules)))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.splitlines() == [f"{address}: SERVING", "[]"]


def test_other_commands_go_to_the_command_line(monkeypatch):
    assert run(monkeypatch, "healthcheck", "--help") == 0
    assert run(monkeypatch, "no-such-command") == 2
