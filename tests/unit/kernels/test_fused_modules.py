"""Our kernels in diffusers' modules: what is put in, what is left, and that pictures stay the same.

Each operation runs its reference here, and in one test Triton's interpreter; what a GPU makes of it
is `tests/gpu`.
"""

import copy

import pytest
import torch
from diffusers.models.attention_processor import Attention
from other_weights import add_adapter, write_manifest
from random_models import make_random_model

from sangsang.services.runtime.engines.adapter_bank import open_bank
from sangsang.services.runtime.engines.fused_modules import FusedAttnProcessor, fuse
from sangsang.services.runtime.engines.torch_modules import AdaptedUnet, load_module
from sangsang.services.runtime.models.folder import ModelFolder

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")

CLOSE = {"rtol": 1e-5, "atol": 1e-5}


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    path = make_random_model(tmp_path_factory.mktemp("models") / "tiny")
    add_adapter(path)
    write_manifest(path, weights={"student": {"adapter": "adapters/student"}})
    return ModelFolder.open(path)


@pytest.fixture(scope="module")
def sd15_like(tmp_path_factory):
    path = tmp_path_factory.mktemp("models") / "sd15"
    return ModelFolder.open(make_random_model(path, variant="sd15_like"))


def inputs_of(folder, module):
    random = torch.Generator().manual_seed(3)
    if module == "text_encoder":
        return (torch.randint(0, 200, (2, folder.token_limit), generator=random),)
    if module == "vae_encoder":
        return (torch.rand(2, 3, 16, 24, generator=random) * 2 - 1,)
    latents = torch.randn(2, folder.latent_channels, 8, 16, generator=random)
    if module == "vae_decoder":
        return (latents,)
    context = torch.randn(2, folder.token_limit, folder.embedding_width, generator=random)
    return latents, torch.tensor([3.0, 700.0]), context


# One transformer block has three norms, two attentions and a GEGLU; an autoencoder one attention in
# the middle of each half; a residual block two norms, and one SiLU for the time embedding.
TINY = {
    # 2 blocks down, 2 in the middle, 2 x 2 up; transformers: 1 down, 1 in the middle, 2 up.
    "unet": {"group_norm_silu": 17, "silu": 8, "attention": 8, "layer_norm": 12, "geglu": 4},
    "vae_encoder": {"group_norm_silu": 9, "attention": 1},
    "vae_decoder": {"group_norm_silu": 13, "attention": 1},
    # Two layers with two norms each, and the last one; its attention is transformers' own.
    "text_encoder": {"layer_norm": 5},
}
SD15_LIKE = {
    # 4 x 2 blocks down, 2 in the middle, 4 x 3 up; transformers: 3 x 2 down, 1, 3 x 3 up.
    "unet": {"group_norm_silu": 45, "silu": 22, "attention": 32, "layer_norm": 48, "geglu": 16},
}


@pytest.mark.parametrize(
    ("name", "module"),
    [*(("tiny", module) for module in TINY), *(("sd15_like", module) for module in SD15_LIKE)],
)
def test_a_fused_module_has_its_operations_and_computes_the_same(request, name, module):
    folder = request.getfixturevalue(name)
    plain = load_module(folder, module)
    fused = copy.deepcopy(plain)
    counts = {operation: count for operation, count in fuse(fused).items() if count}
    assert counts == {"tiny": TINY, "sd15_like": SD15_LIKE}[name][module]
    assert fused.state_dict().keys() == plain.state_dict().keys()
    inputs = inputs_of(folder, module)
    with torch.inference_mode():
        torch.testing.assert_close(fused(*inputs), plain(*inputs), **CLOSE)


@pytest.mark.usefixtures("interpreted")
def test_kernels_in_place_compute_what_diffusers_does(tiny):
    plain = load_module(tiny, "unet")
    fused = copy.deepcopy(plain)
    fuse(fused)
    inputs = inputs_of(tiny, "unet")
    with torch.inference_mode():
        torch.testing.assert_close(fused(*inputs), plain(*inputs), rtol=1e-4, atol=1e-4)


def test_adapters_find_their_layers_in_a_fused_unet(tiny):
    bank = open_bank(tiny)
    plain, fused = load_module(tiny, "unet"), load_module(tiny, "unet")
    fuse(fused)
    inputs = inputs_of(tiny, "unet")
    scales = torch.tensor([[1.0], [0.0]])
    with torch.inference_mode():
        without = fused(*inputs)
        wanted = AdaptedUnet(plain, bank)(*inputs, scales)
        found = AdaptedUnet(fused, bank)(*inputs, scales)
    torch.testing.assert_close(found, wanted, **CLOSE)
    assert (found[0] - without[0]).abs().max() > 1e-3


def test_a_norm_that_is_scaled_before_its_activation_is_left_alone(tmp_path):
    unet = {"resnet_time_scale_shift": "scale_shift"}
    folder = ModelFolder.open(make_random_model(tmp_path / "shifted", unet=unet))
    plain = load_module(folder, "unet")
    fused = copy.deepcopy(plain)
    # Only the norm at the UNet's end is followed by its activation at once.
    assert fuse(fused)["group_norm_silu"] == 1
    inputs = inputs_of(folder, "unet")
    with torch.inference_mode():
        torch.testing.assert_close(fused(*inputs), plain(*inputs), **CLOSE)


@pytest.mark.parametrize("masked", [False, True])
def test_attention_with_a_mask_is_diffusers_own(masked):
    plain = Attention(query_dim=24, heads=3, dim_head=8, cross_attention_dim=16).eval()
    fused = copy.deepcopy(plain)
    fused.set_processor(FusedAttnProcessor())
    x, context = torch.randn(2, 5, 24), torch.randn(2, 7, 16)
    mask = torch.zeros(2, 1, 7).index_fill_(2, torch.tensor([5, 6]), -1e4) if masked else None
    with torch.inference_mode():
        found, wanted = fused(x, context, mask), plain(x, context, mask)
        torch.testing.assert_close(found, wanted, **CLOSE)


def test_attention_that_normalises_its_queries_is_left_alone():
    block = torch.nn.ModuleList(
        [Attention(query_dim=24, heads=3, dim_head=8, qk_norm="layer_norm")]
    )
    assert fuse(block)["attention"] == 0
