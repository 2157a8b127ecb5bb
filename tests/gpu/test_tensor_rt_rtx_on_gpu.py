"""Engines of TensorRT-RTX on a GPU of theirs: what they compute. Never run so far."""

from pathlib import Path

import numpy as np
import pytest
import torch

from sangsang.services.runtime.building.build import build_model
from sangsang.services.runtime.building.export import example_inputs
from sangsang.services.runtime.building.half_checking import TOLERANCE
from sangsang.services.runtime.engines.loading import load_engine
from sangsang.services.runtime.engines.tensor_rt_rtx import BACKEND, TARGETS
from sangsang.services.runtime.models.folder import MODULE_NAMES, ModelFolder

pytestmark = pytest.mark.gpu
POCKET = Path(__file__).parents[2] / "deploy" / "models" / "pocket"


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    # Asked before the fixture of conftest.py, which is of each test.
    if not torch.cuda.is_available():
        pytest.skip("no NVIDIA GPU that this build of torch can use")
    major, minor = torch.cuda.get_device_capability()
    device = f"sm_{major}{minor}"
    if device not in TARGETS:
        pytest.skip(f"TensorRT-RTX has no engines for {device}")
    place = tmp_path_factory.mktemp("cache")
    build_model(ModelFolder.open(POCKET), backend=BACKEND, cache_dir=place, devices=[device])
    return place


@pytest.mark.parametrize("module", MODULE_NAMES)
def test_an_engine_computes_what_onnx_runtime_does(cache, module):
    folder = ModelFolder.open(POCKET)
    engine = load_engine(folder, module, backend=BACKEND, cache=cache)
    reference = load_engine(folder, module)
    output = reference.outputs[0].name
    # More rows than one execution takes, and another shape after it.
    for rows, sides in ((11, (4, 4)), (2, (4, 6)), (1, (4, 4))):
        inputs = example_inputs(folder, module, rows, sides)
        if module == "unet":
            inputs["adapter_scale"] = np.linspace(0, 1, rows, dtype=np.float32)[:, None]
        expected, actual = reference.infer(inputs)[output], engine.infer(inputs)[output]
        most = max(1.0, float(np.abs(expected).max()))
        np.testing.assert_allclose(actual, expected, rtol=0, atol=TOLERANCE * most)
    engine.close()
