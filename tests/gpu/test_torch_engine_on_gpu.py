"""The `torch` backend with our kernels on a GPU, against plain torch on the CPU. Never run."""

import numpy as np
import pytest
import torch
from random_models import make_random_model

from sangsang.services.runtime.engines.loading import load_engine
from sangsang.services.runtime.engines.torch_modules import load_module
from sangsang.services.runtime.models.folder import MODULE_NAMES, ModelFolder

pytestmark = pytest.mark.gpu


@pytest.mark.parametrize("module", MODULE_NAMES)
def test_a_module_gives_what_it_gives_on_the_cpu(tmp_path, module):
    folder = ModelFolder.open(make_random_model(tmp_path / "model", variant="sd15_like"))
    engine = load_engine(folder, module, backend="torch")
    random = np.random.default_rng(0)
    feeds = {
        spec.name: random.integers(0, 200, _shape(spec))
        if spec.dtype == np.int64
        else random.standard_normal(_shape(spec), dtype=np.float32)
        for spec in engine.inputs
    }
    (found,) = engine.infer(feeds).values()
    with torch.inference_mode():
        wanted = load_module(folder, module)(*(torch.from_numpy(a) for a in feeds.values()))
    np.testing.assert_allclose(found, wanted.numpy(), rtol=1e-3, atol=1e-3)


def _shape(spec):
    return [
        2 if axis == 0 else 16 if size is None else size for axis, size in enumerate(spec.shape)
    ]
