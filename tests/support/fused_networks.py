"""Narrow random networks of known structure, their plain graphs, and both graphs run.

What a network must fuse to is derived here from its configuration alone: a layer that diffusers
adds or that the pass overlooks changes a count.
"""

import math
from collections import Counter

import numpy as np
import torch
from random_models import _perturb

from sangsang.services.runtime.building.export import export_at
from sangsang.services.runtime.building.traffic.networks import SdxlUnet
from sangsang.services.runtime.engines.onnx_runtime_import import ort
from sangsang.services.runtime.engines.torch_modules import Unet

PLAIN = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
OPTIMISED = ort.GraphOptimizationLevel.ORT_ENABLE_ALL

SD15 = {
    "sample_size": 8,
    "block_out_channels": (8, 16, 16, 16),
    "layers_per_block": 2,
    "attention_head_dim": 2,
    "norm_num_groups": 4,
    "cross_attention_dim": 8,
    "down_block_types": ("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
    "up_block_types": ("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3,
}
# SDXL's own depths are (1, 2, 10), which make the graph four times as long and no other.
SDXL = {
    "sample_size": 8,
    "block_out_channels": (8, 16, 16),
    "layers_per_block": 2,
    "attention_head_dim": (2, 2, 4),
    "norm_num_groups": 4,
    "cross_attention_dim": 8,
    "down_block_types": ("DownBlock2D",) + ("CrossAttnDownBlock2D",) * 2,
    "up_block_types": ("CrossAttnUpBlock2D",) * 2 + ("UpBlock2D",),
    "transformer_layers_per_block": (1, 1, 2),
    "use_linear_projection": True,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 4,
    "projection_class_embeddings_input_dim": 4 * 6 + 8,
}


def unet_counts(config):
    """Fused nodes of a `UNet2DConditionModel`."""
    levels, layers = len(config["block_out_channels"]), config["layers_per_block"]
    depths = config.get("transformer_layers_per_block", 1)
    depths = (depths,) * levels if isinstance(depths, int) else tuple(depths)
    # Resnets and transformers of each block: going up, each block has one more.
    down, up = config["down_block_types"], config["up_block_types"]
    resnets = levels * layers + levels * (layers + 1) + 2
    attending = [layers * ("CrossAttn" in kind) for kind in down]
    attending += [(layers + 1) * ("CrossAttn" in kind) for kind in up]
    transformers = sum(attending) + 1
    blocks = sum(map(math.prod, zip(attending, (*depths, *depths[::-1]), strict=True))) + depths[-1]
    # The second norm of a resnet is followed by SiLU only where the time is added before it.
    shifted = config.get("resnet_time_scale_shift") == "scale_shift"
    pooled = config.get("addition_embed_type") == "text"
    with_time = config.get("addition_embed_type") == "text_time"
    return {
        "Geglu": blocks,
        "GroupNorm": transformers + resnets * shifted,
        "GroupNormSilu": resnets * (1 if shifted else 2) + 1,
        "LayerNorm": 3 * blocks + 2 * pooled,
        "ScaledAttention": 2 * blocks,
        # Between the layers of the time's embedding, and of the embedding itself, once for all.
        "Silu": 2 + with_time + resnets * shifted,
    }


def vae_counts(config, part):
    """Fused nodes of half of an `AutoencoderKL`."""
    levels, layers = len(config["block_out_channels"]), config["layers_per_block"]
    resnets = 2 + levels * (layers + 1 if part == "vae_decoder" else layers)
    attends = int(config.get("mid_block_add_attention", True))
    counts = {"GroupNormSilu": 2 * resnets + 1, "GroupNorm": attends, "ScaledAttention": attends}
    return {name: count for name, count in counts.items() if count}


def text_counts(config):
    """Fused nodes of a `CLIPTextModel`."""
    layers = config["num_hidden_layers"]
    counts = {"LayerNorm": 2 * layers + 1, "MaskedAttention": layers}
    return counts | ({"ExactGelu": layers} if config["hidden_act"] == "gelu" else {})


def random_unet(config):
    """A plain graph, and what to feed it: the inputs and the weights."""
    from diffusers import UNet2DConditionModel

    with torch.random.fork_rng():
        torch.manual_seed(0)
        with_sizes = config.get("addition_embed_type") == "text_time"
        wrapper = SdxlUnet if with_sizes else Unet
        network = wrapper(UNet2DConditionModel(**config)).eval()
        _perturb(network)
        inputs = {
            "sample": torch.randn(2, 4, 8, 16),
            "timestep": torch.tensor([3.0, 700.0]),
            "encoder_hidden_states": torch.randn(2, 5, 8),
        }
        if with_sizes:
            inputs |= {"pooled": torch.randn(2, 8), "sizes": torch.rand(2, 6) * 1024}
    model, names = export_at(network, inputs, "out_sample")
    state = network.state_dict()
    feeds = {**inputs, **{name: state[name] for name in names}}
    return model, {name: value.numpy() for name, value in feeds.items()}


def run(content, feeds, weights=None, level=PLAIN):
    """The first output of a graph on one thread of ONNX Runtime, without any plugin."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.graph_optimization_level = level
    values = {
        name: ort.OrtValue.ortvalue_from_numpy(value) for name, value in (weights or {}).items()
    }
    options.add_external_initializers(list(values), list(values.values()))
    session = ort.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    taken = {value.name for value in session.get_inputs()}
    return session.run(None, {name: value for name, value in feeds.items() if name in taken})[0]


def assert_same(plain, fused, feeds, weights=None):
    """The same bits operator by operator; with ONNX Runtime's own fusions the last bits differ."""
    expected = run(plain, feeds, weights)
    assert np.isfinite(expected).all()
    assert expected.std() > 0
    np.testing.assert_array_equal(run(fused, feeds, weights), expected)
    expected = run(plain, feeds, weights, OPTIMISED)
    difference = np.abs(run(fused, feeds, weights, OPTIMISED) - expected).max()
    assert difference <= 1e-6 * max(1.0, np.abs(expected).max())


def standard_counts(graph):
    """Nodes by operator, of the standard domain."""
    return Counter(node.op_type for node in graph if not node.domain)
