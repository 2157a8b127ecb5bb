"""Kernel times against eager torch and against the GPU's own bandwidth. Never run so far.

Run: make bench-gpu, which runs the GPU tests first: a wrong kernel has no speed. Prints a table of
medians, and what share of the bandwidth that a plain copy reaches the least traffic would take.
"""

import sys
from collections.abc import Callable
from pathlib import Path
from statistics import median

import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))

from kernel_cases import kernel_cases

REPEATS = 100
COPY_BYTES = 2**30
# More than any L2 cache: written between runs, so that operands come from memory.
FLUSH_BYTES = 2**28


def main() -> None:
    if not torch.cuda.is_available():
        sys.exit("no NVIDIA GPU that this build of torch can use")
    bandwidth = _copy_bandwidth()
    name = torch.cuda.get_device_name()
    print(f"{name}, torch {torch.__version__}, copy {bandwidth / 1e9:.0f} GB/s, fp16\n")
    print("| operation | kernel us | torch us | times | of the copy's bandwidth |")
    print("|---|---|---|---|---|")
    for case in kernel_cases(torch.float16):
        kernel_s, torch_s = _seconds(case.run), _seconds(case.torch)
        share = case.least_bytes / kernel_s / bandwidth
        times = f"{kernel_s * 1e6:.1f} | {torch_s * 1e6:.1f} | {torch_s / kernel_s:.2f}"
        print(f"| {case.name} | {times} | {share:.0%} |")


def _copy_bandwidth() -> float:
    """Bytes a second, read and written, of a copy of 1 GiB."""
    source = torch.empty(COPY_BYTES, dtype=torch.uint8, device="cuda")
    target = torch.empty_like(source)
    return 2 * COPY_BYTES / _seconds(lambda: target.copy_(source))


def _seconds(run: Callable[[], object]) -> float:
    """Median time of a call on the GPU, its operands not in the cache."""
    flush = torch.empty(FLUSH_BYTES, dtype=torch.uint8, device="cuda")
    times_ms = []
    for number in range(REPEATS + 10):
        flush.zero_()
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        run()
        end.record()
        torch.cuda.synchronize()
        if number >= 10:
            times_ms.append(start.elapsed_time(end))
    return median(times_ms) / 1000


if __name__ == "__main__":
    main()
