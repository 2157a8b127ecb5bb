"""Our kernels as plugins, by the names of their nodes; and what a build with them depends on."""

import hashlib
from collections.abc import Iterable, Sequence
from importlib import import_module
from importlib.metadata import version
from pathlib import Path

_KERNELS = Path(__file__).parents[1]
_PACKAGE = __name__.rsplit(".", 2)[0]
# The folder of each operation that has a plugin.
_FOLDERS = {
    "Geglu": "geglu",
    "GroupNormSilu": "group_norm_silu",
    "GuidedStep": "guided_step",
    "LoraBank": "lora_bank",
    "ScaledAttention": "attention",
}


def plugin_names() -> tuple[str, ...]:
    """Returns the names of all nodes that have a plugin."""
    return tuple(_FOLDERS)


def register_plugins(names: Iterable[str], architecture: int) -> None:
    """Makes nodes known to TensorRT, once in a process; before a graph is parsed.

    Args:
        names: of `plugin_names`.
        architecture: of the GPU that the engine is for, e.g. 89 for sm_89.

    Raises:
        KeyError: there is no plugin of a name.
        ImportError: tensorrt, torch or triton is not installed.
    """
    for name in names:
        import_module(f"{_PACKAGE}.{_FOLDERS[name]}.plugin").PLUGIN.register(architecture)


def fingerprint(names: Sequence[str]) -> str:
    """Returns what decides the code of some kernels: a digest of their sources, Triton's version.

    The PTX itself follows from these, the GPU and the sizes of the graph.

    Raises:
        KeyError: there is no plugin of a name.
        PackageNotFoundError: Triton is not installed.
    """
    if not names:
        return "no plugins"
    digest = hashlib.sha256()
    folders = sorted({"compiling", *(_FOLDERS[name] for name in names)})
    for file in (file for folder in folders for file in sorted((_KERNELS / folder).glob("*.py"))):
        digest.update(f"{file.parent.name}/{file.name}\0".encode())
        digest.update(file.read_bytes())
    return f"plugins {' '.join(sorted(names))} {digest.hexdigest()}, Triton {version('triton')}"
