"""Follows whether each stage replica takes calls: its own word, and whether it answers at all.

The replica's `Watch` stream tells at once what it says of itself, and breaks at once when its
process dies. A process that hangs says nothing and breaks nothing, so each is asked as well.
"""

import asyncio
from collections.abc import Callable, Collection, Mapping
from typing import Any

import grpc
import structlog
from grpc_health.v1 import health_pb2, health_pb2_grpc

from .scheduling.work import StageName

Replica = tuple[StageName, str]

PROBE_INTERVAL_S = 0.5
PROBE_TIMEOUT_S = 1.0
_REDIAL_S = 0.2
_SERVING = health_pb2.HealthCheckResponse.SERVING

_log = structlog.get_logger()


class ReplicaHealth:
    """Watches replicas until it is closed.

    Attributes:
        loss_counts: by stage, how often one of its replicas ceased to take calls.

    Args:
        channels: of the replicas.
        on_change: told when one begins or ceases to take calls; each begins as one that does.
        on_silence: told each time that one is asked and does not answer, though it is connected.
    """

    def __init__(
        self,
        channels: Mapping[Replica, grpc.aio.Channel],
        on_change: Callable[[StageName, str, bool], None],
        on_silence: Callable[[StageName, str], None],
    ) -> None:
        self._channels = channels
        self._on_change = on_change
        self._on_silence = on_silence
        self._says_serving = dict.fromkeys(channels, True)
        self._answers = dict.fromkeys(channels, True)
        self._usable = dict.fromkeys(channels, True)
        self._tasks: list[asyncio.Task[None]] = []
        self.loss_counts: dict[StageName, int] = {stage: 0 for stage, _ in channels}

    @property
    def usable_counts(self) -> Mapping[StageName, int]:
        """By stage, its replicas that take calls."""
        counts: dict[StageName, int] = {stage: 0 for stage, _ in self._usable}
        for (stage, _), usable in self._usable.items():
            counts[stage] += usable
        return counts

    def start(self, missing: Collection[Replica] = ()) -> None:
        """Begins to watch.

        Args:
            missing: replicas that are known not to take calls; they are no losses.
        """
        for replica in missing:
            self._says_serving[replica] = self._usable[replica] = False
            self._on_change(*replica, False)
        for replica, channel in self._channels.items():
            stub: Any = health_pb2_grpc.HealthStub(channel)
            self._tasks.append(asyncio.create_task(self._watch(replica, stub)))
            self._tasks.append(asyncio.create_task(self._probe(replica, stub)))

    async def close(self) -> None:
        """Ceases to watch."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _watch(self, replica: Replica, stub: Any) -> None:
        while True:
            try:
                async for response in stub.Watch(health_pb2.HealthCheckRequest()):
                    self._says_serving[replica] = response.status == _SERVING
                    self._tell(replica)
            except grpc.aio.AioRpcError:
                pass
            self._says_serving[replica] = False
            self._tell(replica)
            await asyncio.sleep(_REDIAL_S)

    async def _probe(self, replica: Replica, stub: Any) -> None:
        while True:
            try:
                await stub.Check(health_pb2.HealthCheckRequest(), timeout=PROBE_TIMEOUT_S)
            except grpc.aio.AioRpcError as error:
                self._answers[replica] = False
                self._tell(replica)
                if error.code() is grpc.StatusCode.DEADLINE_EXCEEDED:
                    self._on_silence(*replica)
            else:
                self._answers[replica] = True
                self._tell(replica)
            await asyncio.sleep(PROBE_INTERVAL_S)

    def _tell(self, replica: Replica) -> None:
        usable = self._says_serving[replica] and self._answers[replica]
        if usable == self._usable[replica]:
            return
        self._usable[replica] = usable
        stage, address = replica
        if usable:
            _log.info("replica_back", stage=stage, address=address)
        else:
            self.loss_counts[stage] += 1
            answers = self._answers[replica]
            _log.warning("replica_gone", stage=stage, address=address, answers=answers)
        self._on_change(stage, address, usable)
