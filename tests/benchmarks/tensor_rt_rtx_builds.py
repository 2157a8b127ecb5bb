"""Sizes and times of a model's engines for TensorRT-RTX, built anew, in Markdown. Needs no GPU.

Run: python -m tests.benchmarks.tensor_rt_rtx_builds deploy/models/pocket [sm_89 ..]
"""

import argparse
import tempfile
from pathlib import Path

from sangsang.services.runtime.building.build import build_model
from sangsang.services.runtime.engines.tensor_rt_rtx import TARGETS, library_version
from sangsang.services.runtime.models.folder import ModelFolder


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model_folder", type=Path)
    parser.add_argument("devices", nargs="*", default=list(TARGETS))
    arguments = parser.parse_args()
    folder = ModelFolder.open(arguments.model_folder)
    with tempfile.TemporaryDirectory() as cache:
        report = build_model(
            folder, backend="tensorrt_rtx", cache_dir=Path(cache), devices=arguments.devices
        )
        by_name = {one.module: one for one in report.modules}
        print(
            f"TensorRT-RTX {library_version()}, {folder.model_id}, {report.seconds:.0f} s in all\n"
        )
        print("|".join(("", " module ", " from f32 ", *(f" {d} " for d in arguments.devices), "")))
        print("|---" * (2 + len(arguments.devices)) + "|")
        for module in [name for name in by_name if ", " not in name]:
            engines = [by_name[f"{module}, {device}"] for device in arguments.devices]
            weights = [engine.size_bytes / 1e6 for engine in engines]
            cells = [
                f"{size:.2f} MB, {engine.seconds:.1f} s"
                for size, engine in zip(weights, engines, strict=True)
            ]
            print(f"| `{module}` | {engines[0].max_difference:.1e} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
