"""Run: pytest tests/unit/metrics"""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sangsang.services.runtime.metrics.busy_clock import BusyClock


def test_what_runs_now_counts_already():
    clock = BusyClock()
    assert clock.seconds(10.0) == 0
    clock.begin(10.0)
    assert clock.seconds(12.0) == 2
    clock.end(10.0, 13.0)
    assert clock.seconds(20.0) == 3
    clock.begin(21.0)
    assert clock.seconds(22.0) == 4


@given(
    start_s=st.floats(0, 1e7),
    moves=st.lists(st.tuples(st.floats(0.001, 100), st.booleans()), max_size=40),
)
def test_it_never_falls_and_is_the_sum_of_all_work(start_s, moves):
    clock, now_s, running, done_s, before = BusyClock(), start_s, [], 0.0, 0.0
    for wait_s, begins in moves:
        now_s += wait_s
        # A fall would be a restart to Prometheus, and all seconds so far would count again.
        assert clock.seconds(now_s) >= before
        before = clock.seconds(now_s)
        if begins:
            running.append(now_s)
            clock.begin(now_s)
        elif running:
            began_s = running.pop(0)
            clock.end(began_s, now_s)
            done_s += now_s - began_s
    expected = done_s + sum(now_s - began_s for began_s in running)
    assert clock.seconds(now_s) == pytest.approx(expected, abs=1e-6)
