"""Processes of contenders: started alone in a session, measured as trees, ended by their ids."""

import os
import signal
import socket
import subprocess
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

LOOPBACK = "127.0.0.1"
START_LIMIT_S = 120.0
STOP_LIMIT_S = 15.0
_REPOSITORY = Path(__file__).resolve().parents[3]


@dataclass(frozen=True, slots=True)
class Resources:
    """What some processes use.

    Attributes:
        cpu_s: seconds of CPU since each of them started.
        memory_mib: resident, pages that are shared counted once.
    """

    cpu_s: float
    memory_mib: float


class Server:
    """One process and whatever it starts.

    Args:
        command: what to run.
        environment: variables besides PATH and HOME.
        log: where its output goes.
        piped: whether its input and output are pipes instead.
    """

    def __init__(
        self,
        command: Sequence[str | Path],
        environment: Mapping[str, str],
        log: Path,
        *,
        piped: bool = False,
    ) -> None:
        self._log = log
        base = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
        with log.open("ab") as output:
            self.process = subprocess.Popen(
                [str(part) for part in command],
                env={**base, **environment},
                stdin=subprocess.PIPE if piped else subprocess.DEVNULL,
                stdout=subprocess.PIPE if piped else output,
                stderr=output,
                start_new_session=True,
            )

    def wait_until(self, ready: Callable[[], bool]) -> None:
        """Returns when it is ready.

        Raises:
            RuntimeError: it ended, or was not ready in time.
        """
        deadline = time.monotonic() + START_LIMIT_S
        while time.monotonic() < deadline and self.process.poll() is None:
            if ready():
                return
            time.sleep(0.1)
        tail = self._log.read_text(errors="replace")[-3000:]
        raise RuntimeError(f"{self.process.args} did not become ready:\n{tail}")

    def stop(self) -> None:
        """Ends the process and those of its session."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            with suppress(subprocess.TimeoutExpired):
                self.process.wait(STOP_LIMIT_S)
        # The session is its own: what it left behind goes with it.
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(STOP_LIMIT_S)


def resources(process_ids: Iterable[int]) -> Resources:
    """Returns what some processes use, those that they started included."""
    family: dict[int, psutil.Process] = {}
    for process_id in process_ids:
        with suppress(psutil.NoSuchProcess):
            parent = psutil.Process(process_id)
            family.update({one.pid: one for one in (parent, *parent.children(recursive=True))})
    cpu_s = memory = 0.0
    for process in family.values():
        with suppress(psutil.NoSuchProcess):
            times = process.cpu_times()
            # Those that have ended count with who started them.
            cpu_s += times.user + times.system + times.children_user + times.children_system
            memory += process.memory_full_info().pss
    return Resources(cpu_s, memory / 2**20)


def free_port() -> int:
    """Returns a port of loopback that nobody listens on."""
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        return int(probe.getsockname()[1])


def answers(url: str) -> bool:
    """Returns whether an HTTP server answers with success."""
    try:
        with urllib.request.urlopen(url, timeout=1.0) as response:
            return response.status == 200
    except OSError:
        return False


def link_namespace(root: Path) -> None:
    """Makes a folder give another environment this repository by path, once it is on its path."""
    package = root / "sangsang"
    package.mkdir(parents=True, exist_ok=True)
    links = {
        package / "services": _REPOSITORY / "services",
        package / "stages": _REPOSITORY / "protos" / "gen" / "sangsang" / "stages",
        root / "peers": Path(__file__).resolve().parent,
    }
    for link, target in links.items():
        if not link.is_symlink():
            link.symlink_to(target)


def new_place(prefix: str) -> Path:
    """Returns a new folder for logs and files."""
    return Path(tempfile.mkdtemp(prefix=f"sangsang-{prefix}-"))
