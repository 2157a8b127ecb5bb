"""What the metrics endpoints of a mesh say now, and what has changed since a while ago."""

import http.client
import time
from collections import defaultdict, deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import TypeAlias

from ...services.runtime.metrics import declarations
from ...services.runtime.metrics.declarations import Declared

WINDOW_S = 60.0
TIMEOUT_S = 2.0
# More than a mesh on one machine has, so that a wrong port is no endless search.
_MOST_FOLLOWED = 64

# A series: its name and its labels.
Series: TypeAlias = tuple[str, frozenset[tuple[str, str]]]


@dataclass(frozen=True, slots=True)
class Scrape:
    """What one endpoint said at one moment.

    Attributes:
        at_s: seconds since the epoch.
        values: of its series; of this project's metrics only.
    """

    at_s: float
    values: Mapping[Series, float]

    @classmethod
    def parse(cls, text: str, at_s: float) -> "Scrape":
        """Returns what a text in Prometheus' format says.

        Raises:
            ValueError: it is something else.
        """
        from prometheus_client.parser import text_string_to_metric_families

        values = {
            (sample.name, frozenset(sample.labels.items())): float(sample.value)
            for family in text_string_to_metric_families(text)
            for sample in family.samples
            if sample.name.startswith("sangsang_")
        }
        return cls(at_s, values)

    @property
    def started_s(self) -> float | None:
        """When the service was started; None if this is no service of ours."""
        found = (v for (name, _), v in self.values.items() if name == declarations.START_TIME.name)
        return next(found, None)


@dataclass(frozen=True, slots=True)
class Window:
    """A stretch of time: what counted up in it, and what is so at its end.

    Attributes:
        ends: the newest scrape of each endpoint that answers.
        begins: an older one of each; for an endpoint without, the window begins with its service.
    """

    ends: Mapping[str, Scrape]
    begins: Mapping[str, Scrape]

    @property
    def since_start(self) -> bool:
        """Whether it begins with the services."""
        return not self.begins

    @property
    def seconds(self) -> float:
        """How long it is."""
        spans = [end.at_s - self._began_s(address, end) for address, end in self.ends.items()]
        return max(spans, default=0.0)

    def now(self, declared: Declared, *by: str) -> dict[tuple[str, ...], float]:
        """Returns a gauge's values at the end, summed by some labels."""
        found: defaultdict[tuple[str, ...], float] = defaultdict(float)
        for labels, value in self._ends_of(declared):
            found[_picked(labels, by)] += value
        return dict(found)

    def most(self, declared: Declared, *by: str) -> dict[tuple[str, ...], float]:
        """Returns the largest of a gauge's values at the end, by some labels."""
        found: dict[tuple[str, ...], float] = {}
        for labels, value in self._ends_of(declared):
            key = _picked(labels, by)
            found[key] = max(value, found.get(key, value))
        return found

    def gained(
        self, declared: Declared, *by: str, part: str = "", **where: str
    ) -> dict[tuple[str, ...], float]:
        """Returns what a counter has gained, summed by some labels.

        Args:
            declared: which counter, or the histogram of one.
            by: the labels.
            part: of a histogram: `_sum`, `_count` or `_bucket`.
            where: only series with these labels.
        """
        found: defaultdict[tuple[str, ...], float] = defaultdict(float)
        wanted = where.items()
        for labels, gain in self._gains(declared.name + part):
            if wanted <= dict(labels).items():
                found[_picked(labels, by)] += gain
        return dict(found)

    def total(self, declared: Declared, part: str = "", **where: str) -> float:
        """Returns what a counter has gained in all series with some labels."""
        return sum(self.gained(declared, part=part, **where).values())

    def mean(self, declared: Declared, **where: str) -> float | None:
        """Returns the mean of what a histogram was given; None for nothing."""
        count = self.total(declared, "_count", **where)
        return self.total(declared, "_sum", **where) / count if count else None

    def quantile(self, declared: Declared, share: float, **where: str) -> float | None:
        """Returns about what a share of a histogram's values is below; None for nothing.

        As Prometheus does it: as if values were spread evenly within a bucket.
        """
        gains = self.gained(declared, "le", part="_bucket", **where)
        buckets = sorted((float(bound), gain) for (bound,), gain in gains.items())
        if not buckets or buckets[-1][1] <= 0:
            return None
        rank, below, low = share * buckets[-1][1], 0.0, 0.0
        for bound, up_to in buckets[:-1]:
            if up_to >= rank:
                return low + (bound - low) * (rank - below) / (up_to - below)
            below, low = up_to, bound
        # Beyond the last bound, of which no more is known.
        return low

    def _ends_of(self, declared: Declared) -> Iterator[tuple[frozenset[tuple[str, str]], float]]:
        for end in self.ends.values():
            for (name, labels), value in end.values.items():
                if name == declared.name:
                    yield labels, value

    def _gains(self, name: str) -> Iterator[tuple[frozenset[tuple[str, str]], float]]:
        for address, end in self.ends.items():
            begin = self._begin(address, end)
            for series, value in end.values.items():
                if series[0] == name:
                    yield series[1], value - (begin.values.get(series, 0.0) if begin else 0.0)

    def _begin(self, address: str, end: Scrape) -> Scrape | None:
        """Returns what to count from; None to count from a start, which may have been since."""
        begin = self.begins.get(address)
        return begin if begin is not None and begin.started_s == end.started_s else None

    def _began_s(self, address: str, end: Scrape) -> float:
        begin = self._begin(address, end)
        return (end.started_s or end.at_s) if begin is None else begin.at_s


