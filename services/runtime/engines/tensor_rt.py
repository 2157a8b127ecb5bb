"""Engines of TensorRT: f16, our kernels inside, a profile for each bucket, adapters as inputs.

They are built on the GPU that they run on (`../building/tensor_rt.py`), and nothing of them has
been run so far. tensorrt and torch are imported when an engine is built or loaded, not before.
"""

from collections.abc import Sequence
from importlib import import_module
from importlib.metadata import PackageNotFoundError
from typing import Any

from ....kernels.compiling.catalogue import fingerprint
from ..errors import ModelNotReady
from ..models.folder import ModelFolder, ModuleName
from . import onnx_runtime
from .adapter_bank import AdapterBank
from .cache import BuildKey
from .cuda_device import CudaDevice, GpuIdentity
from .execution_lane import ExecutionLane
from .plan import Plan
from .plan_engine import PlanEngine
from .precisions import DEFAULT_PRECISION
from .tensor_rt_sizes import bucket_profiles, describe_sizes, signature_of

BACKEND = "tensorrt"
TITLE = "TensorRT"
PLAN_NAME = "engine.plan"
# The first whose Python interface this is written for: all is strongly typed from there on.
LEAST_VERSION = 11
# Raise it when `building/half_precision.py`, what is fused or the builder's settings change.
CONVERSION_VERSION = "1"
# Rows of an execution. A batch is padded to the next; a larger one goes in parts of the last.
BUCKETS = (1, 2, 4, 8)
# Our kernels that a build takes. TensorRT fuses attention itself; whether ours pays has to be
# measured on a GPU (`tests/benchmarks/unet_steps_in_tensor_rt.py`).
PLUGINS = ("Geglu", "GroupNormSilu")


def library() -> Any:
    """Returns the package.

    Raises:
        ModelNotReady: it is not installed, its libraries are missing, or it is too old.
    """
    try:
        found: Any = import_module("tensorrt")
        version = str(found.__version__)
    except ModuleNotFoundError as exc:
        raise ModelNotReady(
            f"backend {BACKEND} needs {exc.name}, which is not installed; install the extra: "
            'pip install "sangsang[tensorrt]" (it fetches its libraries from NVIDIA\'s own index)'
        ) from exc
    except (ImportError, AttributeError) as exc:
        raise ModelNotReady(
            f"backend {BACKEND} cannot load TensorRT: {exc}; install the extra again: "
            'pip install --force-reinstall "tensorrt-cu13>=11.4,<12"'
        ) from exc
    if int(version.split(".", maxsplit=1)[0]) < LEAST_VERSION:
        raise ModelNotReady(
            f"backend {BACKEND} needs TensorRT {LEAST_VERSION} or newer, and {version} is "
            'installed; pip install "sangsang[tensorrt]"'
        )
    return found


def build_key(
    folder: ModelFolder,
    module: ModuleName,
    gpu: GpuIdentity,
    bank: AdapterBank | None,
    plugins: Sequence[str] = PLUGINS,
) -> BuildKey:
    """Returns the key under which the engine of a module for a GPU lies.

    Args:
        folder: the model.
        module: which of its modules.
        gpu: what it was built on.
        bank: its adapters; their ranks are the engine's, their values are not.
        plugins: our kernels in it.

    Raises:
        ModelNotReady: TensorRT, or Triton for the kernels, is not installed.
    """
    graph = onnx_runtime.build_key(folder, module)
    version = str(library().__version__)
    try:
        kernels = fingerprint(plugins)
    except PackageNotFoundError as exc:
        raise ModelNotReady(
            f"backend {BACKEND} needs {exc.name} for our kernels, which is not installed; "
            'install the extra: pip install "sangsang[tensorrt]"'
        ) from exc
    profiles = bucket_profiles(folder, module, bank, BUCKETS)
    return BuildKey(
        folder.label(module),
        folder.digest(module),
        BACKEND,
        f"{version}, conversion {CONVERSION_VERSION} of {graph.backend_version}, {kernels}",
        device=gpu.describe(),
        precision=DEFAULT_PRECISION,
        profile="; ".join((graph.profile, describe_sizes(profiles, bank))),
    )


def open_engine(
    folder: ModelFolder,
    module: ModuleName,
    content: bytes,
    *,
    bank: AdapterBank | None = None,
    lane: ExecutionLane | None = None,
) -> PlanEngine:
    """Returns an engine, ready to infer.

    Args:
        folder: the model.
        module: which of its modules.
        content: the serialised engine, as it was built: it is run as code.
        bank: the adapters, if it was built for some.
        lane: where it runs; None makes a lane of its own, of high priority for a UNet.

    Raises:
        ModelNotReady: TensorRT does not take it, or it is another engine.
    """
    lane = lane or ExecutionLane(high_priority=module == "unet")
    plan = Plan(
        name=folder.label(module),
        digest=folder.digest(module),
        backend=BACKEND,
        precision=DEFAULT_PRECISION,
        title=TITLE,
        library=library(),
        content=content,
        signature=signature_of(folder, module, bank),
        profiles=bucket_profiles(folder, module, bank, BUCKETS),
        bank=bank,
        captures=True,
        device=lane.device,
        remedy=f"delete it and run `sangsang build {folder.path} --backend {BACKEND}`",
    )
    return PlanEngine(plan, lane)


def gpu_identity() -> GpuIdentity:
    """Returns the GPU that engines are built for and run on here.

    Raises:
        ModelNotReady: there is none, or TensorRT is not installed.
        ImportError: torch is not installed.
    """
    library()
    return CudaDevice().identity(BACKEND)
