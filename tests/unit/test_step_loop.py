"""The step loop: who shares a step, who leaves it, and that nobody notices the others."""

import asyncio
import threading
import time
from contextlib import asynccontextmanager
from dataclasses import replace

import numpy as np
import pytest
from diffusion_fakes import FakeUnet, fake_job, fake_scheduler, fake_table
from hypothesis import given, settings
from hypothesis import strategies as st

from sangsang.services.diffusion.jobs import Finished, StepDone
from sangsang.services.diffusion.step_loop import StepLoop
from sangsang.services.runtime.errors import (
    CorruptTensor,
    DeadlinePassed,
    Overloaded,
    StageFailed,
    StageUnavailable,
)
from sangsang.services.runtime.models.preview_map import PreviewMap
from sangsang.services.runtime.worker import EngineWorker

PREVIEW = PreviewMap(np.full((4, 3), 0.2, np.float32), np.zeros(3, np.float32))


@asynccontextmanager
async def running(engine=None, *, row_limit=8, **options):
    worker = EngineWorker("unet-thread")
    scheduler = fake_scheduler(row_limit)
    loop = StepLoop(
        engine or FakeUnet(), worker, scheduler=scheduler, preview_map=PREVIEW, **options
    )
    try:
        yield loop
    finally:
        await loop.close()
        await asyncio.to_thread(worker.close)


async def run(loop, job):
    """Returns all events of a job."""
    async with loop.submit(job) as events:
        return [event async for event in events]


async def latents_alone(job):
    async with running() as loop:
        return (await run(loop, job))[-1].latents


def gated(permits=0):
    return FakeUnet(gate=threading.Semaphore(permits))


async def until(condition):
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.001)


async def test_steps_come_first_and_the_latents_last():
    async with running() as loop:
        events = await run(loop, fake_job(guidance=4.0))
    assert isinstance(events[-1], Finished)
    counts = [event.completed_step_count for event in events[:-1]]
    assert counts == sorted(set(counts))
    assert counts[-1] == 5
    assert all(event.step_count == 5 and event.preview is None for event in events[:-1])
    usage = events[-1].usage
    assert usage.evaluation_count == 10
    assert usage.mean_batch_row_count == 2
    assert usage.compute_seconds > 0


async def test_the_result_is_the_formula():
    job = fake_job(3, table=fake_table(4, history=2), guidance=3.0, picture=True)
    x = [np.float64(0.5) * job.initial_latents + np.float64(1.5) * job.noise]
    m = []
    net = FakeUnet()
    for row in job.table.rows.astype(np.float64):
        negative, positive = (
            net._row((x[0] * row[1]).astype(np.float32), np.float32(row[0]), c)
            for c in job.contexts
        )
        m.insert(0, negative + 3.0 * (positive - negative))
        step = sum(row[6 + j] * x[j] + row[8 + j] * m[j] for j in range(min(2, len(x))))
        x.insert(0, step)
    np.testing.assert_allclose(await latents_alone(job), x[0], atol=2e-6)


async def test_work_runs_on_the_engine_thread_only():
    engine = FakeUnet()
    async with running(engine) as loop:
        await run(loop, fake_job())
    assert all(name.startswith("unet-thread") for name in engine.threads)


def mixed_job(index):
    """Different steps, guidance, samplers, sizes, starts, context lengths."""
    sizes = [(8, 8), (8, 16), (16, 8)]
    return fake_job(
        index,
        table=fake_table(1 + index * 7 % 11, history=1 + index % 3, noisy=index % 2 == 0),
        guidance=1.0 if index % 3 else 2.0 + index,
        height=sizes[index % 3][0],
        width=sizes[index % 3][1],
        tokens=3 + index % 2,
        picture=index % 4 == 0,
        noise_draw_count=index % 3,
        preview_interval_step_count=index % 3,
    )


