"""Engines on another server: NVIDIA's Triton, or any of the Open Inference Protocol.

One module of a model is called there as `MODEL_ID.MODULE`, as our own stages serve theirs. What
the server says of it is compared with the module's signature when it is loaded, and again after
the server has been away: it may have come back with something else.
"""

import threading
import time
from collections.abc import Mapping
from itertools import accumulate
from typing import Any

import grpc
import numpy as np
import structlog
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from tritonclient import grpc as triton
from tritonclient.utils import InferenceServerException

from ..deadlines import time_left
from ..errors import (
    DeadlinePassed,
    MeshError,
    ModelNotReady,
    Overloaded,
    StageFailed,
    StageUnavailable,
)
from ..models.folder import ModelFolder, ModuleName
from .adapter_bank import AdapterBank, accompany_adapted
from .engine import Array, TensorSpec
from .remote_calls import Placement, RemoteCall, run_all
from .remote_contract import BatchSizes, batch_sizes, differences, told
from .remote_server import RemoteServer
from .shared_region import Regions
from .signatures import signature
from .validation import check_inputs

BACKEND = "triton_server"
_SHARED_MEMORY = "system_shared_memory"
_MAX_MESSAGE_BYTES = 2**31 - 1
_CHANNEL = [
    ("grpc.max_receive_message_length", _MAX_MESSAGE_BYTES),
    ("grpc.max_send_message_length", _MAX_MESSAGE_BYTES),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),
]
_ERRORS: Mapping[str, type[MeshError]] = {
    grpc.StatusCode.UNAVAILABLE.name: StageUnavailable,
    # Ended by a server that shuts down: nobody here cancels.
    grpc.StatusCode.CANCELLED.name: StageUnavailable,
    grpc.StatusCode.DEADLINE_EXCEEDED.name: DeadlinePassed,
    grpc.StatusCode.RESOURCE_EXHAUSTED.name: Overloaded,
    grpc.StatusCode.NOT_FOUND.name: ModelNotReady,
    grpc.StatusCode.FAILED_PRECONDITION.name: ModelNotReady,
}
# What a server says that does not know a region any longer: it has started again.
_FORGOTTEN = (grpc.StatusCode.NOT_FOUND.name, grpc.StatusCode.INVALID_ARGUMENT.name)
_TRANSIENT = (grpc.StatusCode.UNAVAILABLE.name, grpc.StatusCode.DEADLINE_EXCEEDED.name)

_log = structlog.get_logger()


