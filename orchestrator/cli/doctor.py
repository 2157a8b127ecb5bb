"""`sangsang doctor`: what this machine can run, and what is missing, in plain words."""

import importlib.metadata
import importlib.util
import os
import platform
import shutil
import subprocess

from rich.markup import escape
from rich.table import Table

from .console import DEFAULT_CACHE, err, model_paths, out

_EXTRAS = {
    "serve on the CPU": ("cpu", ("onnxruntime", "PIL", "safetensors", "tokenizers")),
    "serve on the CPU with OpenVINO": ("openvino", ("openvino",)),
    "build models": ("build", ("torch", "diffusers", "transformers", "onnx", "onnxscript")),
    "train and evaluate models": ("train", ("accelerate", "matplotlib", "peft")),
    "run kernels (GPU, or the interpreter)": ("", ("triton",)),
    "build engines of TensorRT-RTX (running them needs a GPU)": (
        "build,tensorrt-rtx",
        ("tensorrt_rtx", "onnx", "torch"),
    ),
    "build and serve engines of TensorRT (needs a GPU)": (
        "build,tensorrt",
        ("tensorrt", "triton", "onnx", "torch"),
    ),
}


def doctor() -> None:
    """Says what this machine can run and what is missing."""
    out.print(f"Python {platform.python_version()} on {platform.system()} {platform.machine()}")
    out.print(f"{os.cpu_count()} CPU cores; engines take one each unless told otherwise")
    out.print(_gpu_line())
    table = Table("to", "state", "what to do")
    for purpose, (extra, packages) in _EXTRAS.items():
        table.add_row(purpose, *_state(extra, packages))
    out.print(table)
    for path in model_paths(None):
        out.print(f"shipped model: {path}", highlight=False)
    out.print(f"engine cache: {DEFAULT_CACHE}", highlight=False)


def _gpu_line() -> str:
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return "no NVIDIA driver: the mesh runs on the CPU"
    found = subprocess.run([tool, "-L"], capture_output=True, text=True, timeout=20, check=False)  # noqa: S603 found on the PATH
    if found.returncode:
        err.print(found.stderr.strip())
        return "nvidia-smi is installed but fails: the driver does not run"
    return found.stdout.strip()


def _state(extra: str, packages: tuple[str, ...]) -> tuple[str, str]:
    missing = [name for name in packages if importlib.util.find_spec(name) is None]
    if not missing:
        return "[green]ready[/green]", ""
    how = f"pip install 'sangsang[{extra}]'" if extra else f"pip install {' '.join(missing)}"
    return f"[yellow]missing {', '.join(missing)}[/yellow]", escape(how)