async def test_32_mixed_jobs_give_the_bytes_they_give_alone():
    jobs = [mixed_job(index) for index in range(32)]
    engine = FakeUnet()
    async with running(engine) as loop:
        together = await asyncio.gather(*(run(loop, job) for job in jobs))
    assert max(engine.batch_sizes) > 4
    for job, events in zip(jobs, together, strict=True):
        assert events[-1].latents.tobytes() == (await latents_alone(job)).tobytes()


@settings(max_examples=25, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(0, 30), st.integers(0, 8), st.none() | st.integers(0, 4)),
        min_size=2,
        max_size=8,
    ),
    st.integers(2, 6),
)
def test_neighbours_never_matter(plan, row_limit):
    """Jobs come after any number of steps and leave after any number; the rest notice nothing."""

    async def scenario():
        async with running(row_limit=row_limit) as loop:

            async def one(index, wait, leave_after):
                await until(lambda: loop.counts.step_count >= wait or not loop.job_count)
                async with loop.submit(mixed_job(index)) as events:
                    async for event in events:
                        if isinstance(event, Finished):
                            return event.latents
                        if leave_after is not None and event.completed_step_count > leave_after:
                            return None
                return None

            done = await asyncio.gather(*(one(*entry) for entry in plan))
            await until(lambda: not loop.job_count)
        for (index, _, _), latents in zip(plan, done, strict=True):
            if latents is not None:
                assert latents.tobytes() == (await latents_alone(mixed_job(index))).tobytes()

    asyncio.run(scenario())


async def test_a_job_that_makes_way_keeps_what_it_has():
    """Pre-emption is not being picked: no step is lost, none is taken twice, no bit differs."""
    engine, steps = gated(2), []
    async with running(engine, row_limit=2, observer=steps.append) as loop:
        patient, urgent = fake_job(1, guidance=3.0), fake_job(2, guidance=3.0)
        urgent = replace(urgent, deadline_s=time.monotonic() + 30)
        waiting = asyncio.create_task(run(loop, patient))
        await until(lambda: engine.entered_count == 3)
        hurrying = asyncio.create_task(run(loop, urgent))
        await until(lambda: loop.job_count == 2)
        for _ in range(20):
            engine.gate.release()
        done = {patient: (await waiting)[-1].latents, urgent: (await hurrying)[-1].latents}
    order = [step.jobs[0] for step in steps]
    # The step in flight when the urgent job came was still the patient one's.
    assert order[:2] + order[-2:] == [patient] * 4
    assert order[3:8] == [urgent] * 5
    for job, latents in done.items():
        indices = [step.step_indices[0] for step in steps if step.jobs[0] is job]
        assert indices == [0, 1, 2, 3, 4]
        assert latents.tobytes() == (await latents_alone(job)).tobytes()


async def test_jobs_join_at_every_step():
    engine = gated()
    async with running(engine) as loop:
        jobs = [fake_job(index) for index in range(5)]
        tasks = []
        for index, job in enumerate(jobs):
            tasks.append(asyncio.create_task(run(loop, job)))
            await until(lambda want=index + 1: loop.job_count == want)
            engine.gate.release()
            await until(lambda want=index + 1: loop.counts.step_count == want)
        for _ in range(20):
            engine.gate.release()
        results = await asyncio.gather(*tasks)
    # The first step may begin before the second job comes; afterwards one more row each time.
    assert engine.batch_sizes[:5] in ([1, 1, 2, 3, 4], [1, 2, 3, 4, 5])
    for job, events in zip(jobs, results, strict=True):
        assert events[-1].latents.tobytes() == (await latents_alone(job)).tobytes()


