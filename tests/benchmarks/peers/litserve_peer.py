"""LitServe: our engines behind its HTTP server, with continuous and with plain batching."""

import time
from dataclasses import dataclass

import aiohttp

from .contender import Refused, Reply, Site
from .engines import ENGINES_VARIABLE
from .load import START_SHARE, Ask
from .processes import LOOPBACK, Server, answers, free_port, link_namespace

_FOREVER_S = 3600.0


def batched(row_limit: int = 8) -> "LitServeContender":
    """Returns plain batching of whole requests."""
    text = (
        f"an endpoint for each tier, batches of at most {row_limit} rows, batch_timeout 2 ms, a "
        "worker for each device and endpoint, fast_queue; requests too late are dropped unstarted"
    )
    return LitServeContender("litserve-batched", "batched", text, row_limit)


def continuous(row_limit: int = 8) -> "LitServeContender":
    """Returns its continuous batching loop."""
    text = (
        f"ContinuousBatchingLoop, a step is a UNet evaluation of at most {row_limit} rows, a "
        "worker for each device, fast_queue; requests too late are dropped between steps"
    )
    return LitServeContender("litserve-continuous", "continuous", text, row_limit)


@dataclass
class LitServeContender:
    """A server with one of the two ways to batch."""

    name: str
    kind: str
    settings: str
    row_limit: int
    client: str = "litserve_peer"
    _server: Server | None = None

    def start(self, site: Site) -> str:
        place = site.place / self.name
        python_path = place / "python"
        python_path.mkdir(parents=True, exist_ok=True)
        link_namespace(python_path)
        port = free_port()
        self._server = Server(
            (
                site.environments["litserve"] / "bin" / "python",
                "-m",
                "peers.litserve_apps",
                self.kind,
                str(port),
            ),
            {
                "PYTHONPATH": str(python_path),
                "OMP_NUM_THREADS": "1",
                "PEERS_ROW_LIMIT": str(self.row_limit),
                ENGINES_VARIABLE: site.choice.to_json(),
            },
            place / "litserve.log",
        )
        address = f"{LOOPBACK}:{port}"
        self._server.wait_until(lambda: answers(f"http://{address}/health"))
        return f"{address}/{self.kind}"

    def process_ids(self) -> list[int]:
        return [] if self._server is None else [self._server.process.pid]

    def stop(self) -> None:
        server, self._server = self._server, None
        if server is not None:
            server.stop()


class LitServeClient:
    """Posts JSON, gets a PNG; closing the connection is all the cancelling there is."""

    def __init__(self, address: str, _model_id: str) -> None:
        self._address, _, kind = address.partition("/")
        self._paths = {tier: "picture" if kind == "continuous" else tier for tier in _TIERS}
        self._session: aiohttp.ClientSession | None = None

    async def picture(self, ask: Ask, *, previews: bool = False) -> Reply:
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=0), timeout=aiohttp.ClientTimeout(None)
            )
        patience_s = ask.patience_s or _FOREVER_S
        fields = {
            "prompt": ask.prompt,
            "seed": ask.seed,
            "tier": ask.tier,
            "start_by": time.time() + START_SHARE * patience_s,
            "end_by": time.time() + patience_s,
        }
        url = f"http://{self._address}/{self._paths[ask.tier]}"
        async with self._session.post(url, json=fields) as response:
            body = await response.read()
        if response.status == 504 or not body:
            raise Refused("dropped for want of time")
        if response.status != 200:
            raise RuntimeError(f"HTTP {response.status}: {body[:200]!r}")
        return Reply(body)

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()


_TIERS = ("free", "pro")
connect = LitServeClient