class TritonServerEngine:
    """One module on another server. See `Engine` for the further attributes.

    Attributes:
        padding_row_count: rows of calls that were nobody's, to fill up what the server takes.

    Args:
        folder: the model; its weights are not read but their digest is compared.
        module: which of its modules.
        server: who runs it.
        bank: the adapters, which the server has too.

    Raises:
        StageUnavailable: the server cannot be reached.
        ModelNotReady: it does not serve the module, or serves another one by that name.
    """

    backend = BACKEND

    def __init__(
        self,
        folder: ModelFolder,
        module: ModuleName,
        server: RemoteServer,
        *,
        bank: AdapterBank | None = None,
    ) -> None:
        self.name = folder.label(module)
        self.digest = folder.digest(module)
        plain = signature(folder, module)
        self._signature = plain if bank is None else bank.signature(plain)
        self._side_ratio = {
            "vae_decoder": (folder.vae_scale, 1),
            "vae_encoder": (1, folder.vae_scale),
        }.get(module, (1, 1))
        self._server = server
        self._model_name = f"{folder.model_id}.{self.name}"
        self._lock = threading.Lock()
        self._client: triton.InferenceServerClient | None = triton.InferenceServerClient(
            server.address, channel_args=_CHANNEL
        )
        self._checked = False
        self._sizes = BatchSizes()
        self._has_bank = bank is not None
        self.padding_row_count = 0
        self._shares = False
        self._regions = Regions(self._client, server.timeout_s)
        self.precision = ""
        try:
            self._check(self._client, time.monotonic() + server.timeout_s)
        except BaseException:
            self.close()
            raise

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        return self._signature.inputs

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        return self._signature.outputs

    def infer(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Returns every output for a batch; see `Engine.infer`.

        Raises:
            StageUnavailable: the server is away.
            DeadlinePassed: the time of the request that this is for, or of the call, is over.
            Overloaded: the server's queue is full.
            ModelNotReady: the server does not serve the module any longer.
        """
        left = time_left()
        if left is not None and left <= 0:
            raise DeadlinePassed(f"no time left for {self._model_name}")
        limit_s = self._server.timeout_s
        deadline = time.monotonic() + (limit_s if left is None else min(left, limit_s))
        feeds: Mapping[str, Array] = check_inputs(self._signature, inputs)
        rows = len(feeds[self.inputs[0].name])
        if self._has_bank:
            feeds = accompany_adapted(feeds, self._signature)
        with self._lock:
            if self._client is None:
                raise StageFailed(f"{self.name} has been closed")
            self._check(self._client, deadline)
            outputs = self._infer(self._client, feeds, deadline)
        return {name: array[:rows] for name, array in outputs.items()}

    def close(self) -> None:
        """Closes the connection; the server forgets the shared memory."""
        with self._lock:
            client, self._client = self._client, None
            if client is None:
                return
            self._regions.close()
            client.close()

    def _infer(
        self, client: triton.InferenceServerClient, feeds: Mapping[str, Array], deadline: float
    ) -> dict[str, Array]:
        try:
            return self._call(client, feeds, deadline)
        except InferenceServerException as exc:
            used = self._regions.used
            error = self._failure(exc)
            if not used or _code(exc) not in _FORGOTTEN:
                raise error from exc
        # The server has started again and forgotten the region: once more, with another one.
        self._check(client, deadline)
        try:
            return self._call(client, feeds, deadline)
        except InferenceServerException as exc:
            raise self._failure(exc) from exc

    def _call(
        self, client: triton.InferenceServerClient, feeds: Mapping[str, Array], deadline: float
    ) -> dict[str, Array]:
        """Sends the rows in as many calls as the server needs, all at once."""
        batch = len(next(iter(feeds.values())))
        sizes = self._sizes.split(batch)
        feeds = _filled_up(feeds, sum(sizes))
        self.padding_row_count += sum(sizes) - batch
        placement = self._place(feeds, deadline)
        ends = list(accumulate(sizes))
        headers: dict[str, str] = {}
        TraceContextTextMapPropagator().inject(headers)
        calls = [
            RemoteCall(
                self._model_name,
                self._signature,
                feeds,
                range(end - size, end),
                placement,
            )
            for end, size in zip(ends, sizes, strict=True)
        ]
        try:
            parts = run_all(calls, client, deadline - time.monotonic(), headers)
        except TimeoutError as exc:
            self._regions.abandon()
            raise DeadlinePassed(f"{self._model_name} on {self._server.address} hangs") from exc
        except ValueError as exc:
            raise StageFailed(f"{self._model_name} on {self._server.address}: {exc}") from exc
        names = set.intersection(*(set(part) for part in parts))
        outputs = {name: np.concatenate([part[name] for part in parts]) for name in names}
        return {
            name: array[:batch] for name, array in self._checked_outputs(outputs, feeds).items()
        }

    def _checked_outputs(
        self, outputs: dict[str, Array], feeds: Mapping[str, Array]
    ) -> dict[str, Array]:
        for spec in self.outputs:
            array, shape = outputs.get(spec.name), self._output_shape(spec, feeds)
            if array is None or array.dtype != spec.dtype or array.shape != shape:
                found = "nothing" if array is None else f"{array.dtype} {list(array.shape)}"
                raise StageFailed(
                    f"{self._model_name} on {self._server.address} answered {spec.name} with "
                    f"{found}, not {spec.dtype} {list(shape)}"
                )
        return outputs

    def _output_shape(self, spec: TensorSpec, feeds: Mapping[str, Array]) -> tuple[int, ...]:
        up, down = self._side_ratio
        first = next(iter(feeds.values()))
        free = (len(first), *(size * up // down for size in first.shape[1:]))
        return tuple(free[axis] if size is None else size for axis, size in enumerate(spec.shape))

    def _place(self, feeds: Mapping[str, Array], deadline: float) -> Placement | None:
        """Puts the inputs into shared memory; None where there is none."""
        if not self._shares:
            return None
        shapes = {spec.name: self._output_shape(spec, feeds) for spec in self.outputs}
        placement = Placement(feeds, {s.name: (shapes[s.name], s.dtype) for s in self.outputs})
        try:
            region = self._regions.hold(placement.size_bytes, deadline - time.monotonic())
        except (OSError, InferenceServerException) as exc:
            if isinstance(exc, InferenceServerException) and _code(exc) in _TRANSIENT:
                raise
            # An address of this machine may still be another container's.
            self._shares = False
            _log.warning("shared_memory_refused", engine=self._model_name, reason=str(exc))
            return None
        placement.fill(region, feeds)
        return placement

    def _check(self, client: triton.InferenceServerClient, deadline: float) -> None:
        """Compares what is served with what is wanted, unless that was done."""
        if self._checked:
            return
        name, options = self._model_name, {"client_timeout": max(deadline - time.monotonic(), 0.01)}
        remote: Any = client
        try:
            if not remote.is_model_ready(name, **options):
                raise ModelNotReady(f"{self._server.address} has no model {name} that is ready")
            metadata = remote.get_model_metadata(name, **options)
            config = _optional(remote.get_model_config, name, **options)
            server = _optional(remote.get_server_metadata, **options)
        except InferenceServerException as exc:
            raise self._failure(exc) from exc
        config = None if config is None else config.config
        if found := differences(self._signature, self.digest, metadata, config):
            raise ModelNotReady(
                f"{name} on {self._server.address} is not {self.name} of this model: "
                + "; ".join(found)
            )
        try:
            self._sizes = batch_sizes(config)
        except ValueError as exc:
            raise ModelNotReady(f"{name} on {self._server.address}: {exc}") from exc
        # A server need not say what it computes in.
        self.precision = told(config, "precision") or "unknown"
        offered = server is not None and _SHARED_MEMORY in server.extensions
        self._shares = self._server.shared_memory and self._server.is_local and offered
        self._checked = True

    def _failure(self, exc: InferenceServerException) -> MeshError:
        """Returns what a failed call means; what is known of the server is known no more."""
        self._checked = False
        self._regions.abandon()
        code = _code(exc)
        kind = _ERRORS.get(code, StageFailed)
        text = f"{self._model_name} on {self._server.address}: {code} {exc.message()}"
        metadata = {"model": self._model_name, "server": self._server.address}
        return kind(text) if kind is StageFailed else kind(text, metadata=metadata)


def _filled_up(feeds: Mapping[str, Array], rows: int) -> Mapping[str, Array]:
    """Returns a batch with copies of its last row behind it."""
    missing = rows - len(next(iter(feeds.values())))
    if not missing:
        return feeds
    return {n: np.concatenate([a, np.repeat(a[-1:], missing, 0)]) for n, a in feeds.items()}


def _optional(method: Any, *args: Any, **options: Any) -> Any:
    """Returns what a server tells that need not tell it; None if it does not."""
    try:
        return method(*args, **options)
    except InferenceServerException as exc:
        if _code(exc) == grpc.StatusCode.UNIMPLEMENTED.name:
            return None
        raise


def _code(exc: InferenceServerException) -> str:
    return str(exc.status() or "UNKNOWN").removeprefix("StatusCode.")