async def test_a_caller_that_leaves_takes_its_rows_out_before_the_next_step():
    engine = gated(2)
    async with running(engine) as loop:
        stays = fake_job(1, table=fake_table(6))
        staying = asyncio.create_task(run(loop, stays))
        leaving = asyncio.create_task(run(loop, fake_job(2, table=fake_table(50))))
        await until(lambda: loop.counts.step_count == 2)
        leaving.cancel()
        with pytest.raises(asyncio.CancelledError):
            await leaving
        for _ in range(20):
            engine.gate.release()
        events = await staying
        # The step in flight may still have held it; none after that did.
        assert engine.batch_sizes[3:] == [1] * len(engine.batch_sizes[3:])
        assert loop.counts.wasted_step_count <= 1
        assert loop.counts.left_job_count == 1
    assert events[-1].latents.tobytes() == (await latents_alone(stays)).tobytes()


async def test_a_step_in_flight_for_nobody_is_counted_as_wasted():
    engine = gated()
    async with running(engine) as loop:
        task = asyncio.create_task(run(loop, fake_job()))
        await until(lambda: engine.entered_count == 1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        engine.gate.release()
        await until(lambda: not loop.job_count)
        assert (loop.counts.wasted_step_count, loop.counts.step_count) == (1, 1)


async def test_callers_that_leave_at_any_moment_leave_nothing_behind():
    random = np.random.default_rng(0)
    async with running(row_limit=4) as loop:

        async def come_and_go(index):
            task = asyncio.create_task(run(loop, fake_job(index, table=fake_table(10**6))))
            await asyncio.sleep(random.uniform(0, 0.02))
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

        for _ in range(20):
            await asyncio.gather(*(come_and_go(index) for index in range(10)))
        await until(lambda: not loop.job_count)
        # A task that is cancelled before it runs never submits.
        assert 100 < loop.counts.left_job_count <= 200
        assert loop.counts.wasted_step_count <= loop.counts.left_job_count
        assert isinstance((await run(loop, fake_job()))[-1], Finished)


async def test_a_deadline_stops_the_job_within_one_step():
    engine = FakeUnet(delay_s=0.02)
    async with running(engine) as loop:
        job = fake_job(table=fake_table(500), deadline_s=time.monotonic() + 0.1)
        with pytest.raises(DeadlinePassed, match="of 500 steps"):
            await run(loop, job)
        await until(lambda: not loop.job_count)
        assert loop.counts.step_count <= 7
        assert loop.counts.wasted_step_count <= 1


async def test_a_deadline_that_passed_before_costs_no_step():
    async with running() as loop:
        with pytest.raises(DeadlinePassed):
            await run(loop, fake_job(deadline_s=time.monotonic() - 1))
        assert loop.counts.step_count == 0


async def test_nan_ends_its_own_job_only():
    engine = FakeUnet()
    engine.poison = 77.0
    async with running(engine) as loop:
        jobs = [fake_job(0), fake_job(1, context=77.0, guidance=3.0), fake_job(2, guidance=3.0)]
        results = await asyncio.gather(*(run(loop, job) for job in jobs), return_exceptions=True)
    assert isinstance(results[1], CorruptTensor)
    for index in (0, 2):
        alone = await latents_alone(jobs[index])
        assert results[index][-1].latents.tobytes() == alone.tobytes()


async def test_an_overflow_in_the_update_is_corrupt_too():
    table = fake_table(3)
    table.rows[1, 6] = 3e38
    async with running() as loop:
        with pytest.raises(CorruptTensor, match="step 2 of 3"):
            await run(loop, fake_job(table=table))


async def test_an_engine_failure_ends_its_batch_and_the_loop_goes_on():
    engine = gated()
    async with running(engine, row_limit=2) as loop:
        engine.failures = [RuntimeError("secret path /data")]
        tasks = [asyncio.create_task(run(loop, fake_job(index))) for index in range(4)]
        await until(lambda: loop.job_count == 4)
        for _ in range(50):
            engine.gate.release()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        again = await run(loop, fake_job(0))
    failed = [result for result in results if isinstance(result, StageFailed)]
    assert 1 <= len(failed) <= 2
    assert all("secret" not in error.message and not error.fatal for error in failed)
    assert sum(isinstance(result, list) for result in results) == 4 - len(failed)
    assert again[-1].latents.tobytes() == (await latents_alone(fake_job(0))).tobytes()


async def test_a_mesh_error_of_the_engine_is_passed_on():
    engine = FakeUnet()
    engine.failures = [StageUnavailable("the device is gone")]
    async with running(engine) as loop:
        with pytest.raises(StageUnavailable, match="device is gone"):
            await run(loop, fake_job())


async def test_a_slow_reader_does_not_hold_the_loop():
    async with running() as loop:
        job = fake_job(table=fake_table(40), preview_interval_step_count=7)
        async with loop.submit(job) as events:
            await until(lambda: loop.counts.finished_job_count == 1)
            seen = [event async for event in events]
    # All 40 steps ran unread; the newest is kept, with the newest preview.
    assert len(seen) == 2
    assert seen[0].completed_step_count == 40
    assert seen[0].preview.shape == (8, 8, 3)
    assert seen[0].preview.dtype == np.uint8


async def test_progress_comes_no_more_often_than_asked_for():
    engine = gated(0)
    job = fake_job(table=fake_table(5), min_progress_interval_s=60, preview_interval_step_count=3)
    seen = []
    async with running(engine) as loop, loop.submit(job) as events:
        for done in range(1, 6):
            engine.gate.release()
            await until(lambda done=done: loop.counts.step_count == done)
            if done in (3, 5):
                seen.append(await anext(events))
        seen.append(await anext(events))
    # A preview comes at once; what else was done comes with the end, at the latest.
    assert [getattr(event, "completed_step_count", None) for event in seen] == [3, 5, None]


async def test_previews_come_at_their_interval_only():
    engine = gated(0)
    previews = []
    job = fake_job(preview_interval_step_count=2)
    async with running(engine) as loop, loop.submit(job) as events:
        engine.gate.release()
        async for event in events:
            if isinstance(event, StepDone):
                previews.append(event.preview is not None)
                engine.gate.release()
    assert previews == [False, True, False, True, False]


async def test_no_more_rows_than_a_step_takes():
    engine = FakeUnet(delay_s=0.001)
    async with running(engine, row_limit=3) as loop:
        jobs = [fake_job(index, guidance=1.0 + index % 2) for index in range(9)]
        await asyncio.gather(*(run(loop, job) for job in jobs))
    assert max(engine.batch_sizes) <= 3


async def test_every_key_and_newcomer_gets_its_turn():
    """A crowd of one size must not keep out a single job of another."""
    async with running(FakeUnet(delay_s=0.001), row_limit=2) as loop:
        crowd = [
            asyncio.create_task(run(loop, fake_job(index, table=fake_table(200))))
            for index in range(6)
        ]
        await until(lambda: loop.counts.step_count > 5)
        before = loop.counts.step_count
        await run(loop, fake_job(width=16, table=fake_table(5)))
        # Three batches of the crowd to one of its own, five times.
        assert loop.counts.step_count - before <= 5 * 4 + 4
        for task in crowd:
            task.cancel()
        await asyncio.gather(*crowd, return_exceptions=True)


async def test_the_charges_add_up_to_the_time_of_the_device():
    steps = []
    async with running(FakeUnet(delay_s=0.002), observer=steps.append) as loop:
        jobs = [fake_job(index, guidance=1.0 + index) for index in range(4)]
        results = await asyncio.gather(*(run(loop, job) for job in jobs))
    usages = [events[-1].usage for events in results]
    charged = sum(usage.compute_seconds for usage in usages)
    taken = sum(step.ended_ns - step.started_ns for step in steps) / 1e9
    assert charged == pytest.approx(taken, rel=0.1)
    assert sum(usage.evaluation_count for usage in usages) == sum(s.row_count for s in steps)
    assert all(usage.queue_seconds < 1 for usage in usages)


async def test_observers_see_who_was_in_each_step():
    steps = []
    async with running(observer=steps.append) as loop:
        job = fake_job(trace="its span")
        await run(loop, job)
    assert [step.step_indices for step in steps] == [(0,), (1,), (2,), (3,), (4,)]
    assert all(step.jobs == (job,) and step.row_count == 1 for step in steps)
    assert steps[0].key.height == 8


async def test_observers_see_the_rows_that_an_engine_added():
    steps = []
    async with running(FakeUnet(padded_to=4), observer=steps.append) as loop:
        await run(loop, fake_job(guidance=2.0))
    assert [(step.row_count, step.padding_row_count) for step in steps] == [(2, 2)] * 5


async def test_a_broken_observer_breaks_nothing():
    def observer(step):
        raise RuntimeError("broken")

    async with running(observer=observer) as loop:
        assert isinstance((await run(loop, fake_job()))[-1], Finished)


async def test_too_many_rows_are_refused_and_the_rest_go_on():
    engine = gated()
    async with running(engine, waiting_row_limit=3) as loop:
        first = asyncio.create_task(run(loop, fake_job(guidance=2.0)))
        await until(lambda: loop.row_count == 2)
        with pytest.raises(Overloaded):
            loop.submit(fake_job(guidance=2.0))
        for _ in range(5):
            engine.gate.release()
        assert isinstance((await first)[-1], Finished)


async def test_a_job_that_never_fits_is_a_bug():
    async with running(row_limit=1) as loop:
        with pytest.raises(ValueError, match="never fit"):
            loop.submit(fake_job(guidance=2.0))


async def test_closing_drains_what_it_can_and_fails_the_rest():
    worker = EngineWorker("unet-thread")
    loop = StepLoop(FakeUnet(delay_s=0.01), worker, scheduler=fake_scheduler(8))
    short = asyncio.create_task(run(loop, fake_job(0)))
    long = asyncio.create_task(run(loop, fake_job(1, table=fake_table(1000))))
    await until(lambda: loop.job_count == 2)
    closing = asyncio.create_task(loop.close(drain_s=0.5))
    await asyncio.sleep(0)
    with pytest.raises(StageUnavailable):
        loop.submit(fake_job(2))
    assert isinstance((await short)[-1], Finished)
    with pytest.raises(StageUnavailable):
        await long
    await closing
    assert loop.job_count == 0
    worker.close()


async def test_closing_an_idle_loop_returns_at_once():
    worker = EngineWorker("unet-thread")
    loop = StepLoop(FakeUnet(), worker, scheduler=fake_scheduler(8))
    await loop.close(drain_s=5)
    with pytest.raises(StageUnavailable):
        loop.submit(fake_job())
    worker.close()


async def test_two_loops_share_one_thread():
    worker = EngineWorker("unet-thread")
    engines = [FakeUnet(delay_s=0.001) for _ in range(2)]
    loops = [StepLoop(engine, worker, scheduler=fake_scheduler(8)) for engine in engines]
    results = await asyncio.gather(*(run(loop, fake_job(7)) for loop in loops))
    assert results[0][-1].latents.tobytes() == results[1][-1].latents.tobytes()
    for loop in loops:
        await loop.close()
    worker.close()


async def test_each_row_of_a_batch_has_its_jobs_scales():
    class Noting(FakeUnet):
        def infer(self, inputs):
            seen.append(inputs.get("adapter_scale"))
            return super().infer(inputs)

    seen = []
    student, base = (np.array(scales, np.float32) for scales in ([1, 0], [0, 0]))
    guided = fake_job(1, guidance=4.0, adapter_scales=base)
    async with running(Noting(gate=threading.Semaphore(99))) as loop:
        await asyncio.gather(run(loop, guided), run(loop, fake_job(2, adapter_scales=student)))
        await run(loop, fake_job(3))
    assert any(np.array_equal(scales, [base, base, student]) for scales in seen[:-5])
    assert seen[-1] is None
