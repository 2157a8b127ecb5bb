"""Engines that hold a device for as long as a profile says, and compute next to nothing.

With them a machine without GPUs serves as many as it likes, over real wires, through the real
scheduler. What comes out has the right shape, and each row of it follows from the row's own inputs
alone. A model's default picture stands for the picture of the profile: `pocket`'s 64x64 take as
long as Stable Diffusion's 512x512, and other sizes in proportion to their pixels.
"""

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np

from ..errors import ModelNotReady, StageFailed
from ..models.folder import ModelFolder, ModuleName
from .adapter_bank import AdapterBank
from .engine import Array, TensorSpec
from .signatures import signature
from .timed_device import SharingRates, TimedDevice, device_path, read_rates
from .timing import Timing
from .validation import check_inputs

BACKEND = "timed"
# So many values of each input, evenly spread, decide what comes out.
_PROBE_COUNT = 8


@dataclass(frozen=True, slots=True)
class TimedProfile:
    """How long a device takes for what.

    Attributes:
        device: what was measured, in words.
        precision: of the computation that was measured.
        seconds: of one execution alone, by module and rows, for a picture of the default size.
        rates: how executions at the same time share the device.
    """

    device: str
    precision: str
    seconds: Mapping[str, Mapping[int, float]]
    rates: SharingRates

    @classmethod
    def read(cls, path: Path) -> "TimedProfile":
        """Returns the profile in a file.

        Raises:
            ModelNotReady: it cannot be read, or says nothing sensible.
        """
        try:
            fields = cast(dict[str, Any], json.loads(path.read_text("utf-8")))
            seconds = {
                str(module): {int(rows): float(value) for rows, value in by_rows.items()}
                for module, by_rows in fields["seconds"].items()
            }
            rates = read_rates(fields["rates"])
            if any(min(times) < 1 or min(times.values()) <= 0 for times in seconds.values()):
                raise ValueError("rows and seconds must be positive")
            return cls(str(fields["device"]), str(fields["precision"]), seconds, rates)
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as exc:
            raise ModelNotReady(f"the profile {path} cannot be used: {exc!r}") from exc

    def seconds_of(self, module: str, rows: int) -> float:
        """Returns the time of one execution alone: between the measured ones on a line.

        Fewer rows than the fewest measured take as long as those; more than the most, in
        proportion to them.

        Raises:
            ModelNotReady: the module was not measured.
        """
        times = self.seconds.get(module)
        if not times:
            raise ModelNotReady(f"the profile of {self.device} has no {module}")
        measured = sorted(times)
        if rows > measured[-1]:
            return times[measured[-1]] * rows / measured[-1]
        return float(np.interp(rows, measured, [times[count] for count in measured]))


class TimedEngine:
    """One module on a timed device. See `Engine` for the attributes.

    Args:
        folder: the model; its weights are not read.
        module: which module it is.
        profile: what the device takes.
        device: what is held.
        bank: the model's adapters, which cost nothing here.
    """

    backend = BACKEND

    def __init__(
        self,
        folder: ModelFolder,
        module: ModuleName,
        profile: TimedProfile,
        device: TimedDevice,
        *,
        bank: AdapterBank | None = None,
    ) -> None:
        self.name = folder.label(module)
        self.digest = folder.digest(module)
        self.precision = profile.precision
        plain = signature(folder, module)
        self._signature = plain if bank is None else bank.signature(plain)
        self._module: ModuleName = module
        self._profile = profile
        self._device: TimedDevice | None = device
        self._scale = folder.vae_scale
        self._default_pixels = folder.default_height_px * folder.default_width_px
        profile.seconds_of(module, 1)  # says now what is missing

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        return self._signature.inputs

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        return self._signature.outputs

    def infer(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Returns every output for a batch; see `Engine.infer`."""
        if self._device is None:
            raise StageFailed(f"{self.name} has been closed")
        feeds = check_inputs(self._signature, inputs)
        self._device.hold(self._seconds(feeds))
        output = self.outputs[0]
        return {output.name: _OUTPUTS[self._module](feeds, output, self._scale)}

    def close(self) -> None:
        """Lets go of the device."""
        if self._device is not None:
            self._device.close()
        self._device = None

    def _seconds(self, feeds: Mapping[str, Array]) -> float:
        first = feeds[self.inputs[0].name]
        seconds = self._profile.seconds_of(self._module, len(first))
        if self._module == "text_encoder":
            return seconds
        side = 1 if self._module == "vae_encoder" else self._scale
        pixels = first.shape[2] * first.shape[3] * side * side
        return seconds * pixels / self._default_pixels


def load_timed(
    folder: ModelFolder, module: ModuleName, timing: Timing, *, bank: AdapterBank | None
) -> TimedEngine:
    """Returns the engine of a module on its device.

    Raises:
        ModelNotReady: there is no such profile, it does not know the module, or the device is one
            of another profile.
    """
    if timing.profile is None:
        raise ModelNotReady("backend timed needs SANGSANG_TIMED_PROFILE, a file")
    if not re.fullmatch(r"[A-Za-z0-9._-]{1,64}", timing.device):
        raise ModelNotReady("SANGSANG_TIMED_DEVICE must be 1 to 64 letters, digits, `.`, `_`, `-`")
    profile = TimedProfile.read(timing.profile)
    profile.seconds_of(module, 1)
    device = TimedDevice(device_path(timing.device), profile.rates)
    return TimedEngine(folder, module, profile, device, bank=bank)


def _row_values(feeds: Mapping[str, Array]) -> Array:
    """Returns one number in [-1, 1] for each row, from all of its inputs."""
    total = np.zeros(len(next(iter(feeds.values()))), np.float64)
    for weight, array in enumerate(feeds.values(), start=1):
        flat = array.reshape(len(array), -1)
        probes = flat[:, :: max(flat.shape[1] // _PROBE_COUNT, 1)]
        # One column after the other: a sum over rows may add up in another order for other batches.
        for column in probes.T:
            total = total * 0.97 + weight * column
    return np.sin(total).astype(np.float32)


def _embeddings(feeds: Mapping[str, Array], output: TensorSpec, _: int) -> Array:
    # Sums so far, so that the last token tells of all: whole numbers, exact in any order.
    tokens = np.cumsum(feeds["input_ids"], axis=1) % 997
    ramp = np.linspace(-1.0, 1.0, output.shape[2] or 1, dtype=np.float32)
    return (tokens / 997).astype(np.float32)[:, :, None] * ramp


def _noise(feeds: Mapping[str, Array], _: TensorSpec, __: int) -> Array:
    return 0.5 * feeds["sample"] + 0.1 * _row_values(feeds)[:, None, None, None]


def _image(feeds: Mapping[str, Array], _: TensorSpec, scale: int) -> Array:
    colours = np.resize(np.arange(feeds["latents"].shape[1]), 3)
    return np.tanh(feeds["latents"][:, colours]).repeat(scale, axis=2).repeat(scale, axis=3)


def _moments(feeds: Mapping[str, Array], output: TensorSpec, scale: int) -> Array:
    channels = np.resize(np.arange(3), output.shape[1] or 1)
    return np.ascontiguousarray(feeds["sample"][:, channels, ::scale, ::scale])


_OUTPUTS: Mapping[ModuleName, Callable[[Mapping[str, Array], TensorSpec, int], Array]] = {
    "text_encoder": _embeddings,
    "vae_encoder": _moments,
    "unet": _noise,
    "vae_decoder": _image,
}
