"""What one gRPC call between two processes takes here, alone: the floor of what the mesh adds.

A picture passes four such calls in a row: orchestrator, text encoding, diffusion, postprocessing.
Each wakes four threads of two processes that slept, and a core that has nothing to do takes its
time to wake: so the same call is measured right after the one before, and after a pause, as a lone
request finds things. A server that answers at once, grpc.aio at both ends as in the mesh.

Run: python -m tests.benchmarks.hops
"""

import asyncio
import subprocess
import sys
import time
from statistics import median

import grpc
from rich.console import Console
from rich.table import Table

METHOD = "/hop.Echo/Echo"
# Embeddings of pocket's size.
PAYLOAD = bytes(77 * 128 * 4)
PAUSES_S = {0.0: 200, 0.1: 50}


async def start_echo() -> tuple[grpc.aio.Server, int]:
    """Returns a server whose method `METHOD` answers with what it is sent, and its port."""

    async def echo(request, context):
        return request

    server = grpc.aio.server()
    handler = grpc.unary_unary_rpc_method_handler(echo)
    server.add_generic_rpc_handlers(
        (grpc.method_handlers_generic_handler("hop.Echo", {"Echo": handler}),)
    )
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    return server, port


async def serve() -> None:
    server, port = await start_echo()
    print(port, flush=True)
    await server.wait_for_termination()


async def call_seconds(address: str, pause_s: float, count: int) -> list[float]:
    """Returns the seconds of calls, with a pause before each."""
    found = []
    async with grpc.aio.insecure_channel(address) as channel:
        call = channel.unary_unary(METHOD)
        for number in range(count + 5):
            await asyncio.sleep(pause_s)
            started_s = time.perf_counter()
            await call(PAYLOAD)
            # The first ones open the connection.
            if number >= 5:
                found.append(time.perf_counter() - started_s)
    return found


def main() -> None:
    command = [sys.executable, "-m", "tests.benchmarks.hops", "serve"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            address = f"127.0.0.1:{int(server.stdout.readline())}"
            times = {
                pause_s: asyncio.run(call_seconds(address, pause_s, count))
                for pause_s, count in PAUSES_S.items()
            }
        finally:
            server.terminate()
    table = Table("pause before each call", "median", "against without a pause")
    busy_s = median(times[0.0])
    for pause_s, seconds in times.items():
        value_s = median(seconds)
        table.add_row(
            f"{pause_s * 1000:.0f} ms", f"{value_s * 1000:.2f} ms", f"{value_s / busy_s:.1f}"
        )
    Console().print(table)


if __name__ == "__main__":
    if sys.argv[1:] == ["serve"]:
        asyncio.run(serve())
    else:
        main()
