"""TensorRT's own plugin layer, driven without TensorRT.

The bindings' package has the layer as Python, but its extension needs libraries that are not on
PyPI. So `tensorrt` is a module of stand-ins for what the layer takes from it, and the layer itself
(register, autotune, aot_impl, and the plugin objects that TensorRT calls) is the real one.
"""

import enum
import importlib.util
import math
import operator
import sys
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np

NAMES = {
    "DataType": "FLOAT HALF INT8 INT32 BOOL UINT8 FP8 BF16 INT64 INT4 FP4",
    "TensorFormat": "LINEAR CHW2 HWC8 CHW4 CHW16 CHW32 DHWC8 CDHW32 HWC DLA_LINEAR HWC16 DHWC",
    "DimensionOperation": "SUM PROD MAX MIN SUB EQUAL LESS FLOOR_DIV CEIL_DIV",
    "PluginFieldType": "FLOAT16 FLOAT32 FLOAT64 INT8 INT16 INT32 CHAR DIMS UNKNOWN BF16 INT64 FP8",
    "PluginArgType": "INT",
    "PluginArgDataType": "INT8 INT16 INT32",
    "TensorRTPhase": "BUILD RUNTIME",
    "QuickPluginCreationRequest": "UNKNOWN PREFER_JIT PREFER_AOT STRICT_JIT STRICT_AOT",
}
BASES = (
    *("IPluginV3", "IPluginV3QuickCore", "IPluginV3QuickBuild", "IPluginV3QuickRuntime"),
    *("IPluginV3QuickAOTBuild", "IPluginCreatorV3Quick", "ISymExpr", "ITensor"),
)


class Dimension:
    """`IDimensionExpr`: a size, known when the engine is built or not."""

    def __init__(self, value, constant):
        self.value, self.constant = int(value), constant

    def is_constant(self):
        return self.constant

    def get_constant_value(self):
        assert self.constant, "TensorRT has no value for it"
        return self.value

    def is_size_tensor(self):
        return False


