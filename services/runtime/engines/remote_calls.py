"""Calls of the Open Inference Protocol: some rows of a batch each, sent or in shared memory."""

from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from contextlib import suppress
from typing import Any

import numpy as np
from tritonclient import grpc as triton
from tritonclient.utils import triton_to_np_dtype

from ..open_inference.datatypes import datatype_of
from .engine import Array
from .shared_region import SharedRegion, aligned
from .signatures import Signature

_MICROSECONDS = 1_000_000
# gRPC ends a call at its deadline; this is only for the case that it does not.
_LATENESS_S = 5.0


class Placement:
    """Where the tensors of a batch lie in a shared region: inputs, then outputs.

    Attributes:
        size_bytes: bytes of all.
    """

    def __init__(
        self,
        feeds: Mapping[str, Array],
        outputs: Mapping[str, tuple[tuple[int, ...], np.dtype[Any]]],
    ) -> None:
        tensors = {name: (array.shape, array.dtype) for name, array in feeds.items()}
        self._tensors = {**tensors, **outputs}
        self._offsets: dict[str, int] = {}
        self._region: SharedRegion | None = None
        end = 0
        for name, (shape, dtype) in self._tensors.items():
            self._offsets[name] = end
            end = aligned(end + int(np.prod(shape)) * dtype.itemsize)
        self.size_bytes = end

    def fill(self, region: SharedRegion, feeds: Mapping[str, Array]) -> None:
        """Copies the inputs into a region, which is used from now on."""
        self._region = region
        for name, array in feeds.items():
            region.view(self._offsets[name], array.shape, array.dtype)[...] = array

    def part(self, name: str, rows: range) -> tuple[str, int, int]:
        """Returns the region's name, and size and offset in bytes of some rows of a tensor."""
        assert self._region is not None
        shape, dtype = self._tensors[name]
        row_bytes = int(np.prod(shape[1:])) * dtype.itemsize
        offset = self._offsets[name] + rows.start * row_bytes
        return self._region.name, len(rows) * row_bytes, offset

    def read(self, name: str, rows: range, output: Any) -> Array:
        """Returns a copy of what the server says that it wrote for some rows of an output.

        Raises:
            ValueError: it cannot have written that there.
        """
        assert self._region is not None
        _, size_bytes, offset = self.part(name, rows)
        shape, dtype = tuple(output.shape), np.dtype(triton_to_np_dtype(output.datatype))
        if int(np.prod(shape)) * dtype.itemsize > size_bytes:
            raise ValueError(f"{name} of {list(shape)} does not fit into {size_bytes} bytes")
        return self._region.view(offset, shape, dtype).copy()


class RemoteCall:
    """Some rows of a batch.

    Args:
        model_name: as the server knows the model.
        signature: its inputs and outputs.
        feeds: the whole batch.
        rows: those of this call.
        placement: where the batch lies in shared memory; None sends it over the wire.
    """

    def __init__(
        self,
        model_name: str,
        signature: Signature,
        feeds: Mapping[str, Array],
        rows: range,
        placement: Placement | None,
    ) -> None:
        self._model_name = model_name
        self._answer: Future[Any] = Future()
        self._context: Any = None
        self._timeout_s = 0.0
        self._inputs = [
            _input(spec.name, feeds[spec.name], rows, placement) for spec in signature.inputs
        ]
        self._outputs = [_output(spec.name, rows, placement) for spec in signature.outputs]
        self._rows = rows
        self._placement = placement
        self._names = [spec.name for spec in signature.outputs]

    def send(self, client: Any, timeout_s: float, headers: Mapping[str, str]) -> None:
        """Starts the call; it ends by itself when its time is over."""
        # A deadline of 0 would be none.
        self._timeout_s = max(timeout_s, 0.001)
        self._context = client.async_infer(
            self._model_name,
            self._inputs,
            self._finish,
            outputs=self._outputs,
            client_timeout=self._timeout_s,
            # The call's deadline ends it here; this ends it in the server's queue.
            timeout=int(self._timeout_s * _MICROSECONDS),
            headers=dict(headers),
        )

    def wait(self) -> dict[str, Array]:
        """Returns the outputs that the server named; blocks.

        Raises:
            InferenceServerException: whatever became of the call.
            TimeoutError: it did not end by itself.
            ValueError: an output cannot be what the server says.
        """
        result = self._answer.result(self._timeout_s + _LATENESS_S)
        return {
            name: self._read(name, result)
            for name in self._names
            if result.get_output(name) is not None
        }

    def _read(self, name: str, result: Any) -> Array:
        if self._placement is not None:
            return self._placement.read(name, self._rows, result.get_output(name))
        # A copy: what the wire brought cannot be written to.
        return np.array(result.as_numpy(name))

    def cancel(self) -> None:
        """Ends the call if it still runs, and waits until it has."""
        if self._context is not None:
            self._context.cancel()
            with suppress(TimeoutError):
                self._answer.exception(_LATENESS_S)

    def _finish(self, result: Any, error: Exception | None) -> None:
        if error is None:
            self._answer.set_result(result)
        else:
            self._answer.set_exception(error)


def run_all(
    calls: Sequence[RemoteCall], client: Any, timeout_s: float, headers: Mapping[str, str]
) -> list[dict[str, Array]]:
    """Returns the outputs of calls in their order, sent at once; one that fails ends the others.

    Raises:
        InferenceServerException: whatever became of the first that failed.
        TimeoutError: one did not end by itself.
        ValueError: an output cannot be what the server says.
    """
    try:
        for call in calls:
            call.send(client, timeout_s, headers)
        return [call.wait() for call in calls]
    except BaseException:
        for call in calls:
            call.cancel()
        raise


def _input(name: str, array: Array, rows: range, placement: Placement | None) -> triton.InferInput:
    part = array[rows.start : rows.stop]
    tensor = triton.InferInput(name, list(part.shape), datatype_of(array.dtype).name)
    if placement is None:
        tensor.set_data_from_numpy(part)
    else:
        tensor.set_shared_memory(*placement.part(name, rows))
    return tensor


def _output(name: str, rows: range, placement: Placement | None) -> triton.InferRequestedOutput:
    tensor = triton.InferRequestedOutput(name)
    if placement is not None:
        tensor.set_shared_memory(*placement.part(name, rows))
    return tensor
