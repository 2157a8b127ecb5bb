"""`tensorrt`, scripted: its builder and runtime as far as our code uses them, on ONNX Runtime.

A plan is the parsed graph with its weights, profiles and the GPU it was built on; executing it
reads and writes the addresses that it was given, as TensorRT does. Misuse fails. Every class,
method and argument is the real one's (`test_tensor_rt_names.py`), and `__slots__` let no other name
be set. The plugin layer is the real one. Environment: SCRIPTED_TENSORRT, a comma-separated list of
`version=`, `gpu=`, `crash` (half a plan, then SIGKILL), `refuse` (nothing is built), `wrong` (the
plan computes something else), `no-driver`.
"""

import ctypes
import json
import os
import signal
import sys
from enum import Enum, IntEnum
from pathlib import Path

import numpy as np
import onnx
import tensorrt_layer

from sangsang.services.runtime.engines.onnx_runtime_import import ort

SETTINGS = dict(
    (*one.split("="), "")[:2] for one in os.environ.get("SCRIPTED_TENSORRT", "").split(",") if one
)
VERSION = SETTINGS.get("version", "11.4.0.106")
GPU = SETTINGS.get("gpu", "Scripted GPU")
DEFAULT_STREAM = 0
# What was called, for tests within this process.
CALLS = []

ErrorCode = Enum("ErrorCode", "UNSUPPORTED_NODE INVALID_NODE")
LayerType = Enum("LayerType", "PLUGIN_V3 IDENTITY")
TensorIOMode = Enum("TensorIOMode", "NONE INPUT OUTPUT", start=0)
ExecutionContextAllocationStrategy = IntEnum(
    "ExecutionContextAllocationStrategy", "STATIC ON_PROFILE_CHANGE USER_MANAGED", start=0
)


class Logger:
    __slots__ = ("min_severity",)
    WARNING = 2

    def __init__(self, min_severity=WARNING):
        self.min_severity = min_severity

    def log(self, severity, msg):
        pass


class Builder:
    __slots__ = ("_logger",)

    def __init__(self, logger):
        if "no-driver" in SETTINGS:
            raise TypeError("pybind11::init(): factory function returned nullptr")
        self._logger = logger

    def create_network(self, flags=0):
        assert flags == 0
        return INetworkDefinition()

    def create_builder_config(self):
        return IBuilderConfig()

    def create_optimization_profile(self):
        return IOptimizationProfile()

    def build_serialized_network(self, network, config):
        if "crash" in SETTINGS:
            Path(json.loads(sys.argv[1])["engine"]).write_bytes(b"half of")
            os.kill(os.getpid(), signal.SIGKILL)
        if "refuse" in SETTINGS:
            sys.stderr.write("[E] Error Code 10: no implementation for node conv\n")
            return None
        model = network._model
        if "wrong" in SETTINGS:
            for tensor in model.graph.initializer:
                if tensor.data_type == onnx.TensorProto.FLOAT16:
                    values = onnx.numpy_helper.to_array(tensor)
                    tensor.CopyFrom(onnx.numpy_helper.from_array(values * 1.5, tensor.name))
        config._cache._content += f"timed {model.graph.name}\n".encode()
        facts = {
            "version": VERSION,
            "gpu": GPU,
            "aux_streams": config.max_aux_streams,
            "profiles": [profile._sizes for profile in config._profiles],
            "plugins": [layer._name for layer in network._layers if layer._is_plugin],
        }
        return json.dumps(facts).encode() + b"\n" + model.SerializeToString()


class INetworkDefinition:
    __slots__ = ("_layers", "_model")

    def __init__(self):
        self._layers, self._model = [], None

    @property
    def num_layers(self):
        return len(self._layers)

    def get_layer(self, index):
        return self._layers[index]


class ILayer:
    __slots__ = ("_is_plugin", "_name")

    def __init__(self, name, is_plugin):
        self._name, self._is_plugin = name, is_plugin

    @property
    def type(self):
        return LayerType.PLUGIN_V3 if self._is_plugin else LayerType.IDENTITY


