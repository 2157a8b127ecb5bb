"""Run: pytest tests/unit/test_quarantine.py"""

import pytest

from sangsang.orchestrator.quarantine import Quarantine
from sangsang.services.runtime.errors import RequestQuarantined


def test_the_second_death_quarantines_and_nobody_else():
    quarantine = Quarantine(duration_s=60)
    quarantine.blame("a", "first", 0.0)
    quarantine.check("a", 1.0)
    quarantine.blame("a", "second", 2.0)
    with pytest.raises(RequestQuarantined, match=r"stages died 2 times .* another 59 s"):
        quarantine.check("a", 3.0)
    quarantine.check("b", 3.0)


def test_a_death_counts_once_for_all_calls_of_a_spec():
    quarantine = Quarantine()
    for _ in range(4):
        quarantine.blame("a", "first", 0.0)
    quarantine.check("a", 0.0)


def test_it_ends_after_its_time_from_the_last_death():
    quarantine = Quarantine(duration_s=60)
    quarantine.blame("a", "first", 0.0)
    quarantine.blame("a", "second", 50.0)
    with pytest.raises(RequestQuarantined):
        quarantine.check("a", 109.9)
    quarantine.check("a", 110.0)
    assert len(quarantine) == 0


def test_deaths_far_apart_do_not_add_up():
    quarantine = Quarantine(duration_s=60)
    for hour in range(5):
        quarantine.blame("a", hour, hour * 3600.0)
        quarantine.check("a", hour * 3600.0)


def test_who_has_run_to_the_end_is_no_suspect():
    quarantine = Quarantine()
    quarantine.blame("a", "first", 0.0)
    assert quarantine.suspects("a", 1.0)
    assert not quarantine.suspects("b", 1.0)
    quarantine.forgive("a")
    assert not quarantine.suspects("a", 1.0)
    quarantine.blame("a", "second", 2.0)
    quarantine.check("a", 2.0)


def test_without_a_limit_nobody_is_refused():
    quarantine = Quarantine(death_limit=0)
    for death in range(10):
        quarantine.blame("a", death, 0.0)
    quarantine.check("a", 0.0)


def test_it_remembers_a_bounded_number_and_the_latest_ones():
    quarantine = Quarantine(max_known=10)
    for number in range(1000):
        quarantine.blame(f"{number}", "first", number / 1000)
        quarantine.blame(f"{number}", "second", number / 1000)
    assert len(quarantine) == 10
    with pytest.raises(RequestQuarantined):
        quarantine.check("999", 1.0)
    quarantine.check("0", 1.0)
