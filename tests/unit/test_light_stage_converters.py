"""Requests to the light stages: every bad field is named at once, and a good one passes."""

import numpy as np
import pytest
from hostile_pictures import encoded, noise_picture, png
from stage_fakes import fake_folder

from sangsang.services.postprocessing.converters import to_picture_request
from sangsang.services.preprocessing.converters import to_latent_request
from sangsang.services.preprocessing.pictures import PictureLimits
from sangsang.services.runtime.errors import InvalidRequest
from sangsang.services.runtime.tensors import to_proto
from sangsang.stages.v1alpha1 import postprocessing_service_pb2 as post
from sangsang.stages.v1alpha1 import preprocessing_service_pb2 as pre
from sangsang.stages.v1alpha1 import tensor_pb2

PICTURE = encoded(noise_picture(), "PNG")
LATENTS = to_proto(np.zeros((4, 4, 6), np.float32))


def read_latents(**fields):
    request = pre.PrepareLatentsRequest(**{"width_px": 32, "height_px": 48, "seed": 1, **fields})
    folder = fields.pop("folder", None) or fake_folder()
    return to_latent_request(request, folder=folder, max_side_px=1024, limits=PictureLimits())


def read_picture(**fields):
    request = post.DecodeLatentsRequest(
        **{"latents": LATENTS, "mime_type": "image/webp", "quality": 90, **fields}
    )
    return to_picture_request(request, folder=fake_folder(), max_side_px=1024)


def bad_fields(read, **fields):
    with pytest.raises(InvalidRequest) as caught:
        read(**fields)
    assert all(v.description for v in caught.value.violations)
    return [v.field for v in caught.value.violations]


def test_a_good_latent_request_passes():
    request = read_latents(seed=2**63 - 1, initial_image=PICTURE)
    assert (request.width_px, request.height_px, request.seed) == (32, 48, 2**63 - 1)
    assert request.initial_image == PICTURE


def test_a_latent_request_names_every_bad_field_at_once():
    fields = bad_fields(
        read_latents, width_px=7, height_px=100_000, seed=-1, initial_image=b"a text" * 100
    )
    assert fields == ["width_px", "height_px", "seed", "initial_image"]


@pytest.mark.parametrize("side", [0, -16, 8, 7, 17, 40, 1040, 100_000, 2**31 - 1, -(2**31)])
def test_sizes_are_held_to_the_models_multiple_and_the_limit(side):
    assert bad_fields(read_latents, width_px=side) == ["width_px"]
    assert bad_fields(read_latents, height_px=side) == ["height_px"]


@pytest.mark.parametrize(
    "content",
    [b"x", b"text " * 800_000, png(30000, 30000, b""), PICTURE[:20], b"\0" * (13 * 2**20)],
    ids=["letter", "4 MB of text", "30000x30000", "cut header", "13 MB"],
)
def test_a_bad_picture_is_named_with_its_limit(content):
    assert bad_fields(read_latents, initial_image=content) == ["initial_image"]


def test_noise_of_fewer_than_16_values_is_refused():
    # torch draws such in another way; no model of use is that small.
    tiny = fake_folder(size_multiple_px=8)
    request = pre.PrepareLatentsRequest(width_px=8, height_px=8)
    with pytest.raises(InvalidRequest, match="at least 16"):
        to_latent_request(request, folder=tiny, max_side_px=64, limits=PictureLimits())


def test_a_good_picture_request_passes():
    parameters = [post.GenerationParameter(name="prompt", value="고양이")]
    request = read_picture(parameters=parameters)
    assert request.latents.shape == (4, 4, 6)
    assert [(p.name, p.value) for p in request.parameters] == [("prompt", "고양이")]
    # PNG has no quality.
    assert read_picture(mime_type="image/png", quality=-5).mime_type == "image/png"


def test_a_picture_request_names_every_bad_field_at_once():
    fields = bad_fields(
        read_picture,
        latents=to_proto(np.zeros((3, 4, 6), np.float32)),
        mime_type="image/tiff",
        parameters=[
            post.GenerationParameter(name="Bad Name", value="x" * 9000),
            post.GenerationParameter(name="seed"),
            post.GenerationParameter(name="seed"),
        ],
    )
    assert fields == [
        "latents.shape",
        "mime_type",
        "parameters[0].name",
        "parameters",
        "parameters",
    ]


@pytest.mark.parametrize("quality", [0, -1, 101, 2**31 - 1])
@pytest.mark.parametrize("mime_type", ["image/jpeg", "image/webp", "image/avif"])
def test_quality_is_not_clamped(mime_type, quality):
    assert bad_fields(read_picture, mime_type=mime_type, quality=quality) == ["quality"]


@pytest.mark.parametrize(
    ("tensor", "field"),
    [
        (tensor_pb2.Tensor(), "latents.data_type"),
        (to_proto(np.zeros((4, 4, 4), np.float16)), "latents.data_type"),
        (to_proto(np.zeros((1, 4, 4, 4), np.float32)), "latents.shape"),
        (to_proto(np.zeros((4, 129, 1), np.float32)), "latents.shape"),
        (tensor_pb2.Tensor(data_type=1, shape=[4, 0, 4]), "latents.shape"),
        (tensor_pb2.Tensor(data_type=1, shape=[4, 2**31, 2**31]), "latents.data"),
        (tensor_pb2.Tensor(data_type=1, shape=[4, 2, 2], data=b"\0" * 63), "latents.data"),
    ],
)
def test_latents_of_another_form_are_refused(tensor, field):
    assert bad_fields(read_picture, latents=tensor) == [field]


def test_no_more_parameters_than_fit():
    many = [post.GenerationParameter(name=f"n{i}") for i in range(65)]
    assert bad_fields(read_picture, parameters=many) == ["parameters"]
    assert len(read_picture(parameters=many[:64]).parameters) == 64