class OnnxParser:
    """A node with `plugin_namespace` becomes the plugin if it is registered, as in TensorRT's."""

    __slots__ = ("_errors", "_network")

    def __init__(self, network, logger):
        self._network, self._errors = network, []

    def parse_from_file(self, model):
        parsed = onnx.load(model)
        functions = {(function.domain, function.name) for function in parsed.functions}
        for node in parsed.graph.node:
            if node.domain and (node.domain, node.op_type) not in functions:
                self._errors.append(ParserError(node))
            self._network._layers.append(ILayer(node.op_type, _has_plugin(node)))
        self._network._model = parsed
        return not self._errors

    @property
    def num_errors(self):
        return len(self._errors)

    def get_error(self, index):
        return self._errors[index]


def _has_plugin(node):
    attributes = {one.name: onnx.helper.get_attribute_value(one) for one in node.attribute}
    if "plugin_namespace" not in attributes:
        return False
    namespace, version = (attributes[f"plugin_{n}"].decode() for n in ("namespace", "version"))
    registry = sys.modules["tensorrt"].get_plugin_registry()
    return registry.get_creator(node.op_type, version, namespace) is not None


class ParserError:
    __slots__ = ("_node",)

    def __init__(self, node):
        self._node = node

    def node_operator(self):
        return self._node.op_type

    def node_name(self):
        return self._node.name

    def code(self):
        return ErrorCode.UNSUPPORTED_NODE

    def desc(self):
        return "no importer is registered for it"


class IOptimizationProfile:
    __slots__ = ("_sizes",)

    def __init__(self):
        self._sizes = {}

    def set_shape(self, input, min, opt, max):  # noqa: A002
        assert all(a <= b <= c for a, b, c in zip(min, opt, max, strict=True))
        self._sizes[input] = [list(min), list(opt), list(max)]


class IBuilderConfig:
    __slots__ = ("_cache", "_profiles", "max_aux_streams")

    def __init__(self):
        self._profiles, self._cache, self.max_aux_streams = [], ITimingCache(b""), None

    def add_optimization_profile(self, profile):
        self._profiles.append(profile)
        return len(self._profiles) - 1

    def create_timing_cache(self, serialized_timing_cache):
        return ITimingCache(bytes(serialized_timing_cache))

    def set_timing_cache(self, cache, ignore_mismatch):
        if cache._content and not cache._content.startswith(f"timings of {GPU}".encode()):
            return ignore_mismatch
        self._cache = cache
        return True

    def get_timing_cache(self):
        return self._cache


class ITimingCache:
    __slots__ = ("_content",)

    def __init__(self, content):
        self._content = content or f"timings of {GPU}\n".encode()

    def combine(self, input_cache, ignore_mismatch):
        lines = self._content.splitlines(keepends=True)
        if not input_cache._content.startswith(lines[0]):
            return ignore_mismatch
        self._content = b"".join(dict.fromkeys(lines + input_cache._content.splitlines(True)))
        return True

    def serialize(self):
        return self._content


class Runtime:
    __slots__ = ("_logger",)

    def __init__(self, logger):
        self._logger = logger

    def deserialize_cuda_engine(self, serialized_engine):
        CALLS.append("deserialize")
        facts, separator, model = serialized_engine.partition(b"\n")
        facts = json.loads(facts)
        if not separator or facts["version"] != VERSION or facts["gpu"] != GPU:
            return None
        return ICudaEngine(facts, model)


class ICudaEngine:
    __slots__ = ("_facts", "_modes", "_output_shapes", "_session", "_types")

    def __init__(self, facts, model):
        self._facts, self._output_shapes = facts, {}
        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        self._session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        inputs, outputs = self._session.get_inputs(), self._session.get_outputs()
        self._modes = {one.name: TensorIOMode.INPUT for one in inputs}
        self._modes |= {one.name: TensorIOMode.OUTPUT for one in outputs}
        self._types = {one.name: _TYPES[one.type] for one in (*inputs, *outputs)}

    @property
    def num_io_tensors(self):
        return len(self._modes)

    @property
    def num_optimization_profiles(self):
        return len(self._facts["profiles"])

    def get_tensor_name(self, index):
        return list(self._modes)[index]

    def get_tensor_mode(self, name):
        return self._modes[name]

    def get_device_memory_size_for_profile_v2(self, profile_index):
        first = next(iter(self._facts["profiles"][profile_index].values()))
        return 1024 * first[2][0]

    def create_execution_context(self, strategy):
        assert strategy == ExecutionContextAllocationStrategy.USER_MANAGED
        CALLS.append("create_context")
        return IExecutionContext(self)