class ExpressionBuilder:
    """`IExprBuilder`."""

    def constant(self, value):
        return Dimension(value, True)

    def operation(self, kind, left, right):
        compute = {
            "SUM": operator.add,
            "PROD": operator.mul,
            "SUB": operator.sub,
            "MAX": max,
            "MIN": min,
            "FLOOR_DIV": operator.floordiv,
            "CEIL_DIV": lambda a, b: -(-a // b),
            "EQUAL": operator.eq,
            "LESS": operator.lt,
        }[kind.name]
        return Dimension(compute(left.value, right.value), left.constant and right.constant)


class Described:
    """`DynamicPluginTensorDesc`."""

    def __init__(self, shape, dtype):
        kind = sys.modules["tensorrt"].TensorFormat.LINEAR
        self.desc = SimpleNamespace(dims=tuple(shape), type=dtype, format=kind, scale=1.0)
        self.min = self.max = self.opt = tuple(shape)


class Registry:
    def __init__(self):
        self.creators = {}

    def register_creator(self, creator, namespace):
        self.creators[creator.name, namespace] = creator
        return True

    def get_creator(self, name, version, namespace):
        return self.creators.get((name, namespace))


class Dims(tuple):
    MAX_DIMS = 8


class ShapeExpressions(list):
    """`DimsExprs`."""

    def __init__(self, size):
        super().__init__([None] * size)


class Logger(SimpleNamespace):
    WARNING = 1

    def log(self, severity, text):
        pass


@dataclass
class PluginField:
    name: str
    data: object = b""
    type: object = None


@dataclass
class PluginTensorDesc:
    dims: tuple = ()
    type: object = None
    format: object = None
    scale: float = 1.0


@dataclass(frozen=True)
class Launch:
    """What TensorRT would launch, evaluated for the shapes."""

    types: tuple
    tactic: int
    output_shapes: tuple
    grid: tuple
    thread_count: int
    shared_bytes: int
    integers: tuple
    name: str
    ptx: str = field(repr=False)


def install():
    """Puts the stand-ins and the real layer into `sys.modules`."""
    module = ModuleType("tensorrt")
    module.__path__ = []
    for name, members in NAMES.items():
        setattr(module, name, enum.Enum(name, members.split(), start=0))
    for name in BASES:
        setattr(module, name, type(name, (), {"__init__": lambda self, *a: None}))
    registry = Registry()
    types = module.DataType
    vars(module).update(
        IDimensionExpr=Dimension,
        IExprBuilder=ExpressionBuilder,
        DimsExprs=ShapeExpressions,
        Dims=Dims,
        DynamicPluginTensorDesc=Described,
        PluginTensorDesc=PluginTensorDesc,
        PluginField=PluginField,
        PluginFieldCollection=list,
        Logger=Logger,
        get_plugin_registry=lambda: registry,
        float32=types.FLOAT,
        float16=types.HALF,
        bfloat16=types.BF16,
        int32=types.INT32,
        int64=types.INT64,
        int8=types.INT8,
        bool=types.BOOL,
    )
    sys.modules["tensorrt"] = module
    bindings = importlib.util.find_spec("tensorrt_bindings")
    file = Path(bindings.origin).parent / "plugin" / "__init__.py"
    locations = {"submodule_search_locations": [str(file.parent)]}
    spec = importlib.util.spec_from_file_location("tensorrt.plugin", file, **locations)
    module.plugin = sys.modules["tensorrt.plugin"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module.plugin)
    return module


def launches(plugin_id, shapes, dtypes, attributes=None, dynamic=()):
    """Every launch of a plugin, in the order in which TensorRT asks for it when it builds.

    `dynamic` names the (input, axis) that are not known when the engine is built.
    """
    tensorrt = sys.modules["tensorrt"]
    namespace, name = plugin_id.split("::")
    creator = tensorrt.get_plugin_registry().get_creator(name, "1", namespace)
    fields = [PluginField(key, np.array([value])) for key, value in (attributes or {}).items()]
    request = tensorrt.QuickPluginCreationRequest.STRICT_AOT
    phase = tensorrt.TensorRTPhase.BUILD
    plugin = creator.create_plugin(name, namespace, fields, phase, request)
    expressions = [
        [Dimension(size, (i, axis) not in dynamic) for axis, size in enumerate(shape)]
        for i, shape in enumerate(shapes)
    ]
    out_types = plugin.get_output_data_types(list(dtypes), [len(shape) for shape in shapes])
    out = plugin.get_output_shapes(expressions, [], ExpressionBuilder())
    out_shapes = tuple(tuple(size.value for size in shape) for shape in out)
    described = [
        *(Described(shape, kind) for shape, kind in zip(shapes, dtypes, strict=True)),
        *(Described(shape, kind) for shape, kind in zip(out_shapes, out_types, strict=True)),
    ]
    found = plugin.get_supported_format_combinations(described, len(shapes))
    step = len(described)
    for first in range(0, len(found), step):
        types = tuple(one.type for one in found[first : first + step])
        for one, kind in zip(described, types, strict=True):
            one.desc.type = kind
        plugin.configure_plugin(described[: len(shapes)], described[len(shapes) :])
        for tactic in plugin.get_valid_tactics() or [0]:
            plugin.set_tactic(tactic)
            yield _launch(plugin, described, len(shapes), types, tactic, out_shapes)


class _Expressions(dict):
    def __setattr__(self, name, value):
        self[name] = value


def _launch(plugin, described, input_count, types, tactic, out_shapes):
    parameters, expressions = SimpleNamespace(), _Expressions()
    builder = ExpressionBuilder()
    plugin.get_launch_params(None, described, input_count, parameters, expressions, builder)
    inputs, outputs = described[:input_count], described[input_count:]
    name, ptx = plugin.get_kernel([one.desc for one in inputs], [one.desc for one in outputs])
    value = {key: expression.expr.value for key, expression in vars(parameters).items()}
    assert math.prod((value["block_y"], value["block_z"])) == 1
    return Launch(
        types=tuple(kind.name for kind in types),
        tactic=tactic,
        output_shapes=out_shapes,
        grid=(value["grid_x"], value["grid_y"], value["grid_z"]),
        thread_count=value["block_x"],
        shared_bytes=value["shared_mem"],
        integers=tuple(expressions[i].expr.value for i in range(expressions["nbSymExprs"])),
        name=name,
        ptx=ptx.decode(),
    )
