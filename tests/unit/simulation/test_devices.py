"""How executions share a virtual device. Run: pytest tests/unit/simulation/test_devices.py"""

import pytest

from sangsang.orchestrator.simulation.devices import EqualSharing, PairSharing, VirtualDevice
from sangsang.orchestrator.simulation.events import EventLoop
from sangsang.services.runtime.engines.timed_device import SharingRates

HALF_MORE = EqualSharing(SharingRates((1.0, 0.6, 0.4)))


def ends(sharing, *executions):
    """Runs (start, stage, seconds) and returns when each ends, and the device."""
    loop = EventLoop()
    device = VirtualDevice("device", loop, sharing)
    found = {}

    async def run(number, start_s, stage, seconds):
        await loop.sleep(start_s)
        took_s = await device.run(stage, seconds)
        assert took_s == pytest.approx(loop.now_s - start_s)
        found[number] = loop.now_s

    for number, execution in enumerate(executions):
        loop.spawn(run(number, *execution))
    loop.run()
    return [found[number] for number in range(len(executions))], device


def test_alone_an_execution_takes_its_time():
    [end], device = ends(HALF_MORE, (1.0, "diffusion", 0.5))
    assert end == 1.5
    assert (device.busy_s, device.work_s) == (0.5, 0.5)


def test_two_at_once_progress_at_the_rate_of_two():
    both, device = ends(HALF_MORE, (0.0, "diffusion", 0.6), (0.0, "postprocessing", 0.6))
    assert both == pytest.approx([1.0, 1.0])
    assert device.busy_s == pytest.approx(1.0)


def test_who_comes_later_slows_from_then_on_only():
    # 0.5 s alone, 0.5 at 0.6; then the second has 0.5 left, alone.
    found, _ = ends(HALF_MORE, (0.0, "diffusion", 1.0), (0.5, "diffusion", 1.0))
    assert found == pytest.approx([0.5 + 0.5 / 0.6, 0.5 + 0.5 / 0.6 + 0.5])


def test_beyond_the_known_numbers_the_total_stays():
    found, _ = ends(HALF_MORE, *[(0.0, "diffusion", 1.2)] * 4)
    assert found == pytest.approx([4.0] * 4)


def test_pairs_slow_each_other_as_measured():
    sharing = PairSharing(
        {("diffusion", "postprocessing"): 1.5, ("postprocessing", "diffusion"): 3.0}
    )
    # Until 1.5 s: the step does 1.0, the decode 0.5; its other 0.5 are alone.
    found, _ = ends(sharing, (0.0, "diffusion", 1.0), (0.0, "postprocessing", 1.0))
    assert found == pytest.approx([1.5, 2.0])


def test_what_is_not_named_does_not_hinder():
    found, _ = ends(PairSharing({}), (0.0, "diffusion", 1.0), (0.0, "diffusion", 2.0))
    assert found == [1.0, 2.0]
