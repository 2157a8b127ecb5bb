"""Low-rank adapters (LoRA) of a UNet, read from the file that diffusers saves.

Read with numpy alone, and checked against the UNet layer by layer, so that serving an adapter
needs neither torch nor peft. What diffusers would load differently is refused rather than guessed.
"""

import json
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from ..errors import ModelNotReady
from .folder import ModelFolder
from .manifest import ADAPTER_FILE_NAME, Manifest
from .weights import StoredTensor, WeightStore, read_header, read_metadata

Array = NDArray[np.float32]

_PREFIX = "unet."
_METADATA_NAME = "lora_adapter_metadata"
# peft's names, and diffusers' older ones.
_DOWN_ENDS = (".lora_A.weight", ".lora.down.weight")
_UP_ENDS = (".lora_B.weight", ".lora.up.weight")
# The largest f16. Rows of other adapters pass through an adapter's matrices before their scale of
# 0 takes the product out again, which an overflow would turn into NaN.
_MAX_ABSOLUTE = 65504.0


@dataclass(frozen=True, slots=True, eq=False)
class LowRank:
    """What an adapter adds to one layer: `up @ down`.

    Attributes:
        down: `[rank, in]` of a linear layer, `[rank, in, k, k]` of a convolution, f32.
        up: `[out, rank]` or `[out, rank, 1, 1]`, f32; the adapter's own scale is in it.
    """

    down: Array
    up: Array

    @property
    def rank(self) -> int:
        """Columns that it takes in a bank."""
        return self.down.shape[0]


@dataclass(frozen=True, slots=True)
class Adapter:
    """One adapter: what it adds to each layer, by the layer's name in the UNet."""

    name: str
    layers: Mapping[str, LowRank]


@dataclass(frozen=True, slots=True)
class _Pair:
    """Where the two matrices of a layer lie."""

    down: StoredTensor
    up: StoredTensor


def read_adapters(folder: ModelFolder) -> tuple[Adapter, ...]:
    """Returns the adapters that a model's manifest names, in its order.

    Raises:
        ModelNotReady: a file is damaged, or does not fit the UNet; the message names the layer.
    """
    store = folder.weights("unet")
    return tuple(
        read_adapter(folder.path / path / ADAPTER_FILE_NAME, name, store)
        for name, path in _adapter_paths(folder)
    )


def adapted_layers(folder: ModelFolder) -> tuple[str, ...]:
    """Returns the layers of the UNet that any adapter of the model changes, sorted.

    Reads headers only: this decides the graph that is built, what the matrices hold does not.

    Raises:
        ModelNotReady: see `read_adapters`.
    """
    store = folder.weights("unet")
    files = (folder.path / path / ADAPTER_FILE_NAME for _, path in _adapter_paths(folder))
    return tuple(sorted({layer for file in files for layer in _checked_pairs(file, store)}))


def read_adapter(file: Path, name: str, store: WeightStore) -> Adapter:
    """Returns one adapter.

    Args:
        file: what `StableDiffusionPipeline.save_lora_weights` wrote.
        name: what to call it.
        store: weights of the UNet that it was made for.

    Raises:
        ModelNotReady: it is damaged, or does not fit the UNet; the message names the layer.
    """
    config = _read_config(file)
    layers = {
        layer: _read_layer(file, layer, pair, config)
        for layer, pair in _checked_pairs(file, store).items()
    }
    return Adapter(name, layers)


def _adapter_paths(folder: ModelFolder) -> Iterable[tuple[str, str]]:
    # Adapters are made for the model's own UNet; a second one stands for itself.
    return Manifest.read(folder).adapters.items() if folder.unet_name == "unet" else ()


def _read_layer(file: Path, layer: str, pair: _Pair, config: Mapping[str, Any]) -> LowRank:
    down, up = pair.down.read(), pair.up.read()
    try:
        scale = np.float32(_scale(config, layer, down.shape[0]))
    except (ValueError, TypeError, AttributeError, re.error) as exc:
        raise ModelNotReady(f"{file}: the scale of {layer} is not a number: {exc}") from exc
    scaled = LowRank(np.asarray(down, np.float32), np.asarray(up, np.float32) * scale)
    for matrix in (scaled.down, scaled.up):
        # NaN compares false.
        if not np.abs(matrix).max() <= _MAX_ABSOLUTE:
            raise ModelNotReady(f"{file}: {layer} has values that are not finite or beyond f16")
    return scaled


