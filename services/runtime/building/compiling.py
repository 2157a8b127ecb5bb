"""Compiles a module for OpenVINO ahead of serving, and checks what was compiled.

Serving does the former by itself when it has to; only here is the result compared with ONNX
Runtime's, and a row with itself in batches of every size.
"""

import shutil
from pathlib import Path

from ..engines import onnx_runtime
from ..engines.adapter_bank import open_bank
from ..engines.cache import DamagedBuild, EngineCache, NotBuilt
from ..engines.loading import find_build
from ..engines.openvino_cpu import OpenVinoEngine, build_key, compile_missing
from ..errors import ModelNotReady
from ..models.folder import ModelFolder, ModuleName
from .checking import check_compiled
from .failures import CheckReport, ExportFailed


def compile_and_check(
    folder: ModelFolder, module: ModuleName, cache: EngineCache
) -> tuple[Path, CheckReport | None]:
    """Returns where a compiled module lies and how it compares; None if it was there already.

    Args:
        folder: the model, whose graph has been built.
        module: which module.
        cache: where compiled modules lie.

    Raises:
        ModelNotReady: it cannot be compiled, or does not compute what ONNX Runtime computes.
    """
    bank = open_bank(folder) if module == "unet" else None
    try:
        return cache.find(build_key(folder, module, bank, threads=1)), None
    except (NotBuilt, DamagedBuild):
        pass
    graph = find_build(folder, onnx_runtime.build_key(folder, module), cache)
    path = compile_missing(folder, module, graph, cache, bank=bank)
    engine = OpenVinoEngine(folder, module, path, bank=bank)
    reference = onnx_runtime.OnnxRuntimeEngine(folder, module, graph, bank=bank)
    try:
        return path, check_compiled(folder, module, engine, reference, bank)
    except ExportFailed as exc:
        shutil.rmtree(path)
        raise ModelNotReady(f"{folder.model_id}: {exc}") from exc
    finally:
        engine.close()
        reference.close()
