"""Run: pytest tests/unit/test_kept_results.py"""

import pytest
from plans import make_plan, make_result

from sangsang.orchestrator.kept_results import KeepLimits, KeptResults


def test_a_result_is_kept_for_its_time():
    kept, result = KeptResults(KeepLimits(duration_s=10.0)), make_result()
    kept.put("a", result, 0.0)
    assert kept.get("a", 9.9) is result
    assert kept.get("b", 9.9) is None
    assert kept.get("a", 10.0) is None
    assert (len(kept), kept.byte_count) == (0, 0)


def test_the_oldest_goes_when_there_are_too_many():
    kept = KeptResults(KeepLimits(max_count=3))
    for number in range(10):
        kept.put(number, make_result(), 0.0)
    assert [number for number in range(10) if kept.get(number, 0.0)] == [7, 8, 9]


def test_the_oldest_goes_when_they_take_too_many_bytes():
    kept = KeptResults(KeepLimits(max_bytes=250_000))
    for number in range(10):
        kept.put(number, make_result(content=bytes(100_000)), 0.0)
    assert [number for number in range(10) if kept.get(number, 0.0)] == [8, 9]
    assert 200_000 <= kept.byte_count <= 250_000


def test_initial_images_count():
    kept = KeptResults(KeepLimits(max_bytes=100_000))
    kept.put("a", make_result(make_plan(initial_image=bytes(100_000))), 0.0)
    assert len(kept) == 0


def test_one_that_is_too_large_costs_the_others_nothing():
    kept = KeptResults(KeepLimits(max_bytes=50_000))
    kept.put("a", make_result(), 0.0)
    kept.put("b", make_result(content=bytes(60_000)), 0.0)
    assert kept.get("a", 0.0)
    assert kept.get("b", 0.0) is None


@pytest.mark.parametrize("none", ["duration_s", "max_count", "max_bytes"])
def test_a_limit_of_nothing_keeps_nothing(none):
    kept = KeptResults(KeepLimits(**{none: 0}))
    kept.put("a", make_result(), 0.0)
    assert (len(kept), kept.byte_count) == (0, 0)


def test_the_same_request_again_replaces_its_result():
    kept, newer = KeptResults(KeepLimits(duration_s=10.0)), make_result(content=bytes(1000))
    kept.put("a", make_result(), 0.0)
    before = kept.byte_count
    kept.put("a", newer, 5.0)
    assert kept.get("a", 14.0) is newer
    assert 0 < kept.byte_count - before < 1000
