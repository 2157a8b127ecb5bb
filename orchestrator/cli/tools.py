"""Commands that live elsewhere: `sangsang evaluate`, `distill`, `profile` and `traffic`.

The orchestrator imports no stage and no torch, so it starts the command's own line as a child
process. The child has the terminal: it parses the arguments, answers `--help`, draws its bars, and
its exit code is ours.
"""

import importlib.util
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import typer

from .console import fail

# `sangsang/` where it is installed, the repository where it is not: both hold `services/`.
_SOURCES = Path(__file__).resolve().parents[2]
# What a shell says of a process that a signal ended.
_SIGNALLED = 128


@dataclass(frozen=True, slots=True)
class Tool:
    """One such command.

    Attributes:
        name: as it is typed.
        summary: a sentence for `sangsang --help`.
        module: what `python -m` runs, below `sangsang`.
        extra: the extra of this package that it needs.
        packages: what the extra brings that the tool cannot do without.
    """

    name: str
    summary: str
    module: str
    extra: str
    packages: tuple[str, ...]

    def command(self, context: typer.Context) -> None:
        """Runs the tool with the arguments of the command line, and ends as it ends."""
        problem = self.problem()
        raise typer.Exit(fail(problem) if problem else self.run(context.args))

    def problem(self) -> str | None:
        """Returns what keeps the tool from running, in words; None when nothing does."""
        if not _SOURCES.joinpath(*self.module.split("."), "__main__.py").is_file():
            return f"this version of Sangsang has no `sangsang {self.name}`"
        missing = [name for name in self.packages if importlib.util.find_spec(name) is None]
        if missing:
            remedy = f'pip install "sangsang[{self.extra}]"'
            return f"`sangsang {self.name}` needs {', '.join(missing)}: {remedy}"
        return None

    def run(self, arguments: Sequence[str]) -> int:
        """Runs the tool and returns its exit code, 128 and the number if a signal ended it."""
        command = [sys.executable, "-m", f"sangsang.{self.module}", *arguments]
        with _signals_left_to_the_tool() as started:
            # The words are a constant of this file and what the user typed.
            process = subprocess.Popen(command)  # noqa: S603
            started(process)
            code = process.wait()
        return code if code >= 0 else _SIGNALLED - code


@contextmanager
def _signals_left_to_the_tool() -> Iterator[Callable[[subprocess.Popen[bytes]], None]]:
    """While the tool runs, Ctrl-C is its affair, and what asks us to end asks it.

    Yields what tells that it has started. The handlers are there before it is, or a signal in
    between would end us and leave it running.
    """
    running: list[subprocess.Popen[bytes]] = []

    def end(number: int, _: object) -> None:
        for process in running:
            process.send_signal(number)

    # The terminal sends Ctrl-C to both; passing it on would send it twice.
    handlers = {signal.SIGINT: lambda *_: None, signal.SIGTERM: end}
    before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    try:
        yield running.append
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


_PACKAGES = ("torch", "diffusers", "transformers", "peft")

TOOLS = (
    Tool(
        "evaluate",
        "Compares a model's tiers: are pictures right, varied, like real ones; what do they cost?",
        "services.diffusion.evaluation",
        "train",
        _PACKAGES,
    ),
    Tool(
        "distill",
        "Teaches a student to draw in few steps what its teacher draws in many.",
        "services.diffusion.distillation",
        "train",
        _PACKAGES,
    ),
    Tool(
        "profile",
        "Measures a model on this machine: steps by rows, stages alone and together.",
        "services.diffusion.profiling",
        "cpu",
        ("tokenizers",),
    ),
    Tool(
        "traffic",
        "Counts the bytes that a network moves on a GPU, unfused, fused and at least.",
        "services.runtime.building.traffic",
        "train",
        ("torch", "diffusers", "transformers", "onnxscript", "matplotlib"),
    ),
)
