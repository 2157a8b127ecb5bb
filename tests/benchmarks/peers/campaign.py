"""Carries a schedule out: every contender in turn, alone on the machine, under every load."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median

from sangsang.services.runtime.engines.timed_device import device_path

from . import load
from .contender import Site
from .engines import ENGINES_VARIABLE, EngineChoice
from .lines import LineProcess
from .outcomes import TIERS
from .parity import Pictures
from .processes import resources
from .results import FAILURE, Book, Measurement
from .roster import contender
from .schedule import Engines, Loads, Part
from .trial import Trial, note_resources

MODEL_ID = "pocket"
_CALIBRATION_COUNT = 5
_OFFLINE_S = 15.0
_LONGEST_FAILURE = 1000


@dataclass(frozen=True, slots=True)
class Setting:
    """What the whole run shares.

    Attributes:
        model: folder.
        cache_dir: where built engines lie.
        profile: of the timed device.
        environments: the Python environments of others, by name.
        place: a new folder for logs.
        tell: called with what is done now, and how many seconds of the schedule lie behind.
    """

    model: Path
    cache_dir: Path
    profile: Path
    environments: Mapping[str, Path]
    place: Path
    tell: Callable[[str, float], None]


def schedule_seconds(parts: Sequence[Part]) -> float:
    """Returns about how long a schedule takes."""
    return sum(_part_seconds(part) for part in parts)


def run(parts: Sequence[Part], setting: Setting) -> Iterator[list[Measurement]]:
    """Yields the measurements of one contender after the other.

    One that fails has a `failure` among its own, and the others go on.
    """
    behind_s = 0.0
    for number, part in enumerate(parts):
        yield from Campaign(part, setting, number, behind_s).measure()
        behind_s += _part_seconds(part)


def _part_seconds(part: Part) -> float:
    offline_s = _OFFLINE_S * (1 + len(part.offline))
    return offline_s + sum(loads.seconds for loads in part.loads.values())


class Campaign:
    """One kind of engine.

    Args:
        part: the kind, and who meets which loads.
        setting: of the run.
        number: of the part.
        behind_s: seconds of the schedule before it.
    """

    def __init__(self, part: Part, setting: Setting, number: int, behind_s: float) -> None:
        self._part, self._setting = part, setting
        self._behind_s = behind_s
        self._place = setting.place / f"{number}-{part.engines.name}-{part.engines.device_count}"
        self._place.mkdir(parents=True)
        self._choice = _choice(part.engines, setting)
        self._alone_s: dict[str, float] = {}
        self._pictures = Pictures()

    def measure(self) -> Iterator[list[Measurement]]:
        """Yields the measurements of one contender after the other; removes its devices."""
        try:
            yield self._calibrate()
            for name, loads in self._part.loads.items():
                yield self._measured(name, loads.seconds, partial(self._try, name, loads))
            # After ours, whose pictures the others' are compared with.
            for way, workers in self._part.offline:
                name = f"offline-{way}" + ("" if workers == 1 else f"-{workers}-per-device")
                yield self._measured(name, _OFFLINE_S, partial(self._offline, way, workers))
        finally:
            for device in self._choice.devices if self._choice.timed else ():
                with suppress(FileNotFoundError):
                    device_path(device).unlink()

    def _measured(
        self, name: str, seconds: float, measure: Callable[[Book], None]
    ) -> list[Measurement]:
        book = self._book(name)
        try:
            measure(book)
        except Exception as error:  # whatever it is, it is one contender's
            book.note("", FAILURE, " ".join(str(error).split())[:_LONGEST_FAILURE])
        self._behind_s += seconds
        return book.rows

    def _calibrate(self) -> list[Measurement]:
        """Measures one picture alone, which all loads and limits are multiples of."""
        self._tell("bare engines")
        book = self._book("bare")
        bare = self._line_process("bare", 1)
        try:
            for tier in TIERS:
                bare.run(load.singles(tier, 1, 0))
                asks = load.singles(tier, _CALIBRATION_COUNT, 1)
                self._alone_s[tier] = median(bare.run([ask])[0].seconds for ask in asks)
                book.note("single", "p50_ms", self._alone_s[tier] * 1000, tier=tier)
        finally:
            bare.stop()
        book.note("", "serial_capacity_per_s", self._capacity_per_s)
        self._behind_s += _OFFLINE_S
        return book.rows

    def _offline(self, way: str, workers: int, book: Book) -> None:
        """Measures how fast all of the mix is made when it is there from the start."""
        self._tell(f"offline {way}")
        count = max(loads.peak_count for loads in self._part.loads.values())
        process = self._line_process(way, workers)
        try:
            process.run(load.mix(8, 0))
            before = resources([process.process_id])
            found = process.run(load.mix(count, load.PEAK_SEED))
            book.note("peak", "throughput_per_s", count / max(one.seconds for one in found))
            note_resources(book, "peak", before, resources([process.process_id]), count)
            if not self._choice.timed:
                self._pictures.compare(book, lambda asks: process.run(asks, keep=True))
        finally:
            process.stop()

    def _try(self, name: str, loads: Loads, book: Book) -> None:
        """Measures a contender."""
        one = contender(name, self._part.engines.name)
        self._tell(f"{name} starts")
        site = Site(self._choice, self._place, self._setting.environments)
        with ExitStack() as stack:
            started_s = time.monotonic()
            stack.callback(one.stop)
            address = one.start(site)
            book.note("", "start_s", time.monotonic() - started_s)
            book.note("", "settings", one.settings)
            log = self._place / f"{one.name}-client.log"
            generator = LineProcess("client", (one.client, address, MODEL_ID), {}, log)
            stack.callback(generator.stop)
            bare = self._line_process("bare", 1)
            stack.callback(bare.stop)
            trial = Trial(one, generator, bare, book, self._alone_s, self._tell)
            trial.measure(loads, self._part.engines, self._capacity_per_s, self._choice.devices)
            if not self._choice.timed and loads.single_count:
                self._pictures.compare(
                    book, lambda asks: generator.run(asks, concurrency=1, keep=True)
                )

    @property
    def _capacity_per_s(self) -> float:
        return load.serial_capacity(self._alone_s, self._part.engines.device_count)

    def _line_process(self, way: str, workers: int) -> LineProcess:
        environment = {ENGINES_VARIABLE: self._choice.to_json(), "OMP_NUM_THREADS": "1"}
        log = self._place / f"offline-{way}.log"
        arguments = (way, str(workers), "1" if way == "bare" else str(len(self._choice.devices)))
        return LineProcess("offline", arguments, environment, log)

    def _book(self, name: str) -> Book:
        return Book(self._part.engines.name, self._part.engines.device_count, name)

    def _tell(self, text: str) -> None:
        engines = self._part.engines
        self._setting.tell(
            f"{engines.name} engines, {engines.device_count} devices: {text}", self._behind_s
        )


def _choice(engines: Engines, setting: Setting) -> EngineChoice:
    # The folder for logs is new, so its name makes the devices' own.
    prefix = f"{setting.place.name}-{engines.device_count}"
    return EngineChoice(
        model=str(setting.model.resolve()),
        cache_dir=str(setting.cache_dir),
        backend="timed" if engines.timed else "onnxruntime",
        profile=str(setting.profile.resolve()) if engines.timed else "",
        devices=tuple(f"{prefix}-{number}" for number in range(engines.device_count)),
    )
