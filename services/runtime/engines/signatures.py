"""What goes into and comes out of each module of a Stable Diffusion model.

Every backend has these names and shapes, so a stage works with any of them. Sizes in `None` may
differ from call to call; the first is the batch.
"""

from dataclasses import dataclass

import numpy as np

from ..models.folder import ModelFolder, ModuleName
from .engine import TensorSpec

_F32 = np.dtype(np.float32)
_I64 = np.dtype(np.int64)


@dataclass(frozen=True, slots=True)
class Signature:
    """Inputs and outputs of one module.

    Attributes:
        inputs: in the graph's order.
        outputs: in the graph's order.
        side_multiple: what height and width of the pictured input must be multiples of.
    """

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    side_multiple: int = 1


def signature(folder: ModelFolder, module: ModuleName) -> Signature:
    """Returns the signature of a module.

    `text_encoder`: `input_ids` [B, L] -> `last_hidden_state` [B, L, W]
    `vae_encoder`: `sample` [B, 3, H, W] in [-1, 1] -> `moments` [B, 2*C, h, w]
    `unet`: `sample` [B, C, h, w], `timestep` [B], `encoder_hidden_states` [B, L, W]
        -> `out_sample` [B, C, h, w]
    `vae_decoder`: `latents` [B, C, h, w], unscaled -> `image` [B, 3, H, W], about [-1, 1]
    """
    channels, width = folder.latent_channels, folder.embedding_width
    latents = (None, channels, None, None)
    pixels = (None, 3, None, None)
    if module == "text_encoder":
        tokens = folder.token_limit
        return Signature(
            (TensorSpec("input_ids", _I64, (None, tokens), below=folder.vocabulary_size),),
            (TensorSpec("last_hidden_state", _F32, (None, tokens, width)),),
        )
    if module == "vae_encoder":
        return Signature(
            (TensorSpec("sample", _F32, pixels),),
            (TensorSpec("moments", _F32, (None, 2 * channels, None, None)),),
            side_multiple=folder.vae_scale,
        )
    if module == "unet":
        return Signature(
            (
                TensorSpec("sample", _F32, latents),
                TensorSpec("timestep", _F32, (None,)),
                TensorSpec("encoder_hidden_states", _F32, (None, None, width)),
            ),
            (TensorSpec("out_sample", _F32, latents),),
            side_multiple=folder.size_multiple_px // folder.vae_scale,
        )
    return Signature((TensorSpec("latents", _F32, latents),), (TensorSpec("image", _F32, pixels),))
