"""Building with a progress bar, for `sangsang build` and for what starts a mesh."""

from collections.abc import Sequence
from pathlib import Path

from rich.table import Table

from ...services.runtime.building.build import BuildProgress, BuildReport, build_model
from ...services.runtime.engines.loading import load_engine
from ...services.runtime.engines.precisions import DEFAULT_PRECISION
from ...services.runtime.errors import ModelNotReady
from ...services.runtime.models.folder import ModelFolder
from ...services.runtime.models.manifest import Manifest, model_parts
from ...services.runtime.models.sampling import load_tables
from .console import err, out, parts_progress


def build_missing(folders: list[Path], cache_dir: Path) -> None:
    """Builds what the models lack to be served with ONNX Runtime; quick when nothing is.

    Raises:
        ModelNotReady: a folder cannot be served, or the packages for building are missing.
    """
    for path in folders:
        folder = ModelFolder.open(path)
        if not _is_built(folder, cache_dir):
            err.print(f"{folder.model_id} is not built yet; this takes a minute or two, once")
            build_folder(path, backend="onnxruntime", cache_dir=cache_dir, beside=False)


def build_folder(
    path: Path,
    *,
    backend: str,
    cache_dir: Path,
    beside: bool,
    devices: Sequence[str] = (),
    precision: str = DEFAULT_PRECISION,
) -> None:
    """Builds a model and prints what was done.

    Raises:
        ModelNotReady: the folder cannot be served, or the packages for building are missing.
    """
    folder = ModelFolder.open(path)
    with parts_progress() as bar:
        task = bar.add_task("opening", total=None)

        def show(step: BuildProgress) -> None:
            text = f"{step.part}: {step.phase}"
            bar.update(task, description=text, completed=step.done_count, total=step.part_count)

        report = build_model(
            folder,
            backend=backend,
            cache_dir=cache_dir,
            beside=beside,
            devices=devices,
            precision=precision,
            max_step_count=Manifest.read(folder).limits.step_count.max,
            progress=show,
        )
    _print(report)


def _is_built(folder: ModelFolder, cache_dir: Path) -> bool:
    try:
        load_tables(folder, cache_dir)
        for part, module in model_parts(folder):
            load_engine(part, module, cache=cache_dir).close()
    except ModelNotReady:
        return False
    return True


def _print(report: BuildReport) -> None:
    table = Table("part", "time", "size", "differs by", "same bits in any batch")
    for module in report.modules:
        checked = module.max_difference is not None
        table.add_row(
            module.module,
            "there already" if module.reused else f"{module.seconds:.1f} s",
            f"{module.size_bytes / 1024:.0f} KiB",
            f"{module.max_difference:.1e}" if checked else "",
            {True: "yes", False: "no", None: ""}[module.row_exact],
        )
    schedules = report.sampling.schedules
    table.add_row("samplers", "compiled" if schedules else "there already", "", "", "")
    out.print(table)
    out.print(f"{report.model_id} is built for {report.backend} in {report.seconds:.1f} s")
