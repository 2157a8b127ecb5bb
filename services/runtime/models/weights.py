"""Weights as they lie on disk: safetensors files, whole or in shards, never pickle.

Headers are parsed here because a stage has to say what is wrong with a folder before it loads
anything, and because numpy alone then reads every dtype that a diffusers folder uses, bfloat16
included.
"""

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import ModelNotReady

PICKLE_SUFFIXES = (".bin", ".ckpt", ".pt", ".pth", ".pkl")

_LENGTH_BYTES = 8
# The format's own limit; a longer header is damage or an attack.
_MAX_HEADER_BYTES = 100_000_000
_DTYPES: Mapping[str, np.dtype[Any]] = {
    "F64": np.dtype("<f8"),
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
    # numpy has no bfloat16: the bits are read as integers and widened by hand.
    "BF16": np.dtype("<u2"),
    "I64": np.dtype("<i8"),
    "I32": np.dtype("<i4"),
    "I16": np.dtype("<i2"),
    "I8": np.dtype("i1"),
    "U8": np.dtype("u1"),
    "BOOL": np.dtype("?"),
}
_DAMAGE = (ValueError, KeyError, TypeError, AttributeError)
_FLOAT_DTYPES = frozenset({"F64", "F32", "F16", "BF16"})


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """Where one tensor lies.

    Attributes:
        path: safetensors file.
        dtype: dtype by its safetensors name, e.g. `F16`.
        shape: size of each dimension.
        offset_bytes: first byte, from the start of the file.
    """

    path: Path
    dtype: str
    shape: tuple[int, ...]
    offset_bytes: int

    def read(self) -> NDArray[Any]:
        """Returns the tensor: floats as f32 whatever they are stored in, integers as they are.

        A tensor stored in f32 is mapped from the file rather than copied.
        """
        if math.prod(self.shape) == 0:
            return np.zeros(self.shape, np.float32)
        raw = np.memmap(
            self.path, _DTYPES[self.dtype], "r", offset=self.offset_bytes, shape=self.shape
        )
        if self.dtype == "BF16":
            return (raw.astype(np.uint32) << 16).view(np.float32)
        if self.dtype in _FLOAT_DTYPES:
            return np.asarray(raw, np.float32)
        return np.asarray(raw)


def find_weight_files(folder: Path, stem: str) -> tuple[Path, ...]:
    """Returns the safetensors files of one component, in the order of their names.

    Args:
        folder: the component's folder, e.g. `.../unet`.
        stem: `diffusion_pytorch_model` for diffusers, `model` for transformers.

    Raises:
        ModelNotReady: there are none, only pickle ones, or a shard is missing.
    """
    for variant in ("", ".fp16", ".bf16"):
        whole = folder / f"{stem}{variant}.safetensors"
        if whole.is_file():
            return (whole,)
        index = folder / f"{stem}.safetensors.index{variant}.json"
        if index.is_file():
            return _shards(index)
    pickles = sorted(p.name for p in folder.glob("*") if p.suffix in PICKLE_SUFFIXES)
    if pickles:
        raise ModelNotReady(
            f"{folder} has its weights only as pickle ({', '.join(pickles)}), which can run code "
            "when loaded and is refused; save the pipeline again with safe_serialization=True"
        )
    raise ModelNotReady(f"{folder} has no weights: expected {stem}.safetensors or shards of it")


def _shards(index: Path) -> tuple[Path, ...]:
    try:
        names = sorted(set(json.loads(index.read_text("utf-8"))["weight_map"].values()))
    except (ValueError, KeyError, AttributeError, TypeError) as exc:
        raise ModelNotReady(f"{index} is not an index of shards: {exc}") from exc
    for name in names:
        # A name with a folder in it could point anywhere on this machine.
        if Path(name).name != name or not name.endswith(".safetensors"):
            raise ModelNotReady(f"{index} names {name!r}, not a safetensors file beside it")
        if not (index.parent / name).is_file():
            raise ModelNotReady(f"{index.parent / name} is missing; {index.name} lists it")
    return tuple(index.parent / name for name in names)


def read_header(path: Path) -> dict[str, StoredTensor]:
    """Returns every tensor of a safetensors file by name, after checking the header.

    Raises:
        ModelNotReady: the header is damaged or does not fit the file.
    """
    size = path.stat().st_size
    try:
        header, start = _parse_header(path, size)
        header.pop("__metadata__", None)
        return {name: _stored(path, name, entry, start, size) for name, entry in header.items()}
    except _DAMAGE as exc:
        raise _damaged(path, exc) from exc


def read_metadata(path: Path) -> dict[str, str]:
    """Returns what a safetensors file says about itself.

    Raises:
        ModelNotReady: the header is damaged.
    """
    try:
        header, _ = _parse_header(path, path.stat().st_size)
        return {str(k): str(v) for k, v in header.get("__metadata__", {}).items()}
    except _DAMAGE as exc:
        raise _damaged(path, exc) from exc


def _parse_header(path: Path, size: int) -> tuple[dict[str, Any], int]:
    """Returns the header and where the tensors start."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(_LENGTH_BYTES), "little")
        if not 2 <= length <= min(_MAX_HEADER_BYTES, size - _LENGTH_BYTES):
            raise ValueError(f"header of {length} bytes in a file of {size}")
        header: dict[str, Any] = json.loads(file.read(length))
    return header, _LENGTH_BYTES + length


def _damaged(path: Path, exc: Exception) -> ModelNotReady:
    return ModelNotReady(
        f"{path} is damaged ({type(exc).__name__}: {exc}); copy or download it again"
    )


def _stored(path: Path, name: str, entry: Mapping[str, Any], start: int, size: int) -> StoredTensor:
    dtype = str(entry["dtype"])
    if dtype not in _DTYPES:
        raise ValueError(f"{name} has dtype {dtype}, which is not supported")
    shape = tuple(int(n) for n in entry["shape"])
    first, last = (int(n) for n in entry["data_offsets"])
    expected = math.prod(shape) * _DTYPES[dtype].itemsize
    if min((*shape, first), default=0) < 0 or last - first != expected or start + last > size:
        raise ValueError(f"{name} lies outside the file")
    return StoredTensor(path, dtype, shape, start + first)


class WeightStore:
    """The tensors of one component, read on demand.

    Attributes:
        tensors: where each tensor lies, by its state-dict name.
    """

    def __init__(self, paths: tuple[Path, ...]) -> None:
        self.tensors: dict[str, StoredTensor] = {}
        for path in paths:
            self.tensors.update(read_header(path))

    def __contains__(self, name: object) -> bool:
        return name in self.tensors

    def read(self, name: str) -> NDArray[Any]:
        """Returns one tensor, floats as f32.

        Raises:
            KeyError: no tensor has this name.
        """
        return self.tensors[name].read()

    def items(self) -> Iterator[tuple[str, NDArray[Any]]]:
        """Yields every tensor with its name."""
        for name, stored in self.tensors.items():
            yield name, stored.read()
