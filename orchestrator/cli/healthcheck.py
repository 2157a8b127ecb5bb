"""`sangsang healthcheck`: for containers, which have no other client.

With an address alone `../command.py` answers, without this command line, which is slow to import.
"""

from typing import Annotated

import typer

from ..health_probe import SERVING, ask_health
from .console import DEFAULT_ADDRESS, fail, out


def healthcheck(
    address: Annotated[
        str, typer.Argument(help="host:port of any service of the mesh.")
    ] = DEFAULT_ADDRESS,
    service: Annotated[str, typer.Option(help="Full gRPC service name; empty: the process.")] = "",
    timeout: Annotated[float, typer.Option(help="Seconds to wait for an answer.", min=0.1)] = 2.0,
) -> None:
    """Exits with 0 when a service says SERVING, and with 1 when it does not."""
    answer = ask_health(address, service=service, timeout_s=timeout)
    if answer != SERVING:
        raise typer.Exit(fail(f"{address}: {answer}"))
    out.print(f"{address}: {answer}", highlight=False)
