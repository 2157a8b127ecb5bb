"""A Docker daemon of the test's own, in a network namespace of its own: nothing of it stays."""

import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

ROOT = Path(__file__).parents[2]
BASE = ROOT / ".container-base"
START_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 60.0
# With so much memory the daemon's data lie there: on a busy disk they took minutes.
_LEAST_BYTES = 6 * 2**30


class ContainersUnavailable(Exception):
    """No container can be run here; says why, in plain words."""


def unavailable() -> str:
    """Why no container can be run here, in plain words; empty if one can."""
    if os.geteuid() != 0:
        return "a Docker daemon needs root"
    said = BASE / "unavailable"
    if said.exists():
        return said.read_text().strip()
    if not (BASE / ".ready").exists():
        return "the base image is not there; run `make compose-test`"
    tools = ("dockerd", "docker", "unshare", "setpriv", "nsenter", "ip")
    missing = [tool for tool in tools if not _found(tool)]
    return f"not installed: {', '.join(missing)}" if missing else ""


def compose_command() -> list[str]:
    """Compose v2 if there is one, else the docker-compose of Debian."""
    probe = subprocess.run(["docker", "compose", "version"], capture_output=True, check=False)
    return ["docker", "compose"] if probe.returncode == 0 else ["docker-compose"]


class DockerDaemon:
    """A running daemon; use it as a context manager, which raises `ContainersUnavailable`.

    Attributes:
        environment: variables for the commands that are to speak to it.

    Args:
        folder: for its data, some hundreds of MB; overlayfs has to work there.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None
        self.environment = {**os.environ, "DOCKER_HOST": f"unix://{folder}/docker.sock"}

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def __enter__(self) -> "DockerDaemon":
        self._folder.mkdir(parents=True, exist_ok=True)
        (self._folder / "daemon.json").write_text("{}")
        try:
            self._start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def make_first_image(self, archive: Path, image: str) -> None:
        """Makes an image of a Debian's files, and runs a container to see whether any can be run.

        Raises:
            ContainersUnavailable: none can.
        """
        change = ("--change", 'CMD ["python3"]')
        try:
            self.docker("import", *change, str(archive), image)
            self.docker("run", "--rm", image, "true")
        except (AssertionError, subprocess.TimeoutExpired) as error:
            said = " ".join(str(error).split())[-500:]
            raise ContainersUnavailable(f"no container runs here: {said}") from None

    def docker(self, *arguments: str, timeout_s: float = 120.0) -> str:
        """What a command of the client prints."""
        return self.run(["docker", *arguments], timeout_s=timeout_s)

    def run(self, command: list[str], *, timeout_s: float, **options) -> str:
        """What any command prints that is told where the daemon is."""
        environment = {**self.environment, **options.pop("environment", {})}
        done = subprocess.run(
            command,
            env=environment,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
            **options,
        )
        assert done.returncode == 0, f"{command}: {done.stdout[-2000:]}{done.stderr[-4000:]}"
        return done.stdout

    def inside(self, command: list[str]) -> list[str]:
        """A command that runs in the daemon's network namespace, where ports are published."""
        return ["nsenter", f"--net=/proc/{self.pid}/ns/net", "--", *command]

    def stop(self) -> None:
        """Ends the daemon and whatever of it is left, each by its process ID."""
        if self._process is not None:
            self._process.send_signal(signal.SIGTERM)
            try:
                self._process.wait(STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        for pid in self.processes():
            os.kill(pid, signal.SIGKILL)
        shutil.rmtree(self._folder, ignore_errors=True)

    def processes(self) -> list[int]:
        """Those that the daemon has started and that name its folder, itself left out."""
        found = []
        own = {os.getpid(), self._process.pid if self._process else 0}
        for entry in Path("/proc").iterdir():
            if not entry.name.isdecimal() or int(entry.name) in own:
                continue
            try:
                words = (entry / "cmdline").read_bytes()
            except OSError:
                continue
            if str(self._folder).encode() in words:
                found.append(int(entry.name))
        return found

    def _start(self) -> None:
        folder = self._folder
        options = {
            # Where there is no overlayfs, another driver would copy each layer whole, for minutes.
            "storage-driver": "overlay2",
            "data-root": folder / "data",
            "exec-root": folder / "run",
            "pidfile": folder / "docker.pid",
            "config-file": folder / "daemon.json",
            "host": self.environment["DOCKER_HOST"],
        }
        words = " ".join(f"--{name}={value}" for name, value in options.items())
        with (folder / "dockerd.log").open("wb") as log:
            # If this process is killed, the daemon ends its containers and itself, and what it has
            # mounted goes with it.
            apart = ["unshare", "--net", "--mount", "setpriv", "--pdeathsig", "TERM"]
            self._process = subprocess.Popen(
                [*apart, "sh", "-c", f"{self._prepare()} && exec dockerd {words}"],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        deadline = time.monotonic() + START_TIMEOUT_S
        while not self._answers():
            if self._process.poll() is not None:
                raise ContainersUnavailable(f"no Docker daemon starts here: {self._last_words()}")
            if time.monotonic() > deadline:
                raise ContainersUnavailable(f"dockerd does not answer: {self._last_words()}")
            time.sleep(0.3)

    def _prepare(self) -> str:
        """What the shell does in the new namespaces before the daemon begins."""
        steps = ["ip link set lo up"]
        if _available_bytes() >= _LEAST_BYTES:
            data = self._folder / "data"
            data.mkdir()
            steps.append(f"mount -t tmpfs tmpfs {data}")
        return " && ".join(steps)

    def _last_words(self) -> str:
        log_text = (self._folder / "dockerd.log").read_text(errors="replace")
        return (log_text.strip().splitlines() or ["it said nothing"])[-1][-500:]

    def _answers(self) -> bool:
        probe = ["docker", "info"]
        try:
            done = subprocess.run(
                probe, env=self.environment, capture_output=True, check=False, timeout=20
            )
        except subprocess.TimeoutExpired:
            return False
        return done.returncode == 0


def _available_bytes() -> int:
    lines = Path("/proc/meminfo").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))


def _found(tool: str) -> bool:
    return shutil.which(tool) is not None
