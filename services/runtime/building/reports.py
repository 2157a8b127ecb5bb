"""What a build says of each module, and where it looks before it builds one."""

import shutil
import time
from dataclasses import dataclass
from pathlib import Path

from ..engines.cache import ENTRY_NAME, BuildKey, EngineCache
from ..engines.loading import find_build
from ..errors import ModelNotReady
from ..models.folder import ModelFolder
from .failures import CheckReport


@dataclass(frozen=True, slots=True)
class ModuleReport:
    """What was done for one module.

    Attributes:
        module: the module; of a further UNet its folder's name.
        seconds: time it took.
        size_bytes: bytes of what was stored, weights excluded.
        max_difference: largest absolute difference over all checks from torch, for a compiled
            module or an engine from ONNX Runtime in f32; None when reused.
        row_exact: whether a row got the same bits in batches of every size that was tried, on
            this machine with one thread; None when reused, or where none was tried.
        reused: whether a sound build was there already.
        path: folder of the build.
    """

    module: str
    seconds: float
    size_bytes: int
    max_difference: float | None
    row_exact: bool | None
    reused: bool
    path: Path


def module_report(
    module: str, path: Path, started: float, check: CheckReport | None
) -> ModuleReport:
    """Returns the report of a module that lies in a folder; without a check it was there before."""
    return ModuleReport(
        module=module,
        seconds=time.perf_counter() - started,
        size_bytes=sum(file.stat().st_size for file in path.iterdir()),
        max_difference=check.max_difference if check else None,
        row_exact=check.row_exact if check else None,
        reused=check is None,
        path=path,
    )


@dataclass(frozen=True, slots=True)
class BuildPlace:
    """Where builds go, and where one may lie already.

    Attributes:
        store: where they go.
        source: whose builds are copied to `store` rather than made again; None for nobody's.
        alone: whether only what lies in `store` counts as built.
    """

    store: EngineCache
    source: EngineCache | None = None
    alone: bool = False

    def find(self, folder: ModelFolder, key: BuildKey) -> Path | None:
        """Returns the folder of a sound build."""
        try:
            alone = self.alone or self.source is not None
            return self.store.find(key) if alone else find_build(folder, key, self.store)
        except ModelNotReady:
            return None

    def copy(self, key: BuildKey, target: Path) -> bool:
        """Returns whether `source` has a build of the key, copied to `target` if so."""
        try:
            found = None if self.source is None else self.source.find(key)
        except ModelNotReady:
            return False
        for file in () if found is None else found.iterdir():
            if file.name != ENTRY_NAME:
                shutil.copyfile(file, target / file.name)
        return found is not None


def not_installed(error: ImportError) -> ModelNotReady:
    """Returns what is raised where building lacks a package."""
    return ModelNotReady(
        f"building needs {error.name}, which is not installed; "
        'install the extra: pip install "sangsang[build]"'
    )
