"""Run: pytest tests/unit/test_tenants.py"""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sangsang.orchestrator.tenants import TenantLimits, Tenants
from sangsang.services.runtime.errors import TenantInFlightExceeded, TenantRateExceeded

RATE = TenantLimits(rate_per_s=2.0, burst_count=3)


def come_and_go(tenants: Tenants, name: str, now_s: float, count: int = 1) -> None:
    for _ in range(count):
        tenants.enter(name, now_s)
        tenants.leave(name, now_s, now_s)


def test_without_limits_everyone_comes_in():
    tenants = Tenants(TenantLimits())
    for _ in range(1000):
        tenants.enter("a", 0.0)


def test_a_burst_then_the_rate():
    tenants = Tenants(RATE)
    come_and_go(tenants, "a", 10.0, count=3)
    with pytest.raises(TenantRateExceeded) as refused:
        tenants.enter("a", 10.1)
    assert refused.value.retry_delay_s == pytest.approx(0.4)
    assert refused.value.metadata == {"tenant": "a", "limit": "2 requests a second"}
    come_and_go(tenants, "b", 10.1, count=3)


@given(
    rate=st.floats(0.01, 1000),
    burst=st.integers(1, 50),
    start_s=st.floats(0, 1e6),
    waits=st.lists(st.floats(0, 10), max_size=20),
)
def test_the_delay_that_is_told_is_the_true_one(rate, burst, start_s, waits):
    tenants = Tenants(TenantLimits(rate_per_s=rate, burst_count=burst))
    now_s = start_s
    for wait_s in waits:
        now_s += wait_s
        try:
            come_and_go(tenants, "a", now_s, count=burst + 1)
        except TenantRateExceeded as refused:
            assert refused.retry_delay_s is not None
            early_s = now_s + 0.9 * refused.retry_delay_s
            with pytest.raises(TenantRateExceeded):
                tenants.enter("a", early_s)
            now_s += refused.retry_delay_s * (1 + 1e-9) + 1e-9
            come_and_go(tenants, "a", now_s)


def test_in_the_long_run_no_more_than_the_rate_comes_in():
    tenants, taken = Tenants(RATE), 0
    for tick in range(10_000):
        try:
            come_and_go(tenants, "a", tick / 100)
            taken += 1
        except TenantRateExceeded:
            pass
    assert 200 <= taken <= 203


def test_no_more_in_flight_than_may_and_a_refusal_costs_no_token():
    tenants = Tenants(TenantLimits(rate_per_s=1.0, burst_count=3, in_flight_count=2))
    tenants.enter("a", 0.0)
    tenants.enter("a", 0.0)
    for _ in range(5):
        with pytest.raises(TenantInFlightExceeded):
            tenants.enter("a", 0.0)
    tenants.enter("b", 0.0)
    tenants.leave("a", 0.0, 0.0)
    tenants.enter("a", 0.0)


def test_the_delay_of_a_full_tenant_is_how_long_its_requests_take():
    tenants = Tenants(TenantLimits(in_flight_count=1))
    for start_s in range(0, 400, 4):
        tenants.enter("a", start_s)
        tenants.leave("a", start_s, start_s + 3)
    tenants.enter("a", 500.0)
    with pytest.raises(TenantInFlightExceeded) as refused:
        tenants.enter("a", 501.0)
    assert refused.value.retry_delay_s == pytest.approx(2.0, rel=0.01)


def test_names_without_end_take_bounded_memory_and_lose_nobody_in_flight():
    tenants = Tenants(TenantLimits(rate_per_s=1.0, in_flight_count=1), max_known=100)
    tenants.enter("working", 0.0)
    for number in range(10_000):
        come_and_go(tenants, f"name-{number}", 0.0)
        assert len(tenants) <= 100
    with pytest.raises(TenantInFlightExceeded):
        tenants.enter("working", 0.0)
    for number in range(200):
        tenants.enter(f"busy-{number}", 0.0)
    for number in range(200):
        tenants.leave(f"busy-{number}", 0.0, 1.0)
    assert len(tenants) <= 100
