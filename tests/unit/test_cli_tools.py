"""Commands that live with a stage: what is passed on, and what comes back."""

import os
import subprocess
import sys

import pytest
from typer.testing import CliRunner

from sangsang.orchestrator.cli import app, tools

TOOL = tools.Tool("evaluate", "", "services.diffusion.evaluation", "train", ())


@pytest.fixture
def python(tmp_path, monkeypatch):
    """Stands in for the interpreter: a shell script instead of the tool."""

    def becomes(script):
        path = tmp_path / "python"
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)
        monkeypatch.setattr(sys, "executable", str(path))

    return becomes


def test_arguments_and_exit_code_pass_unchanged(python, capfd):
    python('echo "$@"; exit 7')
    result = CliRunner().invoke(app, ["evaluate", "folder", "--questions", "3", "--help", "-x"])
    assert result.exit_code == 7
    said = capfd.readouterr().out.strip()
    assert said == "-m sangsang.services.diffusion.evaluation folder --questions 3 --help -x"


def test_the_tool_outlives_ctrl_c_and_ends_as_it_likes(python):
    python("kill -INT $PPID; sleep 0.2; exit 3")
    assert TOOL.run([]) == 3


def test_what_asks_us_to_end_asks_the_tool(python):
    python("trap 'exit 5' TERM; sleep 0.3; kill -TERM $PPID; while :; do sleep 0.02; done")
    assert TOOL.run([]) == 5


def test_a_signal_becomes_a_shells_exit_code(python):
    python("kill -KILL $$")
    assert TOOL.run([]) == 128 + 9


def test_our_own_signals_are_as_before(python):
    import signal

    before = signal.getsignal(signal.SIGINT)
    python("exit 0")
    TOOL.run([])
    assert signal.getsignal(signal.SIGINT) is before


def test_a_missing_extra_is_named(monkeypatch):
    tool = tools.Tool("evaluate", "", TOOL.module, "train", ("torch_is_not_here",))
    problem = tool.problem()
    assert problem is not None
    assert "torch_is_not_here" in problem
    assert 'pip install "sangsang[train]"' in problem


def test_a_missing_tool_is_said_before_a_missing_extra():
    tool = tools.Tool("dream", "", "services.diffusion.dreams", "train", ("torch_is_not_here",))
    assert tool.problem() == "this version of Sangsang has no `sangsang dream`"


def test_the_real_tool_answers_help():
    command = [sys.executable, "-m", "sangsang.services.diffusion.evaluation", "--help"]
    environment = {**os.environ, "COLUMNS": "200"}
    said = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=120)
    assert said.returncode == 0
    assert "sangsang evaluate" in said.stdout
    assert "--pictures" in said.stdout


def test_the_list_of_commands_has_the_tools():
    said = CliRunner().invoke(app, ["--help"]).output
    assert "evaluate" in said
    assert "distill" in said
    assert "traffic" in said
    assert "profile" in said
