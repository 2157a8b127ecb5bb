"""A machine with a scripted TensorRT and a scripted GPU, and the shipped model's engines on it."""

import os
import sys
from pathlib import Path

import numpy as np
from host_device import GPU, HostDevice

from sangsang.services.runtime.building.engine_builds import build_engines
from sangsang.services.runtime.building.half_checking import TOLERANCE
from sangsang.services.runtime.building.reports import BuildPlace
from sangsang.services.runtime.engines import execution_lane, tensor_rt
from sangsang.services.runtime.engines.adapter_bank import open_bank
from sangsang.services.runtime.engines.loading import load_engine
from sangsang.services.runtime.engines.tensor_rt import BACKEND, build_key

SUPPORT = Path(__file__).parent
SCRIPTED = SUPPORT / "scripted_tensorrt"
POCKET = Path(__file__).parents[2] / "deploy" / "models" / "pocket"
GRAPHS = POCKET / "engines" / "onnxruntime"


class Machine:
    """A machine with the scripted TensorRT and a GPU whose memory is the CPU's."""

    def __init__(self, patch):
        self._patch = patch
        patch.syspath_prepend(SCRIPTED)
        paths = os.pathsep.join([str(SCRIPTED), str(SUPPORT)])
        patch.setenv("PYTHONPATH", paths)
        self.device = HostDevice()
        patch.setattr(execution_lane, "CudaDevice", lambda: self.device)
        patch.setattr(tensor_rt, "CudaDevice", lambda: self.device)
        self.change("")

    def change(self, settings):
        """Starts it anew with other settings; see the scripted module."""
        forget()
        self._patch.setenv("SCRIPTED_TENSORRT", settings)
        import tensorrt

        self.tensorrt = sys.modules["tensorrt"]
        assert self.tensorrt is not tensorrt or tensorrt.CALLS == []

    @property
    def calls(self):
        return self.tensorrt.CALLS


def forget():
    for name in [one for one in sys.modules if one.split(".")[0] == "tensorrt"]:
        del sys.modules[name]


def key(folder, module):
    return build_key(folder, module, GPU, open_bank(folder) if module == "unet" else None)


def build_one(folder, module, cache):
    """The report of one module."""
    place = BuildPlace(cache)
    devices, graph = [GPU.describe()], GRAPHS / module
    [report] = build_engines(BACKEND, folder, module, graph, place, cache, devices, lambda _: None)
    return report


def load(folder, module, cache, lane=None):
    return load_engine(folder, module, backend=BACKEND, cache=cache, lane=lane)


def assert_near(engine, folder, module, call):
    reference = load_engine(folder, module)
    name = reference.outputs[0].name
    expected, actual = reference.infer(call)[name], engine.infer(call)[name]
    assert actual.shape == expected.shape
    most = max(1.0, float(np.abs(expected).max()))
    np.testing.assert_allclose(actual, expected, rtol=0, atol=TOLERANCE * most)


def decoder_call(folder, rows, side=8, seed=0):
    shape = (rows, folder.latent_channels, side, side)
    return {"latents": np.random.default_rng(seed).standard_normal(shape, dtype=np.float32)}
