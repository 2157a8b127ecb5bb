"""Engines of TensorRT-RTX: consumer and some server GPUs, f16 or less, adapters as inputs.

Its builder needs no GPU (`../building/tensor_rt_rtx.py`), so what a machine without one can show of
this backend is that it builds. Running an engine needs one: nothing from `TensorRtRtxEngine` on has
been run so far. tensorrt_rtx and torch are imported when an engine is loaded, not before.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import ModelNotReady, StageFailed
from ..models.folder import ModelFolder, ModuleName
from ..models.manifest import Manifest
from . import onnx_runtime
from .adapter_bank import AdapterBank
from .cache import BuildKey
from .engine import Array, TensorSpec
from .precisions import DEFAULT_PRECISION, Precision, recipe
from .signatures import Signature, signature
from .validation import check_inputs

BACKEND = "tensorrt_rtx"
ENGINE_NAME = "engine.rtx"
# The GPUs that it builds for, by the name in a build's key: TensorRT-RTX's own names for them.
TARGETS: Mapping[str, str] = {"sm_80": "SM80", "sm_86": "SM86", "sm_89": "SM89", "sm_120": "SM120"}
# Raise it when `building/half_precision.py` or the builder's settings change what is built.
CONVERSION_VERSION = "1"
# Rows of one execution: fewest, those that it is tuned for, most. A larger batch goes in parts.
BATCH_ROWS = (1, 2, 8)

# Fewest, usual and most of every dimension.
Sizes = tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]


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
    sizes = [
        f"{name} {' '.join('x'.join(map(str, shape)) for shape in shapes)}"
        for name, shapes in input_sizes(folder, module, bank).items()
    ]
    if bank is not None:
        shapes = json.dumps(bank_shapes(bank), sort_keys=True).encode()
        sizes.append(f"adapters of the ranks {hashlib.sha256(shapes).hexdigest()}")
    return BuildKey(
        folder.label(module),
        folder.digest(module),
        BACKEND,
        f"{library_version()}, conversion {CONVERSION_VERSION} of {graph.backend_version}",
        device=device,
        precision=", ".join(filter(None, (precision, recipe(folder, precision)))),
        profile="; ".join((graph.profile, *sizes)),
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


def input_sizes(
    folder: ModelFolder, module: ModuleName, bank: AdapterBank | None
) -> dict[str, Sizes]:
    """Returns the sizes that an engine takes for each input of a call.

    Pictures are those that the manifest lets a request ask for, prompts those of the tokenizer.
    """
    limits = Manifest.read(folder).limits
    taken = _signature(folder, module, bank)
    pixels = 1 if module == "vae_encoder" else folder.vae_scale
    usual = folder.default_height_px, folder.default_width_px
    sides: list[tuple[int, ...]] = []
    for side, range_ in zip(usual, (limits.height_px, limits.width_px), strict=True):
        within = min(max(side, range_.min), range_.max)
        sides.append(tuple(size // pixels for size in (range_.min, within, range_.max)))
    free = {0: BATCH_ROWS, 1: (folder.token_limit,) * 3, 2: sides[0], 3: sides[1]}
    found: dict[str, Sizes] = {}
    for spec in taken.inputs:
        least, most_used, most = (
            tuple(free[axis][i] if size is None else size for axis, size in enumerate(spec.shape))
            for i in range(3)
        )
        found[spec.name] = least, most_used, most
    return found


def bank_shapes(bank: AdapterBank | None) -> dict[str, tuple[int, ...]]:
    """Returns the shape of each input that the adapters fill."""
    return {} if bank is None else {name: array.shape for name, array in bank.arrays.items()}


def gpu_device() -> str:
    """Returns this machine's GPU as in `TARGETS`.

    Raises:
        ModelNotReady: there is none, or none that TensorRT-RTX knows.
        ImportError: torch is not installed.
    """
    library_version()
    import torch

    if not torch.cuda.is_available():
        raise ModelNotReady(
            "backend tensorrt_rtx runs on an NVIDIA GPU, and torch sees none here: engines can be "
            "built on this machine, to serve on it take the backend onnxruntime"
        )
    major, minor = torch.cuda.get_device_capability()
    device = f"sm_{major}{minor}"
    if device not in TARGETS:
        raise ModelNotReady(
            f"TensorRT-RTX has no engines for this GPU, {device}; only {_targets()}"
        )
    return device


class TensorRtRtxEngine:
    """One module in a TensorRT-RTX engine on the current GPU. See `Engine` for the attributes."""

    backend = BACKEND

    def __init__(
        self,
        folder: ModelFolder,
        module: ModuleName,
        build: Path,
        bank: AdapterBank | None = None,
        precision: Precision = DEFAULT_PRECISION,
    ) -> None:
        """Loads a build.

        Args:
            folder: the model.
            module: which module it is.
            build: folder with the engine.
            bank: the adapters, if it was built for some.
            precision: what it was built to compute in.

        Raises:
            ModelNotReady: TensorRT-RTX does not take the engine.
        """
        import torch

        library: Any = import_module("tensorrt_rtx")

        self.name = folder.label(module)
        self.digest = folder.digest(module)
        self.precision = precision
        self._signature = _signature(folder, module, bank)
        self._bank = {
            name: torch.from_numpy(array.astype(np.float16) if array.dtype.kind == "f" else array)
            .contiguous()
            .cuda()
            for name, array in (bank.arrays if bank else {}).items()
        }
        self._stream = torch.cuda.Stream()
        runtime = library.Runtime(library.Logger(library.Logger.WARNING))
        engine = runtime.deserialize_cuda_engine((build / ENGINE_NAME).read_bytes())
        self._context: Any = None if engine is None else engine.create_execution_context()
        if self._context is None:
            raise ModelNotReady(
                f"TensorRT-RTX {library_version()} cannot load {build / ENGINE_NAME}; "
                f"delete it and run `sangsang build {folder.path} --backend {BACKEND}`"
            )
        for name, tensor in self._bank.items():
            self._context.set_input_shape(name, tuple(tensor.shape))
            self._context.set_tensor_address(name, tensor.data_ptr())

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        return self._signature.inputs

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        return self._signature.outputs

    def infer(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Returns every output for a batch; see `Engine.infer`."""
        if self._context is None:
            raise StageFailed(f"{self.name} has been closed")
        feeds = check_inputs(self._signature, inputs)
        rows = len(feeds[self.inputs[0].name])
        most = BATCH_ROWS[2]
        parts = [
            self._run({name: array[first : first + most] for name, array in feeds.items()})
            for first in range(0, rows, most)
        ]
        return {
            spec.name: np.concatenate([part[spec.name] for part in parts]) for spec in self.outputs
        }

    def _run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        import torch

        context, held = self._context, []
        with torch.cuda.stream(self._stream):
            for name, array in feeds.items():
                # Copied: torch warns about arrays that cannot be written to.
                held.append(torch.from_numpy(np.array(array)).cuda())
                accepted = context.set_input_shape(name, array.shape)
                if not accepted or not context.set_tensor_address(name, held[-1].data_ptr()):
                    shape = list(array.shape)
                    raise StageFailed(f"the engine of {self.name} was not built for {name} {shape}")
            results: dict[str, Any] = {}
            for spec in self.outputs:
                shape = tuple(context.get_tensor_shape(spec.name))
                results[spec.name] = torch.empty(shape, dtype=torch.float32, device="cuda")
                context.set_tensor_address(spec.name, results[spec.name].data_ptr())
            if not context.execute_async_v3(self._stream.cuda_stream):
                raise StageFailed(f"{self.name} failed in TensorRT-RTX", fatal=True)
            # Copying to memory of the CPU waits for the stream.
            return {name: value.cpu().numpy() for name, value in results.items()}

    def close(self) -> None:
        """Frees the engine."""
        self._context = None
        self._bank = {}


def _signature(folder: ModelFolder, module: ModuleName, bank: AdapterBank | None) -> Signature:
    plain = signature(folder, module)
    return plain if bank is None else bank.signature(plain)


def _targets() -> str:
    return ", ".join(TARGETS)
