"""What a run measures: which contenders, on which engines, under which loads."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from .load import Rate

SHARES = (0.5, 0.8, 1.1, 1.5)
SEEDS = (1, 2, 3)
# Eight times the ordinary load for five seconds, and what comes before and after it.
BURST = (Rate(0.5, 1.0), Rate(4.0, 5.0), Rate(0.5, 4.0))
CONCURRENCY = 8


@dataclass(frozen=True, slots=True)
class Engines:
    """A kind of engine and how many devices there are of it.

    Attributes:
        name: `cpu` or `timed`.
        device_count: cores, or devices that are held.
    """

    name: str
    device_count: int

    @property
    def timed(self) -> bool:
        """Whether devices are held and not computed on."""
        return self.name == "timed"


@dataclass(frozen=True, slots=True)
class Loads:
    """What one contender meets.

    Attributes:
        single_count: requests of each tier, one at a time, in turns with bare engines.
        peak_count: requests of the mix with `CONCURRENCY` for each timed device, or on all cores.
        shares: of serial capacity, arriving at random.
        seeds: of those arrivals.
        window_s: how long they come for each seed.
        burst: whether it meets the burst.
        cancel_count: Pro requests that are cancelled alone (timed engines).
    """

    single_count: int
    peak_count: int
    shares: Sequence[float]
    seeds: Sequence[int]
    window_s: float
    burst: bool
    cancel_count: int

    @property
    def seconds(self) -> float:
        """About how long they take, the contender's start included."""
        open_s = len(self.shares) * (len(self.seeds) * self.window_s + 2.5)
        burst_s = sum(rate.seconds for rate in BURST) + 2.5 if self.burst else 0.0
        singles_s = 2.2 * (self.single_count + 1) if self.single_count else 0.0
        peak_s = 3.0 + self.peak_count / 4.0
        return 6.0 + singles_s + peak_s + open_s + burst_s + 1.6 * self.cancel_count


@dataclass(frozen=True, slots=True)
class Part:
    """One kind of engine with whom it is given to.

    Attributes:
        engines: the kind.
        loads: of each contender, by its name, in the order in which they run.
        offline: ways without a server, each with its workers for each device.
    """

    engines: Engines
    loads: dict[str, Loads]
    offline: Sequence[tuple[str, int]]


PEERS = ("triton-ensemble", "triton-sequence", "litserve-continuous", "litserve-batched")
CONTENDERS = ("mesh", *PEERS)
ABLATIONS = ("mesh-one-lane", "mesh-no-batching", "mesh-no-tiers")


def full() -> list[Part]:
    """Returns the whole run: under half an hour on a quiet machine."""
    timed = Loads(2, 40, SHARES, SEEDS, 6.0, burst=True, cancel_count=6)
    cpu = Loads(4, 48, SHARES, SEEDS, 6.0, burst=True, cancel_count=0)
    ablated = Loads(0, 40, (1.1,), SEEDS[:2], 6.0, burst=False, cancel_count=0)
    several = Loads(0, 120, (1.1,), SEEDS[:1], 6.0, burst=False, cancel_count=0)
    return [
        Part(
            Engines("timed", 1),
            dict.fromkeys(CONTENDERS, timed) | dict.fromkeys(ABLATIONS, ablated),
            (("batch", 1), ("batch", 2)),
        ),
        Part(
            Engines("cpu", 2),
            dict.fromkeys(CONTENDERS, cpu) | dict.fromkeys(ABLATIONS, ablated),
            (("batch", 1), ("diffusers", 1)),
        ),
        Part(Engines("timed", 4), dict.fromkeys(CONTENDERS, several), (("batch", 1),)),
    ]


def short() -> list[Part]:
    """Returns what five minutes allow on a quiet machine: one load, one seed, no ablations."""
    timed = Loads(1, 16, (1.1,), SEEDS[:1], 5.0, burst=False, cancel_count=1)
    cpu = Loads(1, 20, (1.1,), SEEDS[:1], 5.0, burst=False, cancel_count=0)
    return [
        Part(Engines("timed", 1), dict.fromkeys(CONTENDERS, timed), (("batch", 1),)),
        Part(Engines("cpu", 2), dict.fromkeys(CONTENDERS, cpu), (("batch", 1), ("diffusers", 1))),
    ]


def tuning() -> list[Part]:
    """Returns what compares each contender with itself: at most 4, 8 and 16 rows in a batch."""
    names = [f"{name}@{rows}" for name in CONTENDERS for rows in (4, 8, 16)]
    return [
        Part(
            engines,
            dict.fromkeys(names, Loads(0, 40, (1.1,), SEEDS[:2], 6.0, burst=False, cancel_count=0)),
            (),
        )
        for engines in (Engines("timed", 1), Engines("cpu", 2))
    ]


def only(
    parts: Sequence[Part],
    names: Sequence[str],
    engines: Sequence[str],
    shares: Sequence[float] = (),
) -> list[Part]:
    """Returns the parts with some contenders, kinds of engines and loads alone; nothing is all.

    Raises:
        ValueError: a name is not among them.
    """
    known = {name for part in parts for name in part.loads}
    kinds = {part.engines.name for part in parts}
    for wanted, there in ((names, known), (engines, kinds)):
        if others := set(wanted) - there:
            raise ValueError(
                f"no {', '.join(sorted(others))}; there are {', '.join(sorted(there))}"
            )
    return [
        Part(
            part.engines,
            {
                name: replace(loads, shares=[s for s in loads.shares if not shares or s in shares])
                for name, loads in part.loads.items()
                if not names or name in names
            },
            part.offline,
        )
        for part in parts
        if not engines or part.engines.name in engines
    ]
