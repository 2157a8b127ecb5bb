"""What the scheduler decides about: requests, their pictures, the tasks of these, and grants."""

from dataclasses import dataclass, field
from enum import Enum
from typing import Literal, TypeAlias, get_args

StageName = Literal["text_encoding", "preprocessing", "diffusion", "postprocessing"]
STAGES: tuple[StageName, ...] = get_args(StageName)

# Holds its lane for as long as it has rows in flight; all others hold theirs for one short call.
HEAVY_STAGE: StageName = "diffusion"

# Comes after the last step.
FINISHING_STAGE: StageName = "postprocessing"

# A network as lanes are held: a stage and the model that it serves there.
Model: TypeAlias = tuple[StageName, str]


@dataclass(frozen=True, slots=True)
class Work:
    """What the scheduler knows of a request.

    Attributes:
        tier: name of the tier; its weight is the scheduler's.
        tenant: who asks, as far as fairness goes.
        deadline_s: on the scheduler's clock; None for none.
        step_count: UNet evaluations one after another.
        row_count: rows of each evaluation for one picture, 2 with guidance.
    """

    request_id: str
    model_id: str
    tier: str
    tenant: str
    deadline_s: float | None
    picture_count: int
    step_count: int
    row_count: int
    height_px: int
    width_px: int


class Phase(Enum):
    """How far a picture is."""

    WAITING = "waiting"
    PREPARING = "preparing"
    """Started, and not in a diffusion lane yet."""
    DENOISING = "denoising"
    """In a diffusion lane, or past it."""


@dataclass(eq=False, slots=True)
class Ticket:
    """An admitted request.

    Attributes:
        admitted_s: when, on the scheduler's clock.
        estimate_s: how long it was thought to take, before corrections.
        pictures: its pictures, in order.
    """

    work: Work
    admitted_s: float
    estimate_s: float = 0.0
    pictures: tuple["Picture", ...] = ()

    @property
    def started(self) -> bool:
        """Whether any of its pictures has."""
        return any(picture.phase is not Phase.WAITING for picture in self.pictures)


@dataclass(eq=False, slots=True)
class Picture:
    """One picture of a request.

    Attributes:
        seconds_left: estimated device-seconds of the steps that are still to be done.
        denoised_s: when its last step was done, on the scheduler's clock; None before.
    """

    ticket: Ticket
    seconds_left: float
    phase: Phase = Phase.WAITING
    denoised_s: float | None = None


@dataclass(eq=False, slots=True)
class Task:
    """One call of a stage for one picture, ready to run.

    Attributes:
        excluded: addresses that it may not go to, because it failed there.
        network: which of the stage's networks, where it has several; None for the request's model.
        work: the request that it belongs to.
        model: the network that it runs through.
        heavy: whether it holds a lane for many steps.
    """

    picture: Picture
    stage: StageName
    excluded: frozenset[str] = frozenset()
    network: str | None = None
    # Kept, because each decision asks for them many times.
    work: Work = field(init=False)
    model: Model = field(init=False)
    heavy: bool = field(init=False)

    def __post_init__(self) -> None:
        self.work = self.picture.ticket.work
        self.model = self.stage, self.network or self.work.model_id
        self.heavy = self.stage == HEAVY_STAGE


@dataclass(eq=False, slots=True)
class Grant:
    """A task that may run now.

    Attributes:
        device: name of the device whose lane it holds.
        lane: number of the lane on that device, from 0.
        address: the stage replica to call.
        seconds: estimated device-seconds of it.
        seconds_left: those that are still to be done.
    """

    task: Task
    device: str
    lane: int
    address: str
    seconds: float = 0.0
    seconds_left: float = 0.0
