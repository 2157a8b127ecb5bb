"""Who gets which lane. Run: pytest tests/unit/scheduling/test_lanes.py"""

from scheduler_driver import Driver, make_devices

from sangsang.orchestrator.scheduling.scheduler import Policy, Scheduler
from sangsang.orchestrator.scheduling.work import Task


def drive(count: int = 1, *, lanes: int = 2, **policy) -> Driver:
    return Driver(Scheduler(make_devices(count, lanes=lanes), policy=Policy(**policy)))


def test_pictures_join_the_lane_that_their_model_holds():
    driver = drive()
    first, second = driver.denoising(), driver.denoising()
    assert first.lane == second.lane
    [device] = driver.scheduler.devices
    assert len(list(device.lanes)) == 1


def test_the_other_lane_is_for_the_light_stages():
    driver = drive()
    heavy = driver.denoising()
    [picture] = driver.admit().pictures
    driver.ready(picture, "text_encoding")
    [light] = driver.dispatch()
    assert {heavy.lane, light.lane} == {0, 1}


def test_each_network_of_a_stage_holds_a_lane_of_its_own():
    driver = drive()
    pictures = [driver.admit().pictures[0] for _ in range(4)]
    for picture, network in zip(pictures, ("1", "2", "1", "3"), strict=True):
        driver.scheduler.enqueue(Task(picture, "text_encoding", network=network))
    granted = {grant.task.network: grant.lane for grant in driver.dispatch()}
    # Calls of one network share its lane; a third network has to wait.
    assert granted.keys() == {"1", "2"}
    assert granted["1"] != granted["2"]


def test_a_light_model_waits_while_another_holds_the_lane():
    driver = drive(light_calls=1)
    heavy = driver.denoising()
    [picture] = driver.admit().pictures
    driver.ready(picture, "text_encoding")
    [text] = driver.dispatch()
    driver.end(heavy)
    driver.ready(heavy.task.picture, "postprocessing")
    # The diffusion model is gone, so its lane is free.
    [finish] = driver.dispatch()
    assert finish.lane != text.lane


def test_rows_of_a_tier_have_a_room_of_their_own():
    driver = drive(row_limit=2, room_batches=1.0)
    driver.denoising()
    driver.denoising()
    [third] = driver.admit().pictures
    driver.ready(third, "text_encoding")
    [text] = driver.dispatch()
    driver.end(text)
    driver.ready(third, "diffusion")
    assert driver.dispatch() == []
    # Rows of another tier have room.
    driver.denoising(tier="pro", row_count=2)


def test_a_place_that_gets_free_goes_to_the_one_that_waits():
    driver = drive(row_limit=2, room_batches=1.0)
    first, _ = driver.denoising(), driver.denoising()
    [third] = driver.admit().pictures
    driver.ready(third, "text_encoding")
    driver.end(driver.dispatch()[0])
    task = driver.ready(third, "diffusion")
    [grant] = driver.end(first)
    assert grant.task is task


def test_a_picture_of_more_rows_than_the_room_still_runs_alone():
    driver = drive(row_limit=2, room_batches=0.5)
    driver.denoising(row_count=2)


def test_the_least_loaded_device_gets_the_picture():
    driver = drive(3)
    assert len({driver.denoising().device for _ in range(3)}) == 3


def test_a_light_call_goes_where_no_other_goes_before():
    driver = drive(2)
    busy = driver.denoising(row_count=2)
    granted = []
    for _ in range(2):
        small = driver.denoising()
        assert small.device != busy.device
        driver.end(small)
        driver.ready(small.task.picture, "postprocessing")
        granted += driver.dispatch()
    assert [grant.device for grant in granted] == [small.device, busy.device]


def test_one_lane_serves_the_stages_in_turns():
    driver = drive(lanes=1)
    heavy = driver.denoising()
    [picture] = driver.admit().pictures
    driver.ready(picture, "text_encoding")
    assert driver.dispatch() == []
    # The lane drains for it: another picture may not join.
    [device] = driver.scheduler.devices
    [lane] = device.lanes
    assert lane.draining
    [text] = driver.end(heavy)
    assert text.task.stage == "text_encoding"


def test_without_a_limit_every_model_has_a_lane():
    driver = drive(lanes=0)
    driver.denoising(model_id="a")
    driver.denoising(model_id="b")
    driver.denoising(model_id="c")
    [picture] = driver.admit(model_id="d").pictures
    driver.ready(picture, "text_encoding")
    assert len(driver.dispatch()) == 1


def test_two_heavy_models_share_a_device_while_nothing_else_waits():
    driver = drive()
    first = driver.denoising(model_id="a")
    second = driver.denoising(model_id="b")
    assert {first.lane, second.lane} == {0, 1}


def test_one_of_two_heavy_models_makes_way_for_a_light_one():
    driver = drive()
    heavy = [driver.denoising(model_id="a"), driver.denoising(model_id="b")]
    [picture] = driver.admit(model_id="a").pictures
    task = driver.ready(picture, "text_encoding")
    assert driver.dispatch() == []
    [device] = driver.scheduler.devices
    [draining] = [lane for lane in device.lanes if lane.draining]
    [gone] = [grant for grant in heavy if grant.task.model == draining.model]
    assert [grant.task for grant in driver.end(gone)] == [task]


