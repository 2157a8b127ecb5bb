"""Our kernels in the modules of diffusers: what the `torch` backend runs on a GPU.

Each operation falls back to its reference in plain torch where its kernel cannot run, so a fused
module computes the same anywhere. What is not recognised stays as it was. Names of weights and of
submodules stay too: adapters find their layers.
"""

from collections import Counter
from typing import Any

from diffusers.models.activations import GEGLU
from diffusers.models.attention_processor import Attention, AttnProcessor2_0
from diffusers.models.resnet import ResnetBlock2D
from torch import Tensor, nn

from ....kernels.attention import attention
from ....kernels.geglu import geglu
from ....kernels.group_norm_silu import group_norm_silu
from ....kernels.layer_norm import layer_norm
from ....kernels.silu import silu

_PICTURE_DIMENSIONS = 4


def fuse(module: nn.Module) -> Counter[str]:
    """Puts the kernels into a module, in place.

    Returns:
        How often each operation was put in, by its name.
    """
    counts: Counter[str] = Counter()
    for part in list(module.modules()):
        counts.update(_fuse_part(part))
    for parent in list(module.modules()):
        for name, child in list(parent.named_children()):
            fused = _fused(child)
            if fused is not None:
                setattr(parent, name, fused)
                counts[fused.operation] += 1
    return counts


class FusedGeglu(nn.Module):
    """diffusers' GEGLU: projection, then one pass for the split, the GELU and the product."""

    operation = "geglu"

    def __init__(self, module: GEGLU) -> None:
        super().__init__()
        self.proj = module.proj

    def forward(self, hidden_states: Tensor) -> Tensor:
        """Returns [..., width] for [..., channels]."""
        return geglu(self.proj(hidden_states))


class FusedLayerNorm(nn.Module):
    """LayerNorm over the last dimension, with scale and shift."""

    operation = "layer_norm"

    def __init__(self, module: nn.LayerNorm) -> None:
        super().__init__()
        self.weight, self.bias, self.eps = module.weight, module.bias, module.eps

    def forward(self, hidden_states: Tensor) -> Tensor:
        """Returns the shape that it takes, [..., width]."""
        return layer_norm(hidden_states, self.weight, self.bias, epsilon=self.eps)


class FusedGroupNormSilu(nn.Module):
    """GroupNorm and the SiLU behind it."""

    operation = "group_norm_silu"

    def __init__(self, module: nn.GroupNorm) -> None:
        super().__init__()
        self.weight, self.bias, self.eps = module.weight, module.bias, module.eps
        self.num_groups = module.num_groups

    def forward(self, hidden_states: Tensor) -> Tensor:
        """Returns the shape that it takes, [batch, channels, height, width]."""
        return group_norm_silu(
            hidden_states,
            self.weight,
            self.bias,
            group_count=self.num_groups,
            epsilon=self.eps,
        )


class TimeEmbeddingSilu(nn.Module):
    """The activation of a residual block whose norms have theirs: left for the time embedding."""

    operation = "silu"

    def forward(self, hidden_states: Tensor) -> Tensor:
        """Returns pictures as they are, and the SiLU of time embeddings, [batch, channels]."""
        return hidden_states if hidden_states.ndim == _PICTURE_DIMENSIONS else silu(hidden_states)


class FusedAttnProcessor:
    """diffusers' `AttnProcessor2_0` around our attention; with a mask, that processor itself."""

    def __init__(self) -> None:
        self._masked = AttnProcessor2_0()

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        temb: Tensor | None = None,
    ) -> Tensor:
        """Returns the shape of `hidden_states`, [batch, tokens, width] or a picture's."""
        if attention_mask is not None:
            return self._masked(attn, hidden_states, encoder_hidden_states, attention_mask, temb)
        tokens = hidden_states
        if hidden_states.ndim == _PICTURE_DIMENSIONS:
            tokens = hidden_states.flatten(2).transpose(1, 2)
        if attn.group_norm is not None:
            tokens = attn.group_norm(tokens.transpose(1, 2)).transpose(1, 2)
        context = tokens if encoder_hidden_states is None else encoder_hidden_states
        heads = (
            projection.unflatten(-1, (attn.heads, -1)).transpose(1, 2)
            for projection in (attn.to_q(tokens), attn.to_k(context), attn.to_v(context))
        )
        out = attention(*heads, scale=attn.scale).transpose(1, 2).flatten(2)
        out = attn.to_out[1](attn.to_out[0](out))
        if hidden_states.ndim == _PICTURE_DIMENSIONS:
            out = out.transpose(1, 2).reshape(hidden_states.shape)
        if attn.residual_connection:
            out = out + hidden_states
        return out / attn.rescale_output_factor


def _fuse_part(part: Any) -> Counter[str]:
    """Changes a module whose children only make sense together."""
    if isinstance(part, Attention):
        return _fuse_attention(part)
    if isinstance(part, ResnetBlock2D):
        return _fuse_residual_block(part)
    return _fuse_end(part)


def _fuse_attention(attn: Any) -> Counter[str]:
    # Only softmax(QK^T)V of plain projections.
    extra = (attn.spatial_norm, attn.norm_q, attn.norm_k, attn.norm_cross)
    if not isinstance(attn.processor, AttnProcessor2_0) or any(extra):
        return Counter()
    attn.set_processor(FusedAttnProcessor())
    return Counter(attention=1)


def _fuse_residual_block(block: Any) -> Counter[str]:
    # `scale_shift` puts the time embedding between the second norm and its activation.
    apart = block.time_embedding_norm == "scale_shift"
    norms = _is_affine(block.norm1) and _is_affine(block.norm2)
    if apart or not norms or not isinstance(block.nonlinearity, nn.SiLU):
        return Counter()
    block.norm1, block.norm2 = FusedGroupNormSilu(block.norm1), FusedGroupNormSilu(block.norm2)
    block.nonlinearity = TimeEmbeddingSilu()
    return Counter(group_norm_silu=2, silu=int(block.time_emb_proj is not None))


def _fuse_end(part: Any) -> Counter[str]:
    """Changes the last norm of a UNet, or of either half of an autoencoder."""
    norm, activation = getattr(part, "conv_norm_out", None), getattr(part, "conv_act", None)
    if norm is None or not _is_affine(norm) or not isinstance(activation, nn.SiLU):
        return Counter()
    part.conv_norm_out, part.conv_act = FusedGroupNormSilu(norm), nn.Identity()
    return Counter(group_norm_silu=1)


def _fused(child: nn.Module) -> Any:
    if isinstance(child, GEGLU):
        return FusedGeglu(child)
    if isinstance(child, nn.LayerNorm) and _rows_alone(child):
        return FusedLayerNorm(child)
    return None


def _rows_alone(norm: nn.LayerNorm) -> bool:
    affine = norm.weight is not None and norm.bias is not None
    return len(norm.normalized_shape) == 1 and affine


def _is_affine(norm: Any) -> bool:
    return isinstance(norm, nn.GroupNorm) and norm.affine
