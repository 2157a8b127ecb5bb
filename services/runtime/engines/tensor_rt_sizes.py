"""The sizes that engines of TensorRT and TensorRT-RTX take: what a model lets a request ask for.

Such an engine is compiled for ranges of sizes ("optimisation profiles"). Pictures are those of the
manifest's limits, prompts those of the tokenizer.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import TypeAlias

from ..models.folder import ModelFolder, ModuleName
from ..models.manifest import Manifest
from .adapter_bank import AdapterBank
from .signatures import Signature, signature

# Least, usual and most of every dimension.
Sizes: TypeAlias = tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]
# The sizes of each input of a call, by its name.
Profile: TypeAlias = Mapping[str, Sizes]
_Range: TypeAlias = tuple[int, int, int]


def range_profile(
    folder: ModelFolder, module: ModuleName, bank: AdapterBank | None, rows: _Range
) -> Profile:
    """Returns one profile for all that a request may ask for.

    Args:
        folder: the model.
        module: which of its modules.
        bank: its adapters, if the module takes them.
        rows: least, usual and most rows of an execution.
    """
    return _profile(folder, module, bank, rows, _sides(folder, module))


def bucket_profiles(
    folder: ModelFolder, module: ModuleName, bank: AdapterBank | None, buckets: Sequence[int]
) -> tuple[Profile, ...]:
    """Returns the profiles of batches of certain sizes, narrow ones first.

    For each bucket there is one of the model's usual picture alone, which is compiled for exactly
    that, and one of all others.

    Args:
        folder: the model.
        module: which of its modules.
        bank: its adapters, if the module takes them.
        buckets: rows of an execution, ascending; fewer rows are padded.
    """
    ranges = _sides(folder, module)
    usual: list[_Range] = [(side, side, side) for _, side, _ in ranges]
    found: list[Profile] = []
    for rows in buckets:
        for sides in (usual, ranges):
            profile = _profile(folder, module, bank, (rows, rows, rows), sides)
            # A module without pictures, or a model of one size, has no others.
            if profile not in found:
                found.append(profile)
    return tuple(found)


def describe_sizes(profiles: Sequence[Profile], bank: AdapterBank | None) -> str:
    """Returns what a build's key says of its sizes; of the adapters it says their ranks."""
    found = [
        f"{name} {' '.join('x'.join(map(str, shape)) for shape in shapes)}"
        for profile in profiles
        for name, shapes in profile.items()
    ]
    if bank is not None:
        shapes = json.dumps(bank_shapes(bank), sort_keys=True).encode()
        found.append(f"adapters of the ranks {hashlib.sha256(shapes).hexdigest()}")
    return "; ".join(found)


def bank_shapes(bank: AdapterBank | None) -> dict[str, tuple[int, ...]]:
    """Returns the shape of each input that the adapters fill."""
    return {} if bank is None else {name: array.shape for name, array in bank.arrays.items()}


def signature_of(folder: ModelFolder, module: ModuleName, bank: AdapterBank | None) -> Signature:
    """Returns what a call takes and gives; the adapters' matrices are the engine's own."""
    plain = signature(folder, module)
    return plain if bank is None else bank.signature(plain)


def _profile(
    folder: ModelFolder,
    module: ModuleName,
    bank: AdapterBank | None,
    rows: _Range,
    sides: Sequence[_Range],
) -> dict[str, Sizes]:
    free = {0: rows, 1: (folder.token_limit,) * 3, 2: sides[0], 3: sides[1]}
    found: dict[str, Sizes] = {}
    for spec in signature_of(folder, module, bank).inputs:
        least, usual, most = (
            tuple(free[axis][i] if size is None else size for axis, size in enumerate(spec.shape))
            for i in range(3)
        )
        found[spec.name] = least, usual, most
    return found


def _sides(folder: ModelFolder, module: ModuleName) -> list[_Range]:
    """Least, usual and most height and width of the module's picture, in its own units."""
    limits = Manifest.read(folder).limits
    pixels = 1 if module == "vae_encoder" else folder.vae_scale
    usual = folder.default_height_px, folder.default_width_px
    found: list[_Range] = []
    for side, range_ in zip(usual, (limits.height_px, limits.width_px), strict=True):
        within = min(max(side, range_.min), range_.max)
        found.append((range_.min // pixels, within // pixels, range_.max // pixels))
    return found
