"""Sharing of a timed device: between executions, between processes, and after one was killed."""

import subprocess
import sys
import threading
import time

import pytest

from sangsang.services.runtime.engines.timed_device import (
    SharingRates,
    TimedDevice,
    advance,
    read_rates,
    seconds_until,
)
from sangsang.services.runtime.errors import ModelNotReady

RATES = SharingRates((1.0, 0.6, 0.4))
# Longer than any test may take.
FOREVER_S = 1e6

HOLDER = """
import sys
from pathlib import Path
from sangsang.services.runtime.engines.timed_device import SharingRates, TimedDevice
device = TimedDevice(Path(sys.argv[1]), SharingRates((1.0, 0.6, 0.4)))
device.enter(1e6)
print("holding", flush=True)
sys.stdin.read()
"""


class Clock:
    def __init__(self):
        # The device's file starts with the machine's own clock.
        self.now_s = time.monotonic() + 1000.0

    def __call__(self):
        return self.now_s

    def sleep(self, seconds):
        self.now_s += seconds


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def devices(tmp_path, clock):
    """The same device twice, as two processes would have it."""
    pair = [TimedDevice(tmp_path / "d", RATES, clock=clock, sleep=clock.sleep) for _ in range(2)]
    yield pair
    for device in pair:
        device.close()


def test_alone_it_takes_what_it_takes(devices, clock):
    started_at = clock.now_s
    devices[0].hold(3.0)
    assert clock.now_s - started_at == pytest.approx(3.0)


def test_two_share_it_and_the_rest_is_at_full_speed(devices, clock):
    one, other = devices
    first = one.enter(1.0)
    clock.now_s += 0.5
    second = other.enter(1.0)
    assert one.seconds_left(first) == pytest.approx(0.5 / 0.6)
    assert other.seconds_left(second) == pytest.approx(0.5 / 0.6 + 0.5)
    clock.now_s += 0.5 / 0.6 + 1e-9
    assert one.seconds_left(first) == 0.0
    assert other.seconds_left(second) == pytest.approx(0.5)


def test_who_notices_late_that_it_is_through_keeps_nobody_up(devices, clock):
    one, other = devices
    one.enter(1.0)
    second = other.enter(2.0)
    # `one` does not look; it has ended all the same, and what comes then has a neighbour less.
    clock.now_s += 1.0 / 0.6 + 0.25
    assert other.seconds_left(second) == pytest.approx(0.75)


def test_who_leaves_early_makes_room(devices, clock):
    one, other = devices
    first = one.enter(5.0)
    second = other.enter(1.0)
    one.leave(first)
    assert other.seconds_left(second) == pytest.approx(1.0)
    assert one.seconds_left(first) == 0.0


def test_sleepers_of_one_process_end_in_the_order_of_their_work(tmp_path):
    device, ended = TimedDevice(tmp_path / "d", RATES), []

    def hold(seconds):
        device.hold(seconds)
        ended.append(seconds)

    threads = [threading.Thread(target=hold, args=(seconds,)) for seconds in (0.6, 0.05, 0.3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert ended == [0.05, 0.3, 0.6]
    device.close()


def test_a_killed_process_no_longer_counts(tmp_path):
    path = tmp_path / "d"
    child = subprocess.Popen(
        [sys.executable, "-c", HOLDER, path],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    try:
        assert child.stdout.readline() == b"holding\n"
        device = TimedDevice(path, RATES)
        own = device.enter(FOREVER_S)
        assert device.seconds_left(own) > 1.5 * FOREVER_S
    finally:
        # Not waited for: an ended process that nobody has collected is dead too.
        child.kill()
    deadline = time.monotonic() + 60
    while device.seconds_left(own) > FOREVER_S and time.monotonic() < deadline:
        time.sleep(0.05)
    assert device.seconds_left(own) <= FOREVER_S
    child.communicate()
    device.close()


def test_an_entry_of_another_process_with_a_reused_id_does_not_count(devices, clock):
    one, other = devices
    one._started += 1
    one.enter(FOREVER_S)
    second = other.enter(1.0)
    assert other.seconds_left(second) == pytest.approx(1.0)


def test_a_file_of_other_rates_or_of_something_else_is_refused(tmp_path):
    TimedDevice(tmp_path / "d", RATES).close()
    with pytest.raises(ModelNotReady, match="other rates"):
        TimedDevice(tmp_path / "d", SharingRates((1.0, 0.5)))
    (tmp_path / "text").write_text("something else")
    with pytest.raises(ModelNotReady, match="no timed device"):
        TimedDevice(tmp_path / "text", RATES)


def test_progress_and_its_prediction_agree():
    ends = [1.0, 2.5, 2.5, 4.0]
    for target in ends:
        seconds = seconds_until(target, 0.25, ends, RATES)
        assert advance(0.25, ends, seconds, RATES) == pytest.approx(target)
    assert advance(3.0, [], 9.0, RATES) == 3.0


def test_more_than_the_rates_tell_of_share_the_same_total():
    assert RATES.of(6) * 6 == pytest.approx(RATES.of(3) * 3)


@pytest.mark.parametrize("values", [{}, {"2": 0.5}, {"1": 1.0, "3": 0.5}, {"1": 0.0}])
def test_rates_with_gaps_are_refused(values):
    with pytest.raises(ValueError, match="rates"):
        read_rates(values)
