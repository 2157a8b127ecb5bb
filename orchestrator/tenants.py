"""What each tenant may have: so many requests a second, and so many at one moment.

One object without I/O: whoever calls it says what time it is. It is asked before the queue, so a
tenant that is over its limits costs the others nothing but the refusal.
"""

from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass, field

from ..services.runtime.errors import TenantInFlightExceeded, TenantRateExceeded

# Of a tenant whose requests have never ended yet.
_FIRST_GUESS_S = 1.0
_LEAST_DELAY_S = 0.05
# Weight of the newest request in the mean of durations.
_NEWEST = 0.2


@dataclass(frozen=True, slots=True)
class TenantLimits:
    """Limits of each tenant; 0 sets none.

    Attributes:
        rate_per_s: requests that may come each second, in the long run.
        burst_count: requests that may come at once after a quiet while.
        in_flight_count: requests that may run or wait at one moment.
    """

    rate_per_s: float = 0.0
    burst_count: int = 1
    in_flight_count: int = 0


@dataclass(slots=True)
class _Tenant:
    """What is known of one: its bucket, and when each of its requests came."""

    tokens: float
    counted_s: float
    started_s: list[float] = field(default_factory=list[float])
    mean_duration_s: float = _FIRST_GUESS_S


class Tenants:
    """Who has how much in flight, and who may send one more.

    Memory: a tenant is forgotten once it is longest unheard of, has nothing in flight, and
    `max_known` others are known. Whoever can make up names has a bucket for each anyway.
    """

    def __init__(self, limits: TenantLimits, *, max_known: int = 10_000) -> None:
        self._limits = limits
        self._max_known = max_known
        self._known: OrderedDict[str, _Tenant] = OrderedDict()

    def __len__(self) -> int:
        return len(self._known)

    def enter(self, name: str, now_s: float) -> None:
        """Counts a request that came now; `leave` must follow, with the same time.

        Raises:
            TenantRateExceeded: it came too early; nothing was counted.
            TenantInFlightExceeded: too many others have not left; nothing was counted.
        """
        tenant = self._find(name, now_s)
        most = self._limits.in_flight_count
        if 0 < most <= len(tenant.started_s):
            raise TenantInFlightExceeded(
                name, f"{most} requests at once", retry_delay_s=_until_next_leaves(tenant, now_s)
            )
        self._take_token(name, tenant, now_s)
        tenant.started_s.append(now_s)

    def leave(self, name: str, entered_s: float, now_s: float, *, ran: bool = True) -> None:
        """Forgets a request that came at `entered_s`; one that never ran tells of no duration."""
        tenant = self._known[name]
        tenant.started_s.remove(entered_s)
        if ran:
            duration_s = now_s - entered_s
            tenant.mean_duration_s += _NEWEST * (duration_s - tenant.mean_duration_s)
        self._forget_the_longest_unheard()

    def _find(self, name: str, now_s: float) -> _Tenant:
        tenant = self._known.get(name)
        if tenant is None:
            tenant = self._known[name] = _Tenant(float(self._limits.burst_count), now_s)
            self._forget_the_longest_unheard()
        self._known.move_to_end(name)
        return tenant

    def _take_token(self, name: str, tenant: _Tenant, now_s: float) -> None:
        rate, burst = self._limits.rate_per_s, self._limits.burst_count
        if rate <= 0:
            return
        earned = max(0.0, now_s - tenant.counted_s) * rate
        tenant.tokens = min(float(burst), tenant.tokens + earned)
        tenant.counted_s = now_s
        # A billionth short is rounding: who waited as long as it was told must get in.
        if tenant.tokens < 1 - 1e-9:
            delay_s = (1 - tenant.tokens) / rate
            raise TenantRateExceeded(name, f"{rate:g} requests a second", retry_delay_s=delay_s)
        tenant.tokens -= 1

    def _forget_the_longest_unheard(self) -> None:
        excess = len(self._known) - self._max_known
        if excess > 0:
            for name in list(_first(excess, self._idle())):
                del self._known[name]

    def _idle(self) -> Iterable[str]:
        newest = next(reversed(self._known))
        return (n for n, one in self._known.items() if not one.started_s and n != newest)


def _first(count: int, names: Iterable[str]) -> Iterable[str]:
    return (name for name, _ in zip(names, range(count), strict=False))


def _until_next_leaves(tenant: _Tenant, now_s: float) -> float:
    """Returns when the oldest of its requests should be done, by how long they took of late."""
    age_s = now_s - min(tenant.started_s)
    return max(_LEAST_DELAY_S, tenant.mean_duration_s - age_s)