def _scale(config: Mapping[str, Any], layer: str, rank: int) -> float:
    """Returns what peft multiplies the product of the two matrices by."""
    if not config:
        # diffusers takes a file without a configuration for one whose alpha is its rank.
        return 1.0
    alpha = _by_pattern(config.get("alpha_pattern") or {}, layer, config.get("lora_alpha", 8))
    return float(alpha) / (math.sqrt(rank) if config.get("use_rslora") else rank)


def _by_pattern(patterns: Mapping[str, Any], layer: str, default: Any) -> Any:
    """Returns the first pattern's value that matches a layer, as peft looks it up."""
    for pattern, value in patterns.items():
        if re.match(rf"(.*\.)?({pattern})$", layer):
            return value
    return default


def _read_config(file: Path) -> Mapping[str, Any]:
    """Returns peft's configuration of the UNet's adapter; empty when the file has none."""
    raw = read_metadata(file).get(_METADATA_NAME)
    if raw is None:
        return {}
    try:
        entries = cast(Mapping[str, Any], json.loads(raw))
        config = {k.removeprefix(_PREFIX): v for k, v in entries.items() if k.startswith(_PREFIX)}
    except (ValueError, AttributeError) as exc:
        raise ModelNotReady(f"{file}: {_METADATA_NAME} is not a JSON object: {exc}") from exc
    for field in ("use_dora", "lora_bias"):
        if config.get(field):
            raise ModelNotReady(f"{file}: an adapter with {field} is not served")
    return config


def _checked_pairs(file: Path, store: WeightStore) -> dict[str, _Pair]:
    """Returns the two matrices of each layer, their shapes those that the UNet's layers need."""
    pairs = _find_pairs(file)
    for layer, pair in pairs.items():
        weight = store.tensors.get(f"{layer}.weight")
        if weight is None:
            raise ModelNotReady(f"{file}: the UNet has no layer {layer}")
        rank = pair.down.shape[0]
        ones = (1,) * (len(weight.shape) - 2)
        expected = ((rank, *weight.shape[1:]), (weight.shape[0], rank, *ones))
        if rank < 1 or (pair.down.shape, pair.up.shape) != expected:
            raise ModelNotReady(
                f"{file}: {layer} has matrices of {list(pair.down.shape)} and "
                f"{list(pair.up.shape)}, which do not fit a weight of {list(weight.shape)}"
            )
    return pairs


def _find_pairs(file: Path) -> dict[str, _Pair]:
    tensors = read_header(file)
    _check_names(file, tensors)
    downs = dict(_by_layer(tensors, _DOWN_ENDS))
    ups = dict(_by_layer(tensors, _UP_ENDS))
    lonely = sorted(downs.keys() ^ ups.keys())
    if lonely or not downs:
        raise ModelNotReady(f"{file}: {', '.join(lonely[:3]) or 'every layer'} lacks a matrix")
    return {layer: _Pair(downs[layer], ups[layer]) for layer in sorted(downs)}


def _by_layer(
    tensors: Mapping[str, StoredTensor], ends: tuple[str, ...]
) -> Iterable[tuple[str, StoredTensor]]:
    for name, tensor in tensors.items():
        for end in ends:
            if name.endswith(end):
                yield name.removeprefix(_PREFIX).removesuffix(end), tensor


def _check_names(file: Path, tensors: Mapping[str, StoredTensor]) -> None:
    ends = (*_DOWN_ENDS, *_UP_ENDS)
    for name in tensors:
        if not (name.startswith(_PREFIX) and name.endswith(ends)):
            raise ModelNotReady(
                f"{file}: {name} is not a matrix of a UNet's LoRA under diffusers' names"
            )
    # diffusers looks at the first name alone to decide whether to translate the older ones, and
    # drops those that it then does not know, with no more than a warning.
    first = min(tensors, key=lambda name: tensors[name].offset_bytes, default="")
    old = next((name for name in tensors if ".lora." in name), None)
    if old is not None and ".lora_A" in first:
        raise ModelNotReady(
            f"{file} mixes names ({old} beside {first}), of which diffusers drops the older ones "
            "when it loads them; save get_peft_model_state_dict(unet) as it is, without "
            "convert_state_dict_to_diffusers"
        )
