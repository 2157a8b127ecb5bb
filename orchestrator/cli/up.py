"""`sangsang up`: the whole mesh on this machine."""

import signal
import socket
import tempfile
import threading
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from ..local_mesh import LOOPBACK, ChildEnd, LocalMesh, MeshProcess
from ..settings import DEFAULT_METRICS_PORT, DEFAULT_PORT
from .building import build_missing
from .console import DEFAULT_CACHE, CacheDir, ModelFolders, err, fail, model_paths, out

WATCH_INTERVAL_S = 0.5


def up(
    model: ModelFolders = None,
    devices: Annotated[
        int,
        typer.Option(
            min=1, help="Devices to denoise on, each a process of its own: on a CPU about a core."
        ),
    ] = 1,
    port: Annotated[
        int, typer.Option(help="Port of the public API; the stages take the next ones.")
    ] = DEFAULT_PORT,
    metrics_port: Annotated[
        int,
        typer.Option(
            help="Port of the orchestrator's metrics on this machine, which `sangsang top` reads; "
            "the stages take the next ones. 0 for none."
        ),
    ] = DEFAULT_METRICS_PORT,
    cache_dir: CacheDir = DEFAULT_CACHE,
    log_dir: Annotated[
        Path | None,
        typer.Option(help="Where the services write their logs. Default: a new folder."),
    ] = None,
) -> None:
    """Runs the whole mesh here: four stage services and the orchestrator. Ctrl-C drains it.

    A process that ends by itself is started again, later each time; one that cannot stay ends it.
    """
    paths = model_paths(model)
    build_missing(paths, cache_dir)
    logs = log_dir or Path(tempfile.mkdtemp(prefix="sangsang-logs-"))
    metrics_port = _free_metrics_port(metrics_port)
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    with err.status("starting the mesh ..."):
        mesh = LocalMesh(
            paths,
            cache_dir=cache_dir,
            replicas={"diffusion": devices},
            port_base=port,
            metrics_port=metrics_port,
            log_dir=logs,
        )
        mesh.__enter__()
    try:
        out.print(mesh_table(mesh.processes))
        out.print(f"logs in {logs}; Ctrl-C drains and stops the mesh", highlight=False)
        out.print('try: sangsang generate "a red heart on a blue background"', highlight=False)
        out.print("then: sangsang trace show last", highlight=False)
        if metrics_port:
            out.print(_top_hint(metrics_port), highlight=False)
        while not stop.wait(WATCH_INTERVAL_S):
            for end in mesh.supervise():
                _tell(end, logs)
    finally:
        with err.status("draining ..."):
            mesh.stop()


def _free_metrics_port(port: int) -> int:
    """Returns the port; 0, and says so, if another process has it: a mesh can do without."""
    with socket.socket() as probe:
        # As the server does: what a mesh that has just ended leaves behind is not in the way.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
        except OSError as error:
            why = error.strerror or str(error)
            err.print(
                f"[yellow]no metrics, and nothing for `sangsang top`: port {port}: {why}; choose "
                "another with --metrics-port[/yellow]",
                highlight=False,
            )
            return 0
    return port


def _top_hint(metrics_port: int) -> str:
    given = "" if metrics_port == DEFAULT_METRICS_PORT else f" --metrics {LOOPBACK}:{metrics_port}"
    return f"watch it: sangsang top{given}"


def _tell(end: ChildEnd, logs: Path) -> None:
    """Says on the console that a process has ended.

    Raises:
        typer.Exit: it has ended too often.
    """
    how = f"ended with status {end.code}" if end.code >= 0 else f"was killed by signal {-end.code}"
    log = f"see {logs / end.name}.log"
    if end.delay_s is None:
        raise typer.Exit(fail(f"{end.name} {how} again and again, so the mesh stops; {log}"))
    err.print(f"{end.name} {how}; starting it again in {end.delay_s:g} s; {log}", highlight=False)


def mesh_table(processes: list[MeshProcess]) -> Table:
    """Returns the table of what runs where."""
    table = Table("service", "address", "process", "memory", "started in")
    for one in processes:
        table.add_row(
            one.name,
            f"127.0.0.1:{one.port}",
            str(one.process.pid),
            f"{one.memory_mib:.0f} MiB",
            f"{one.start_seconds:.2f} s",
        )
    return table
