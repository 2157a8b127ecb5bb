"""Run: pytest tests/unit/test_quarantine.py"""

import pytest

from sangsang.orchestrator.quarantine import Quarantine
from sangsang.services.runtime.errors import RequestQuarantined


def test_the_second_death_quarantines_and_nobody_else():
    quarantine = Quarantine(duration_s=60)
    quarantine.blame("a", 0.0)
    quarantine.check("a", 1.0)
    quarantine.blame("a", 2.0)
    with pytest.raises(RequestQuarantined, match=r"2 stages died .* another 59 s"):
        quarantine.check("a", 3.0)
    quarantine.check("b", 3.0)


def test_it_ends_after_its_time_from_the_last_death():
    quarantine = Quarantine(duration_s=60)
    quarantine.blame("a", 0.0)
    quarantine.blame("a", 50.0)
    with pytest.raises(RequestQuarantined):
        quarantine.check("a", 109.9)
    quarantine.check("a", 110.0)
    assert len(quarantine) == 0


def test_deaths_far_apart_do_not_add_up():
    quarantine = Quarantine(duration_s=60)
    for hour in range(5):
        quarantine.blame("a", hour * 3600.0)
        quarantine.check("a", hour * 3600.0)


def test_it_remembers_a_bounded_number_and_the_latest_ones():
    quarantine = Quarantine(max_known=10)
    for number in range(1000):
        quarantine.blame(f"{number}", number / 1000)
        quarantine.blame(f"{number}", number / 1000)
    assert len(quarantine) == 10
    with pytest.raises(RequestQuarantined):
        quarantine.check("999", 1.0)
    quarantine.check("0", 1.0)
