"""Workers and step loops, as their metrics tell of them. Run: pytest tests/unit/metrics"""

import asyncio
import threading
from dataclasses import dataclass

import pytest
from diffusion_fakes import FakeUnet, fake_job, fake_scheduler
from opentelemetry.trace import SpanContext, TraceFlags
from scraping import Values

from sangsang.services.diffusion.step_loop import StepLoop
from sangsang.services.diffusion.step_metrics import StepMetrics
from sangsang.services.runtime.errors import StageLost
from sangsang.services.runtime.metrics import declarations
from sangsang.services.runtime.metrics.registry import Metrics
from sangsang.services.runtime.metrics.workers import WorkerMetrics
from sangsang.services.runtime.watchdog import HangLimits


@pytest.fixture
def metrics():
    return Metrics("fake")


async def test_a_worker_that_works_is_busy_before_it_is_done(metrics, worker, gate):
    WorkerMetrics(metrics, [worker])
    running = asyncio.create_task(worker.run(gate.wait))
    waiting = asyncio.create_task(worker.run(lambda: 1))
    await asyncio.sleep(0.05)
    values = Values(metrics.text())
    assert values.of(declarations.ENGINE_QUEUE_DEPTH, worker="engine") == 2
    assert 0.02 < values.of(declarations.ENGINE_BUSY_SECONDS, worker="engine") < 1
    gate.set()
    await asyncio.gather(running, waiting)
    values = Values(metrics.text())
    assert values.of(declarations.ENGINE_WAIT_SECONDS, "_count", worker="engine") == 2
    assert values.of(declarations.ENGINE_WAIT_SECONDS, "_sum", worker="engine") > 0.02
    assert values.of(declarations.ENGINE_QUEUE_DEPTH, worker="engine") == 0
    assert values.of(declarations.ENGINE_HANGS, worker="engine") == 0


async def test_a_hang_is_seen_while_it_lasts_and_counted(metrics, worker, gate):
    WorkerMetrics(metrics, [worker])
    fatal = asyncio.Event()
    worker.watch(HangLimits(least_s=0.2, unknown_s=0.2), fatal.set)
    hanging = asyncio.create_task(worker.run(gate.wait, kind="a"))
    async with asyncio.timeout(10):
        with pytest.raises(StageLost):
            await hanging
    values = Values(metrics.text())
    assert values.of(declarations.ENGINE_CALL_AGE, worker="engine") > 0.1
    assert values.of(declarations.ENGINE_HANGS, worker="engine") == 1


@dataclass
class FakeLoop:
    loop: StepLoop
    engine: FakeUnet


@dataclass
class FakeModel:
    """As much of a model as its metrics look at."""

    loops: list[FakeLoop]

    @property
    def loop(self):
        return self.loops[0].loop


async def test_steps_rows_and_ends_are_counted(metrics, worker):
    models = {}
    steps = StepMetrics(metrics, lambda: models)
    engine = FakeUnet()
    engine.padding_row_count = 3
    loop = StepLoop(engine, worker, scheduler=fake_scheduler(8), observer=steps.observer_of("m"))
    models["m"] = FakeModel([FakeLoop(loop, engine)])
    context = SpanContext(7, 3, False, TraceFlags(TraceFlags.SAMPLED))
    async with loop.submit(fake_job(1, guidance=4.0, trace=context)) as events:
        async for _ in events:
            pass
    engine.failures.append(RuntimeError("broken"))
    with pytest.raises(Exception, match="failed"):
        async with loop.submit(fake_job(2)) as events:
            async for _ in events:
                pass
    values = Values(metrics.text())
    assert values.of(declarations.STEP_SECONDS, "_count", model="m") == 5
    assert values.by(declarations.STEP_ROWS, "le", part="_bucket")["2.0",] == 5
    assert values.of(declarations.STEP_ROWS, "_sum", model="m") == 10
    assert values.of(declarations.STEP_ROW_LIMIT, model="m") == 8
    assert values.of(declarations.STEP_PADDING_ROWS, model="m") == 3
    assert values.of(declarations.ROWS_IN_FLIGHT, model="m") == 0
    ends = values.by(declarations.JOBS, "outcome")
    assert ends == {("finished",): 1, ("failed",): 1}
    await loop.close()


async def test_a_step_for_a_caller_who_left_is_wasted(metrics, worker, gate):
    models = {}
    steps = StepMetrics(metrics, lambda: models)
    engine = FakeUnet(gate=threading.Semaphore(0))
    loop = StepLoop(engine, worker, scheduler=fake_scheduler(8), observer=steps.observer_of("m"))
    models["m"] = FakeModel([FakeLoop(loop, engine)])
    async with loop.submit(fake_job(1)):
        # Until the step runs: a job that leaves before it is in none.
        async with asyncio.timeout(10):
            while loop._stepper._running is None:
                await asyncio.sleep(0.001)
        assert Values(metrics.text()).of(declarations.ROWS_IN_FLIGHT, model="m") == 1
    engine.gate.release()
    async with asyncio.timeout(10):
        while loop.job_count:
            await asyncio.sleep(0.001)
    values = Values(metrics.text())
    assert values.of(declarations.WASTED_STEPS, model="m") == 1
    assert values.by(declarations.JOBS, "outcome") == {("left",): 1}
    await loop.close()