def test_a_heavy_model_does_not_take_a_second_lane_before_a_light_one():
    driver = drive(light_calls=1, ahead_batches=9)
    driver.denoising(model_id="a")
    [b] = driver.admit(model_id="b").pictures
    driver.ready(b, "text_encoding")
    [text] = driver.dispatch()
    driver.ready(b, "diffusion")
    [c] = driver.admit(model_id="a").pictures
    light = driver.ready(c, "preprocessing")
    [grant] = driver.end(text)
    assert grant.task is light


def test_heavy_models_take_turns_on_the_lane_that_is_left_to_them():
    driver = drive(lanes=1, heavy_turn_s=2.0)
    first = driver.denoising(model_id="a")
    [picture] = driver.admit(model_id="b").pictures
    # As if its text had been encoded elsewhere.
    task = driver.ready(picture, "text_encoding")
    driver.dispatch()
    [text] = driver.end(first)
    assert text.task is task
    driver.end(text)
    [again] = driver.admit(model_id="a").pictures
    driver.ready(again, "text_encoding")
    driver.end(driver.dispatch()[0])
    b = driver.ready(picture, "diffusion")
    driver.ready(again, "diffusion")
    [granted] = driver.dispatch()
    # The one that had its turn longer ago, or never, goes first.
    assert granted.task is b


def test_a_turn_ends_when_it_is_over_and_not_before():
    driver = drive(heavy_turn_s=2.0, lanes=1)
    driver.denoising(model_id="a")
    # b's text is encoded: only its diffusion call waits.
    scheduler = driver.scheduler
    ticket = driver.admit(model_id="b")
    driver.ready(ticket.pictures[0], "diffusion")
    driver.dispatch()
    [lane] = scheduler.devices[0].lanes
    assert not lane.draining
    driver.now_s = 2.5
    driver.dispatch()
    assert lane.draining


def test_a_pair_that_loses_never_shares_a_device():
    pair = frozenset({frozenset({"diffusion", "postprocessing"})})
    driver = drive(forbidden=pair)
    heavy = driver.denoising()
    other = driver.denoising()
    driver.end(other)
    task = driver.ready(other.task.picture, "postprocessing")
    assert driver.dispatch() == []
    assert [grant.task for grant in driver.end(heavy)] == [task]


def test_pictures_are_finished_before_new_ones_start():
    driver = drive(light_calls=1, row_limit=2)
    done = driver.denoising()
    driver.denoising()
    driver.denoising()
    [new] = driver.admit().pictures
    driver.end(done)
    start = driver.ready(new, "text_encoding")
    finish = driver.ready(done.task.picture, "postprocessing")
    [grant] = driver.dispatch()
    assert grant.task is finish
    [grant] = driver.end(grant)
    assert grant.task is start


def test_an_idle_device_is_fed_before_pictures_are_finished():
    driver = drive(light_calls=1, row_limit=8)
    done = driver.denoising()
    [new] = driver.admit().pictures
    driver.end(done)
    finish = driver.ready(done.task.picture, "postprocessing")
    start = driver.ready(new, "text_encoding")
    assert {grant.task for grant in driver.dispatch()} == {start, finish}
    assert driver.grants[0].task is start


def test_new_pictures_start_only_so_far_ahead():
    driver = drive(row_limit=2, ahead_batches=1.0, light_calls=9)
    pictures = [driver.admit().pictures[0] for _ in range(5)]
    for picture in pictures:
        driver.ready(picture, "text_encoding")
    assert len(driver.dispatch()) == 2


def test_a_tier_starts_although_another_is_ahead_as_far_as_it_may():
    driver = drive(row_limit=2, ahead_batches=1.0, light_calls=9)
    for picture in [driver.admit().pictures[0] for _ in range(5)]:
        driver.ready(picture, "text_encoding")
    driver.dispatch()
    [pro] = driver.admit(tier="pro").pictures
    task = driver.ready(pro, "text_encoding")
    assert [grant.task for grant in driver.dispatch()] == [task]


def test_nothing_goes_to_a_replica_that_is_gone():
    driver = drive(2)
    driver.scheduler.set_usable("diffusion", "diffusion0", usable=False)
    assert {driver.denoising().device for _ in range(4)} == {"device1"}
    driver.scheduler.set_usable("diffusion", "diffusion0", usable=True)
    assert driver.denoising().device == "device0"


def test_a_call_is_not_given_to_the_replica_where_it_failed():
    driver = drive(2)
    [picture] = driver.admit().pictures
    driver.ready(picture, "text_encoding")
    [text] = driver.dispatch()
    other = {"text_encoding0": "text_encoding1", "text_encoding1": "text_encoding0"}
    driver.end(text)
    driver.ready(picture, "text_encoding", excluded=frozenset({text.address}))
    [again] = driver.dispatch()
    assert again.address == other[text.address]


def test_a_withdrawn_task_is_never_granted():
    driver = drive()
    [picture] = driver.admit().pictures
    task = driver.ready(picture, "text_encoding")
    driver.scheduler.withdraw(task)
    assert driver.dispatch() == []


def test_whoever_leaves_early_gives_up_its_place_ahead():
    driver = drive(row_limit=2, ahead_batches=0.5)
    ticket = driver.admit()
    driver.ready(ticket.pictures[0], "text_encoding")
    [text] = driver.dispatch()
    [other] = driver.admit().pictures
    task = driver.ready(other, "text_encoding")
    assert driver.end(text) == []
    driver.scheduler.leave(ticket, 0.0, finished=False)
    assert [grant.task for grant in driver.dispatch()] == [task]
