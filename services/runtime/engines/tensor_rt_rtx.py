"""Engines of TensorRT-RTX: consumer and some server GPUs, f16 or less, adapters as inputs.

Its builder needs no GPU (`../building/tensor_rt_rtx.py`), so what a machine without one can show of
this backend is that it builds. Running an engine needs one: nothing that `open_engine` returns has
been run so far. tensorrt_rtx and torch are imported when an engine is loaded, not before.
"""

from collections.abc import Mapping, Sequence
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from ..errors import ModelNotReady
from ..models.folder import ModelFolder, ModuleName
from . import onnx_runtime
from .adapter_bank import AdapterBank
from .cache import BuildKey
from .cuda_device import CudaDevice
from .execution_lane import ExecutionLane
from .plan import Plan
from .plan_engine import PlanEngine
from .precisions import DEFAULT_PRECISION, Precision, build_option, recipe
from .tensor_rt_sizes import describe_sizes, range_profile, signature_of

BACKEND = "tensorrt_rtx"
TITLE = "TensorRT-RTX"
ENGINE_NAME = "engine.rtx"
# The GPUs that it builds for, by the name in a build's key: TensorRT-RTX's own names for them.
TARGETS: Mapping[str, str] = {"sm_80": "SM80", "sm_86": "SM86", "sm_89": "SM89", "sm_120": "SM120"}
# Raise it when `building/half_precision.py` or the builder's settings change what is built.
CONVERSION_VERSION = "1"
# Rows of one execution: fewest, those that it is tuned for, most. A larger batch goes in parts.
BATCH_ROWS = (1, 2, 8)


def build_key(
    folder: ModelFolder,
    module: ModuleName,
    device: str,
    bank: AdapterBank | None,
    precision: Precision = DEFAULT_PRECISION,
) -> BuildKey:
    """Returns the key under which the engine of a module for a GPU lies.

    Args:
        folder: the model.
        module: which of its modules.
        device: one of `TARGETS`.
        bank: its adapters; their ranks are the engine's, their values are not.
        precision: what its products compute in.

    Raises:
        ModelNotReady: TensorRT-RTX is not installed, or has no such target; or the model cannot be
            calibrated.
    """
    check_devices([device])
    graph = onnx_runtime.build_key(folder, module)
    sizes = describe_sizes([range_profile(folder, module, bank, BATCH_ROWS)], bank)
    return BuildKey(
        folder.label(module),
        folder.digest(module),
        BACKEND,
        f"{library_version()}, conversion {CONVERSION_VERSION} of {graph.backend_version}",
        device=device,
        precision=", ".join(filter(None, (precision, recipe(folder, precision)))),
        profile=f"{graph.profile}; {sizes}",
    )


def check_devices(devices: Sequence[str]) -> None:
    """Checks that engines can be built for some GPUs.

    Raises:
        ModelNotReady: TensorRT-RTX is not installed, or does not know one of them.
    """
    library_version()
    for device in devices:
        if device not in TARGETS:
            raise ModelNotReady(f"TensorRT-RTX does not build for {device!r}, only {_targets()}")


def library_version() -> str:
    """Returns the version of TensorRT-RTX: its engines run in the one that built them.

    Raises:
        ModelNotReady: it is not installed.
    """
    try:
        return version("tensorrt-rtx")
    except PackageNotFoundError as exc:
        raise ModelNotReady(
            "backend tensorrt_rtx needs tensorrt-rtx, which is not installed; "
            'install the extra: pip install "sangsang[tensorrt-rtx]"'
        ) from exc


def gpu_device() -> str:
    """Returns this machine's GPU as in `TARGETS`.

    Raises:
        ModelNotReady: there is none, or none that TensorRT-RTX knows.
        ImportError: torch is not installed.
    """
    library_version()
    device = f"sm_{CudaDevice().architecture(BACKEND)}"
    if device not in TARGETS:
        raise ModelNotReady(
            f"TensorRT-RTX has no engines for this GPU, {device}; only {_targets()}"
        )
    return device


def open_engine(
    folder: ModelFolder,
    module: ModuleName,
    build: Path,
    *,
    bank: AdapterBank | None = None,
    precision: Precision = DEFAULT_PRECISION,
    lane: ExecutionLane | None = None,
) -> PlanEngine:
    """Returns an engine, ready to infer.

    Args:
        folder: the model.
        module: which module it is.
        build: folder with the engine.
        bank: the adapters, if it was built for some.
        precision: what it was built to compute in.
        lane: where it runs; None makes a lane of its own, of high priority for a UNet.

    Raises:
        ModelNotReady: TensorRT-RTX does not take the engine, or it is another.
    """
    lane = lane or ExecutionLane(high_priority=module == "unet")
    rebuild = f"sangsang build {folder.path} --backend {BACKEND}{build_option(precision)}"
    plan = Plan(
        name=folder.label(module),
        digest=folder.digest(module),
        backend=BACKEND,
        precision=precision,
        title=TITLE,
        library=import_module("tensorrt_rtx"),
        content=(build / ENGINE_NAME).read_bytes(),
        signature=signature_of(folder, module, bank),
        profiles=[range_profile(folder, module, bank, BATCH_ROWS)],
        bank=bank,
        # It compiles for a shape when it meets it, and may do so behind a capture's back.
        captures=False,
        device=lane.device,
        remedy=f"delete {build} and run `{rebuild}`",
    )
    return PlanEngine(plan, lane)


def _targets() -> str:
    return ", ".join(TARGETS)
