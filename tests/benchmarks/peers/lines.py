"""A child process that is told plans and tells outcomes, a line of JSON each."""

import base64
import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from .load import Ask
from .outcomes import Ending, Outcome
from .processes import Server

READY = "ready"


class LineProcess:
    """A module of this package as a process of its own.

    Args:
        module: its name in this package.
        arguments: of its command line.
        environment: variables for it.
        log: where its errors go.

    Raises:
        RuntimeError: it ended before it was ready; its log says why.
    """

    def __init__(
        self, module: str, arguments: Sequence[str], environment: Mapping[str, str], log: Path
    ) -> None:
        self._log = log
        name = f"{__package__}.{module}"
        self._server = Server(
            [sys.executable, "-m", name, *arguments], environment, log, piped=True
        )
        if self._line() != READY:
            self.stop()
            raise RuntimeError(f"{name} did not start; see {log}")

    @property
    def process_id(self) -> int:
        """Its process ID."""
        return self._server.process.pid

    def run(self, asks: Sequence[Ask], **options: Any) -> list[Outcome]:
        """Returns what became of some requests; `options` are the module's own.

        Raises:
            RuntimeError: the process ended.
        """
        plan = {"asks": [asdict(ask) for ask in asks], **options}
        stdin = self._server.process.stdin
        assert stdin is not None
        stdin.write((json.dumps(plan) + "\n").encode())
        stdin.flush()
        line = self._line()
        if not line:
            raise RuntimeError(f"the process ended; see {self._log}")
        return from_line(line)

    def stop(self) -> None:
        """Closes its input, which ends it; else ends it by its ID."""
        process = self._server.process
        if process.stdin is not None:
            process.stdin.close()
        with suppress(subprocess.TimeoutExpired):
            process.wait(5.0)
        self._server.stop()
        if process.stdout is not None:
            process.stdout.close()

    def _line(self) -> str:
        stdout = self._server.process.stdout
        assert stdout is not None
        return stdout.readline().decode().strip()


def to_line(outcomes: Sequence[Outcome]) -> str:
    """Returns outcomes as a line of JSON."""
    fields = [asdict(one) for one in outcomes]
    for one in fields:
        one["picture"] = base64.b64encode(one["picture"]).decode()
    return json.dumps(fields)


def from_line(line: str) -> list[Outcome]:
    """Returns the outcomes that `to_line` wrote."""
    return [
        Outcome(
            **{
                **fields,
                "ending": Ending(fields["ending"]),
                "picture": base64.b64decode(fields["picture"]),
            }
        )
        for fields in json.loads(line)
    ]
