"""A server of the Open Inference Protocol that does what a test says, over tritonclient's messages.

It has Triton's shared memory too, and runs on threads, because the engines that call it block.
"""

import mmap
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import numpy as np
from tritonclient.grpc import model_config_pb2, service_pb2, service_pb2_grpc
from tritonclient.utils import np_to_triton_dtype, triton_to_np_dtype

from sangsang.services.runtime.engines.signatures import Signature
from sangsang.services.runtime.open_inference.datatypes import datatype_of


@dataclass
class ModelScript:
    """What a server says and does; change it between calls.

    Attributes:
        compute: the arrays of a call by name to the arrays of its answer.
        shared_memory: whether it is offered; `refuses_regions` fails every registration.
    """

    name: str
    signature: Signature
    digest: str
    compute: Callable[[dict[str, np.ndarray]], dict[str, np.ndarray]]
    ready: bool = True
    max_batch_size: int = 0
    row_counts: str = ""
    optional_inputs: tuple[str, ...] = ()
    has_config: bool = True
    shared_memory: bool = False
    refuses_regions: bool = False
    change_metadata: Callable[[Any], None] = lambda _: None


@dataclass
class Seen:
    """What reached the server."""

    batches: list[int] = field(default_factory=list)
    raw_counts: list[int] = field(default_factory=list)
    seconds_left: list[float] = field(default_factory=list)
    timeouts_us: list[int] = field(default_factory=list)
    traceparents: list[str] = field(default_factory=list)
    registered: list[str] = field(default_factory=list)


class ScriptedServer(service_pb2_grpc.GRPCInferenceServiceServicer):
    """Use `start` and `stop`; it keeps its port."""

    def __init__(self, script: ModelScript) -> None:
        self.script = script
        self.seen = Seen()
        self.regions: dict[str, mmap.mmap] = {}
        self._server: grpc.Server | None = None
        self._port = 0

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self._port}"

    def start(self) -> "ScriptedServer":
        self._server = grpc.server(ThreadPoolExecutor(4), options=[("grpc.so_reuseport", 0)])
        service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(self, self._server)
        self._port = self._server.add_insecure_port(f"127.0.0.1:{self._port}")
        assert self._port
        self._server.start()
        return self

    def stop(self) -> None:
        if self._server is not None:
            self._server.stop(0).wait(10)
        self._server = None
        self.regions.clear()

    def ServerMetadata(self, request, context):
        extensions = ["system_shared_memory"] if self.script.shared_memory else []
        return service_pb2.ServerMetadataResponse(name="scripted", extensions=extensions)

    def ModelReady(self, request, context):
        ready = self.script.ready and request.name == self.script.name
        return service_pb2.ModelReadyResponse(ready=ready)

    def ModelMetadata(self, request, context):
        message = service_pb2.ModelMetadataResponse(name=request.name)
        sides = ((message.inputs, self.script.signature.inputs),)
        for target, specs in (*sides, (message.outputs, self.script.signature.outputs)):
            for spec in specs:
                sizes = [-1 if size is None else size for size in spec.shape]
                target.add(name=spec.name, datatype=datatype_of(spec.dtype).name, shape=sizes)
        self.script.change_metadata(message)
        return message

    def ModelConfig(self, request, context):
        if not self.script.has_config:
            context.abort(grpc.StatusCode.UNIMPLEMENTED, "no configurations here")
        config = model_config_pb2.ModelConfig(max_batch_size=self.script.max_batch_size)
        if self.script.digest:
            config.parameters["digest"].string_value = self.script.digest
        if self.script.row_counts:
            config.parameters["row_counts"].string_value = self.script.row_counts
        for name in self.script.optional_inputs:
            config.input.add(name=name, optional=True)
        return service_pb2.ModelConfigResponse(config=config)

    def SystemSharedMemoryRegister(self, request, context):
        if self.script.refuses_regions:
            context.abort(grpc.StatusCode.INTERNAL, "cannot open it")
        descriptor = os.open(Path("/dev/shm") / request.key.lstrip("/"), os.O_RDWR)
        self.regions[request.name] = mmap.mmap(descriptor, request.byte_size)
        os.close(descriptor)
        self.seen.registered.append(request.name)
        return service_pb2.SystemSharedMemoryRegisterResponse()

    def SystemSharedMemoryUnregister(self, request, context):
        self.regions.pop(request.name, None)
        return service_pb2.SystemSharedMemoryUnregisterResponse()

    def ModelInfer(self, request, context):
        self.seen.batches.append(request.inputs[0].shape[0])
        self.seen.raw_counts.append(len(request.raw_input_contents))
        self.seen.seconds_left.append(context.time_remaining())
        self.seen.timeouts_us.append(request.parameters["timeout"].int64_param)
        headers = dict(context.invocation_metadata())
        self.seen.traceparents.append(headers.get("traceparent", ""))
        arrays = self._read(request, context)
        try:
            answers = self.script.compute(arrays)
        except Refusal as refusal:
            context.abort(refusal.code, "as the script says")
        return self._answer(request, answers)

    def _read(self, request, context) -> dict[str, np.ndarray]:
        arrays = {}
        for index, tensor in enumerate(request.inputs):
            dtype = np.dtype(triton_to_np_dtype(tensor.datatype))
            place = tensor.parameters
            if "shared_memory_region" in place:
                name = place["shared_memory_region"].string_param
                if name not in self.regions:
                    context.abort(grpc.StatusCode.NOT_FOUND, f"Unable to find region {name}")
                start = place["shared_memory_offset"].int64_param
                end = start + place["shared_memory_byte_size"].int64_param
                content = self.regions[name][start:end]
            else:
                content = request.raw_input_contents[index]
            arrays[tensor.name] = np.frombuffer(content, dtype).reshape(tuple(tensor.shape))
        return arrays

    def _answer(self, request, answers: dict[str, np.ndarray]):
        response = service_pb2.ModelInferResponse(model_name=request.model_name)
        wanted = {output.name: output.parameters for output in request.outputs}
        for name, array in answers.items():
            datatype = np_to_triton_dtype(array.dtype)
            response.outputs.add(name=name, datatype=datatype, shape=array.shape)
            place = wanted.get(name, {})
            if "shared_memory_region" in place:
                start = place["shared_memory_offset"].int64_param
                # As Triton: no more than there is room for.
                content = array.tobytes()[: place["shared_memory_byte_size"].int64_param]
                region = self.regions[place["shared_memory_region"].string_param]
                region[start : start + len(content)] = content
            else:
                response.raw_output_contents.append(array.tobytes())
        return response


class Refusal(Exception):
    """Raised by a script to answer with a status."""

    def __init__(self, code: grpc.StatusCode) -> None:
        super().__init__(code.name)
        self.code = code
