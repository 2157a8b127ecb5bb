"""The saturated mesh on which decisions are timed: that it plays, not how fast.

Run: pytest tests/unit/benchmarks/test_scheduling_decisions.py
"""

import pytest
from scheduling_decisions import CASES, play


@pytest.mark.parametrize("case", CASES)
def test_as_many_wait_at_the_end_as_at_the_start(case):
    played = play(2, 10, 50, **CASES[case])
    assert played.decision_ns
    assert played.scheduler.backlog.admitted == 2 * 32 + 10
