"""Preview maps: fitted, stored, drawn."""

import numpy as np
import pytest

from sangsang.services.runtime.building.preview import fit_preview
from sangsang.services.runtime.errors import ModelNotReady
from sangsang.services.runtime.models.preview_map import PreviewMap


def linear_decoder(matrix, bias, scale=4):
    def decode(latents):
        colours = np.einsum("nchw,cr->nrhw", latents, matrix) + bias[:, None, None]
        return colours.repeat(scale, axis=2).repeat(scale, axis=3)

    return decode


def test_a_linear_decoder_is_found_again():
    random = np.random.default_rng(0)
    matrix, bias = random.uniform(-0.05, 0.05, (4, 3)), random.uniform(-0.2, 0.2, 3)
    fitted = fit_preview(linear_decoder(matrix, bias), 4)
    np.testing.assert_allclose(fitted.matrix, matrix, atol=1e-5)
    np.testing.assert_allclose(fitted.bias, bias, atol=1e-5)
    assert fitted.matrix.dtype == fitted.bias.dtype == np.float32


def test_rendering_clips_to_colours():
    preview = PreviewMap(np.eye(3, dtype=np.float32), np.zeros(3, np.float32))
    latents = np.zeros((3, 1, 2), np.float32)
    latents[:, 0, 0] = -5, 0, 5
    picture = preview.render(latents)
    assert picture.dtype == np.uint8
    assert picture.shape == (1, 2, 3)
    assert picture[0, 0].tolist() == [0, 128, 255]


def test_maps_are_stored(tmp_path):
    preview = PreviewMap(np.full((4, 3), 0.5, np.float32), np.ones(3, np.float32))
    preview.save(tmp_path / "preview.npz")
    loaded = PreviewMap.load(tmp_path / "preview.npz")
    np.testing.assert_array_equal(loaded.matrix, preview.matrix)
    np.testing.assert_array_equal(loaded.bias, preview.bias)


@pytest.mark.parametrize("content", [None, b"", b"PK\x03\x04"])
def test_damaged_maps_are_named(tmp_path, content):
    path = tmp_path / "preview.npz"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ModelNotReady, match="build again"):
        PreviewMap.load(path)