_TYPES = {
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
    "tensor(int64)": np.int64,
}


class IExecutionContext:
    __slots__ = ("_addresses", "_arena", "_engine", "_profile", "_shapes")

    def __init__(self, engine):
        self._engine, self._profile = engine, None
        self._shapes, self._addresses, self._arena = {}, {}, (0, 0)

    def set_optimization_profile_async(self, profile_index, stream_handle):
        assert stream_handle != DEFAULT_STREAM
        CALLS.append(("profile", profile_index))
        self._profile, self._shapes = profile_index, {}
        return profile_index < self._engine.num_optimization_profiles

    def set_input_shape(self, name, shape):
        sizes = self._engine._facts["profiles"][self._profile].get(name)
        least, _, most = sizes or (shape, shape, shape)
        if not all(a <= b <= c for a, b, c in zip(least, shape, most, strict=True)):
            return False
        CALLS.append(("shape", name, shape))
        self._shapes[name] = tuple(shape)
        return True

    def set_tensor_address(self, name, memory):
        if memory % 256:
            return False
        CALLS.append(("address", name, memory))
        self._addresses[name] = memory
        return True

    def set_device_memory(self, memory, size):
        assert memory
        assert memory % 256 == 0
        CALLS.append(("arena", memory, size))
        self._arena = (memory, size)

    def infer_shapes(self):
        inputs = [one.name for one in self._engine._session.get_inputs()]
        return [name for name in inputs if name not in self._shapes]

    def get_tensor_shape(self, name):
        """By running the graph on zeros: nothing here knows what a Conv does to a shape."""
        if self._engine._modes[name] is TensorIOMode.INPUT:
            return self._shapes[name]
        key = (name, *sorted(self._shapes.items()))
        if key not in self._engine._output_shapes:
            types = self._engine._types
            feeds = {n: np.zeros(self._shapes[n], types[n]) for n in self._shapes}
            value = self._engine._session.run([name], feeds)[0]
            self._engine._output_shapes[key] = value.shape
        return self._engine._output_shapes[key]

    def execute_async_v3(self, stream_handle):
        from host_device import STREAMS

        engine = self._engine
        assert stream_handle != DEFAULT_STREAM
        assert not self.infer_shapes()
        assert self._arena[1] >= engine.get_device_memory_size_for_profile_v2(self._profile)
        CALLS.append("execute")
        addresses, shapes = dict(self._addresses), dict(self._shapes)
        assert set(addresses) == set(engine._modes)
        STREAMS[stream_handle].enqueue(lambda: _run(engine, addresses, shapes))
        return True


def _run(engine, addresses, shapes):
    inputs = {name: _array(engine, name, addresses[name], shape) for name, shape in shapes.items()}
    outputs = [name for name, mode in engine._modes.items() if mode is TensorIOMode.OUTPUT]
    for name, value in zip(outputs, engine._session.run(outputs, inputs), strict=True):
        _array(engine, name, addresses[name], value.shape)[...] = value


def _array(engine, name, address, shape):
    dtype = np.dtype(engine._types[name])
    size = int(np.prod(shape)) * dtype.itemsize
    memory = (ctypes.c_char * size).from_address(address)
    return np.frombuffer(memory, dtype).reshape(shape)


SCRIPTED = {
    one.__name__: one
    for one in (
        *(Builder, IBuilderConfig, ICudaEngine, IExecutionContext, ILayer, INetworkDefinition),
        *(IOptimizationProfile, ITimingCache, Logger, OnnxParser, ParserError, Runtime),
    )
}
ENUMS = {
    one.__name__: one
    for one in (ErrorCode, LayerType, TensorIOMode, ExecutionContextAllocationStrategy)
}
# Takes this module's place, as the layer wants.
_installed = tensorrt_layer.install()
vars(_installed).update(
    SCRIPTED, **ENUMS, __version__=VERSION, CALLS=CALLS, SCRIPTED=SCRIPTED, ENUMS=ENUMS
)