class MeshWatch:
    """Fetches metrics again and again, and keeps those of the last minute.

    Attributes:
        silent: endpoints that did not answer the last time.

    Args:
        addresses: `host:port` of each endpoint.
        follow: whether further ones are on the next ports, as `sangsang up` has them.
    """

    def __init__(self, addresses: Sequence[str], *, follow: bool) -> None:
        self._addresses = list(addresses)
        self._follow = follow
        self._kept: defaultdict[str, deque[Scrape]] = defaultdict(deque)
        self.silent: list[str] = []

    def look(self) -> Window:
        """Returns the last minute, or what there is of it. Blocks while it fetches."""
        ends = {address: scrape for address in self._addresses if (scrape := _fetch(address))}
        self.silent = [address for address in self._addresses if address not in ends]
        while self._follow and len(self._addresses) < _MOST_FOLLOWED and not self.silent:
            address = _next(self._addresses[-1])
            if (scrape := _fetch(address)) is None:
                break
            self._addresses.append(address)
            ends[address] = scrape
        begins = {a: begin for a, end in ends.items() if (begin := self._keep(a, end))}
        return Window(ends, begins)

    def _keep(self, address: str, scrape: Scrape) -> Scrape | None:
        """Keeps a scrape, and returns the one to compare it with."""
        kept = self._kept[address]
        while kept and kept[0].at_s < scrape.at_s - WINDOW_S:
            kept.popleft()
        kept.append(scrape)
        return kept[0] if len(kept) > 1 else None


def _fetch(address: str) -> Scrape | None:
    """Returns what an endpoint says; None if it says nothing, or nothing of this mesh."""
    try:
        with closing(http.client.HTTPConnection(address, timeout=TIMEOUT_S)) as connection:
            connection.request("GET", "/metrics")
            text = connection.getresponse().read().decode()
        scrape = Scrape.parse(text, time.time())
    except (OSError, ValueError, http.client.HTTPException):
        return None
    return scrape if scrape.started_s is not None else None


def _next(address: str) -> str:
    host, _, port = address.rpartition(":")
    return f"{host}:{int(port) + 1}"


def _picked(labels: frozenset[tuple[str, str]], names: Sequence[str]) -> tuple[str, ...]:
    found = dict(labels)
    return tuple(found.get(name, "") for name in names)
