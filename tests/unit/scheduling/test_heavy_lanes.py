"""Which heavy lane makes way, among few and among many.

Run: pytest tests/unit/scheduling/test_heavy_lanes.py
"""

import pytest
from scheduler_driver import Driver, make_devices, make_work

from sangsang.orchestrator.scheduling.cluster import Device, Lane
from sangsang.orchestrator.scheduling.heavy_lanes import HeavyLanes
from sangsang.orchestrator.scheduling.scheduler import Policy, Scheduler
from sangsang.orchestrator.scheduling.work import Grant, Picture, Task, Ticket


def put(device: Device, lanes: HeavyLanes, model_id: str = "m", seconds: float = 1.0):
    """A diffusion call in a lane of a device."""
    ticket = Ticket(make_work(model_id=model_id), 0.0)
    grant = Grant(Task(Picture(ticket, seconds), "diffusion"), device.name, 0, "", 1.0, seconds)
    lane = device.put(grant, grant.task.model, 0.0)
    lanes.note(device, lane)
    return grant, lane


def mesh(count: int) -> list[Device]:
    return [Device(spec, i, frozenset()) for i, spec in enumerate(make_devices(count))]


def always(_device: Device, _lane: Lane) -> bool:
    return True


def test_the_lane_with_the_least_to_do_drains_and_no_second_one():
    lanes, devices = HeavyLanes(), mesh(3)
    held = [put(device, lanes, seconds=s)[1] for device, s in zip(devices, (3, 1, 2), strict=True)]
    lanes.drain_one(always)
    lanes.drain_one(always)
    assert [lane.draining for lane in held] == [False, True, False]


def test_when_it_is_free_another_one_may_drain():
    lanes, devices = HeavyLanes(), mesh(2)
    held = [put(device, lanes, seconds=s) for device, s in zip(devices, (1, 2), strict=True)]
    lanes.drain_one(always)
    devices[0].take_out(held[0][0])
    lanes.note(devices[0], held[0][1])
    lanes.drain_one(always)
    assert held[1][1].draining


@pytest.mark.parametrize("wanted", [0, 17, 99])
def test_one_of_many_is_found_though_few_are_looked_at_a_time(wanted):
    lanes, devices = HeavyLanes(), mesh(100)
    held = [put(device, lanes)[1] for device in devices]
    looked_at = 0

    def in_the_way(device: Device, _lane: Lane) -> bool:
        nonlocal looked_at
        looked_at += 1
        return device.index == wanted

    for _ in range(7):
        before = looked_at
        lanes.drain_one(in_the_way)
        assert looked_at - before <= 17
    assert [device.index for device, lane in zip(devices, held, strict=True) if lane.draining] == [
        wanted
    ]


def test_only_devices_where_heavy_models_hold_too_much_are_a_crowd():
    lanes, devices = HeavyLanes(), mesh(2)
    put(devices[0], lanes)
    assert not lanes.some_crowd
    two = [put(devices[1], lanes, name, seconds)[1] for name, seconds in (("m", 2.0), ("n", 1.0))]
    assert lanes.some_crowd
    lanes.drain_one_of_a_crowd(always)
    assert [lane.draining for lane in two] == [False, True]


def test_a_pair_that_may_not_meet_takes_turns_on_a_hundred_devices():
    forbidden = frozenset({frozenset(("diffusion", "text_encoding"))})
    policy = Policy(forbidden=forbidden, ahead_batches=100.0)
    driver = Driver(Scheduler(make_devices(100), policy=policy))
    # Prepared first: no text is encoded beside steps.
    pictures = [driver.admit().pictures[0] for _ in range(100)]
    for picture in pictures:
        driver.ready(picture, "text_encoding")
    while texts := driver.dispatch() or [g for g in driver.grants if not g.task.heavy]:
        for grant in texts:
            driver.end(grant)
    for picture in pictures:
        driver.ready(picture, "diffusion")
    driver.dispatch()
    assert len({grant.device for grant in driver.grants}) == 100
    [late] = driver.admit().pictures
    task = driver.ready(late, "text_encoding")
    driver.dispatch()
    [lane] = [lane for device in driver.scheduler.devices for lane in device.lanes if lane.draining]
    assert [grant.task for grant in driver.end(next(iter(lane.grants)))] == [task]
