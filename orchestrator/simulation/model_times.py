"""What a model takes on a device: its steps by rows, its calls of the light stages.

From a profile of the timed engines (`deploy/profiles`), from one that `sangsang profile` wrote
beside a model, or given. The schedulers may be told the same, as they are where a model has a
profile.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from ...services.runtime.engines.timed import TimedProfile
from ...services.runtime.errors import ModelNotReady
from ...services.runtime.models.folder import ModelFolder
from ...services.runtime.models.profile import ModelProfile, StepProfile
from ..scheduling.costs import InitialCosts
from ..scheduling.work import HEAVY_STAGE, StageName
from .devices import EqualSharing, PairSharing, Sharing

# Published profiles are of Stable Diffusion's size.
_TIMED_SIDE_PX = 512


@dataclass(frozen=True, slots=True)
class Call:
    """One call of a stage in the life of a picture.

    Attributes:
        seconds: that it takes alone for a picture of the model's size; of diffusion, unused. 0 for
            what needs no device: noise, or a text whose embeddings are known.
        network: which of the stage's networks, where it has several.
        label: what it is called in a drawing.
    """

    stage: StageName
    seconds: float = 0.0
    network: str | None = None
    label: str = ""


@dataclass(frozen=True, slots=True)
class ModelTimes:
    """What a model takes.

    Attributes:
        name: of the model and the device, in words.
        profile: steps by rows, and what the schedulers may be told.
        before: calls before the diffusion stage, in order.
        guided: further calls before it for a guided picture, after the first.
        after: calls after it, in order.
        sharing: what executions on one device do to each other.
    """

    name: str
    profile: ModelProfile
    before: tuple[Call, ...]
    after: tuple[Call, ...]
    sharing: Sharing
    guided: tuple[Call, ...] = ()

    def calls(self, row_count: int) -> tuple[Call, ...]:
        """Returns the calls of a picture of so many rows, in order."""
        extra = self.guided if row_count > 1 else ()
        return (*self.before[:1], *extra, *self.before[1:], Call(HEAVY_STAGE), *self.after)

    def step_seconds(self, row_count: int, size_px: tuple[int, int]) -> float:
        """Returns how long a step takes alone."""
        return self.profile.step_seconds(row_count, *size_px)

    def call_seconds(self, call: Call, size_px: tuple[int, int]) -> float:
        """Returns how long a call of a light stage takes alone; texts have no size."""
        if call.stage == "text_encoding":
            return call.seconds
        return call.seconds * size_px[0] * size_px[1] / self.profile.steps[0].pixel_count

    @property
    def size_px(self) -> tuple[int, int]:
        """Height and width of the model's own pictures."""
        own = self.profile.steps[0]
        return own.height_px, own.width_px

    @property
    def initial_costs(self) -> InitialCosts:
        """Returns what the lane scheduler is told of the model."""
        own = self.profile.steps[0]
        light_s: dict[StageName, float] = {
            name: seconds for name, seconds in self.profile.stages.items() if name != HEAVY_STAGE
        }
        return InitialCosts(own.seconds, light_s, own.pixel_count)


def make_profile(
    steps: StepProfile, stages: Mapping[StageName, float], *, machine: str, backend: str = "timed"
) -> ModelProfile:
    """Returns a profile that no one measured here."""
    return ModelProfile(
        backend=backend,
        shape_digest="",
        machine=machine,
        versions={},
        date="",
        steps=(steps,),
        stages=dict(stages),
    )


def read_times(path: Path) -> ModelTimes:
    """Returns what a profile says.

    Args:
        path: a file as in deploy/profiles, or a model folder that `sangsang profile` was run on.

    Raises:
        ModelNotReady: there is none, or it cannot be used.
    """
    if not path.is_dir():
        return timed_times(TimedProfile.read(path))
    folder = ModelFolder.open(path)
    profile = ModelProfile.read(folder)
    if profile is None:
        raise ModelNotReady(f"{path} has no profile that fits; write one: sangsang profile {path}")
    return profiled_times(folder.model_id, profile)


def timed_times(profile: TimedProfile, side_px: int = _TIMED_SIDE_PX) -> ModelTimes:
    """Returns the times of the timed engines, whose pictures have so many pixels a side."""
    steps = StepProfile(
        height_px=side_px, width_px=side_px, seconds=dict(profile.seconds.get("unet", {}))
    )
    text_s, decode_s = (profile.seconds_of(name, 1) for name in ("text_encoder", "vae_decoder"))
    stages: dict[StageName, float] = {"text_encoding": text_s, "postprocessing": decode_s}
    return ModelTimes(
        name=profile.device,
        profile=make_profile(steps, stages, machine=profile.device),
        before=(Call("text_encoding", text_s, label="text"), Call("preprocessing", label="noise")),
        # The negative text is most often the same, and known.
        guided=(Call("text_encoding", label="text"),),
        after=(Call("postprocessing", decode_s, label="decode"),),
        sharing=EqualSharing(profile.rates),
    )


def profiled_times(name: str, profile: ModelProfile) -> ModelTimes:
    """Returns the times that `sangsang profile` measured.

    Raises:
        ModelNotReady: a stage was not measured.
    """
    if missing := {"text_encoding", "preprocessing", "postprocessing"} - set(profile.stages):
        raise ModelNotReady(f"the profile of {name} has no {', '.join(sorted(missing))}")
    text = Call("text_encoding", profile.stages["text_encoding"], label="text")
    return ModelTimes(
        name=f"{name} on {profile.machine}",
        profile=profile,
        before=(text, Call("preprocessing", profile.stages["preprocessing"], label="noise")),
        guided=(replace(text, seconds=0.0),),
        after=(Call("postprocessing", profile.stages["postprocessing"], label="decode"),),
        sharing=PairSharing.of(profile),
    )
