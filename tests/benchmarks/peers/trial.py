"""One contender that runs: every load of the schedule, and the figures of each."""

from collections.abc import Callable, Mapping, Sequence
from itertools import islice
from statistics import median

from . import load
from .contender import Contender
from .lines import LineProcess
from .outcomes import TIERS, Ending, Outcome, latencies, open_figures
from .processes import Resources, resources
from .results import Book
from .schedule import BURST, CONCURRENCY, Engines, Loads

_PREVIEW_COUNT = 4


class Trial:
    """Measures one contender.

    Args:
        contender: started.
        generator: calls it.
        bare: bare engines in one process, for comparison in turns.
        book: takes the figures.
        alone_s: seconds of a picture alone, by tier.
        tell: called with what is done now.
    """

    def __init__(
        self,
        contender: Contender,
        generator: LineProcess,
        bare: LineProcess,
        book: Book,
        alone_s: Mapping[str, float],
        tell: Callable[[str], None],
    ) -> None:
        self._contender, self._generator, self._bare = contender, generator, bare
        self._book = book
        self._alone_s = alone_s
        self._limits_s = {tier: load.PATIENCE * seconds for tier, seconds in alone_s.items()}
        self._tell = tell

    def measure(
        self, loads: Loads, engines: Engines, capacity_per_s: float, devices: Sequence[str]
    ) -> None:
        """Gives it every load."""
        self._generator.run(load.mix(6, 0), concurrency=2)
        self._singles(loads.single_count)
        self._peak(loads.peak_count, CONCURRENCY * (engines.device_count if engines.timed else 1))
        for share in loads.shares:
            self._open(share, loads.seeds, loads.window_s, capacity_per_s)
        if loads.burst:
            self._burst(capacity_per_s)
        if engines.timed and loads.cancel_count:
            self._cancel(loads.cancel_count, devices[0])

    def _singles(self, count: int) -> None:
        """One request at a time, in turns with bare engines, so that both meet one machine."""
        if not count:
            return
        self._say("one at a time")
        for tier in TIERS:
            through, alone = [], []
            for ask in load.singles(tier, count + 1, 2):
                through += self._generator.run([ask], concurrency=1)
                alone += self._bare.run([ask])
            # The first of each warms it up.
            pairs = list(zip(through[1:], alone[1:], strict=True))
            self._book.note_all("single", latencies(through[1:], tier))
            added = [a.seconds - b.seconds for a, b in pairs if a.ending is Ending.FINISHED]
            if added:
                bare_s = median(b.seconds for _, b in pairs)
                self._book.note("single", "added_ms", median(added) * 1000, tier=tier)
                ratio = median(a.seconds for a, _ in pairs) / bare_s
                self._book.note("single", "times_bare", ratio, tier=tier)
        if self._contender.name == "mesh":
            asks = load.singles("pro", _PREVIEW_COUNT, 3)
            found = self._generator.run(asks, concurrency=1, previews=True)
            previews = [one.preview_s for one in found if one.preview_s is not None]
            if previews:
                value = median(previews) * 1000
                self._book.note("single", "first_preview_ms", value, tier="pro")

    def _peak(self, count: int, concurrency: int) -> None:
        """All of a mix as fast as it goes, so many at a time; whoever is refused comes again."""
        self._say(f"{concurrency} at a time")
        asks = load.mix(count, load.PEAK_SEED)
        before = self._resources()
        found = self._generator.run(asks, concurrency=concurrency)
        finished = [one for one in found if one.ending is Ending.FINISHED]
        seconds = max(one.started_s + one.seconds for one in found)
        self._book.note("peak", "throughput_per_s", len(finished) / seconds)
        self._book.note("peak", "failed", len(found) - len(finished))
        for tier in TIERS:
            self._book.note_all("peak", latencies([f for f in finished if f.tier == tier], tier))
        note_resources(self._book, "peak", before, self._resources(), len(finished))

    def _open(
        self, share: float, seeds: Sequence[int], seconds: float, capacity_per_s: float
    ) -> None:
        """Poisson arrivals; the seeds follow each other without a pause, so that backlogs stay."""
        name = f"open-{share:g}"
        self._say(f"{share:g} of capacity")
        rates = [load.Rate(share, seconds)]
        plans = [load.arrivals(rates, capacity_per_s, self._alone_s, seed) for seed in seeds]
        asks = [a for place, plan in enumerate(plans) for a in load.later(plan, place * seconds)]
        before = self._resources()
        found = self._generator.run(asks)
        rest = iter(found)
        for seed, plan in zip(seeds, plans, strict=True):
            figures = open_figures(list(islice(rest, len(plan))), self._limits_s, seconds)
            self._book.note_all(name, figures, seed=seed)
        finished = sum(one.ending is Ending.FINISHED for one in found)
        note_resources(self._book, name, before, self._resources(), finished)
        self._note_reasons(name, found)

    def _burst(self, capacity_per_s: float) -> None:
        """Eight times the load for five seconds; what is served in it, and after it."""
        self._say("burst")
        asks = load.arrivals(BURST, capacity_per_s, self._alone_s, load.PEAK_SEED)
        found = self._generator.run(asks)
        ends_s = (BURST[0].seconds, BURST[0].seconds + BURST[1].seconds)
        inside = [one for one in found if ends_s[0] <= one.started_s < ends_s[1]]
        after = [one for one in found if one.started_s >= ends_s[1]]
        for name, some, rate in (("burst", inside, BURST[1]), ("after-burst", after, BURST[2])):
            self._book.note_all(name, open_figures(some, self._limits_s, rate.seconds))
        self._note_reasons("burst", found)

    def _cancel(self, count: int, device: str) -> None:
        """Lone Pro requests that are cancelled; the device itself counts what is begun after."""
        self._say("cancelled alone")
        asks = load.cancelled(count, self._alone_s["pro"], 4)
        found = [self._generator.run([ask], concurrency=1, device=device)[0] for ask in asks]
        steps = [int(one.detail) for one in found if one.ending is Ending.CANCELLED]
        if steps:
            self._book.note("cancel", "steps_after", sum(steps) / len(steps), tier="pro")
            self._book.note("cancel", "most_steps_after", max(steps), tier="pro")

    def _note_reasons(self, name: str, found: Sequence[Outcome]) -> None:
        """Notes in words why a request failed or was refused, one of each."""
        for ending in (Ending.FAILED, Ending.REFUSED):
            details = [one.detail for one in found if one.ending is ending]
            if details:
                self._book.note(name, f"first_{ending.value}", details[0])

    def _resources(self) -> Resources:
        return resources(self._contender.process_ids())

    def _say(self, text: str) -> None:
        self._tell(f"{self._contender.name}, {text}")


def note_resources(
    book: Book, name: str, before: Resources, after: Resources, picture_count: int
) -> None:
    """Notes the CPU time of a picture, and the memory at the end."""
    if picture_count:
        book.note(name, "cpu_s_per_picture", (after.cpu_s - before.cpu_s) / picture_count)
    book.note(name, "memory_mib", after.memory_mib)
