"""One span for each execution of an engine, in the trace of its call. No sockets."""

import numpy as np
import pytest
from hosting import Spans
from stage_fakes import FakeEngine

from sangsang.services.runtime.engines.traced import TracedEngine
from sangsang.services.runtime.worker import queue_seconds

INPUTS = {"sample": np.zeros((3, 2), np.float32)}


@pytest.fixture
def spans():
    return Spans()


@pytest.fixture
def tracer(spans):
    return spans.telemetry("test").tracer


async def test_an_execution_is_a_child_of_its_call(spans, tracer, worker):
    engine = TracedEngine(FakeEngine("vae_decoder", dict), tracer)
    with tracer.start_as_current_span("call") as call:
        await worker.run(engine.infer, INPUTS)
    [span] = spans.named("engine_infer")
    assert span.parent.span_id == call.get_span_context().span_id
    facts = dict(span.attributes)
    assert facts.pop("sangsang.queue_seconds") >= 0
    assert facts.pop("sangsang.compute_seconds") > 0
    assert facts == {
        "sangsang.engine.module": "vae_decoder",
        "sangsang.engine.backend": "fake",
        "sangsang.engine.precision": "f32",
        "sangsang.batch.row_count": 3,
    }


async def test_an_execution_for_no_call_has_no_span(spans, tracer, worker):
    engine = TracedEngine(FakeEngine("unet", dict), tracer)
    await worker.run(engine.infer, INPUTS)
    assert spans.ended == ()


async def test_a_failure_is_told_without_its_text(spans, tracer, worker):
    def fail(inputs):
        raise ValueError("secret")

    engine = TracedEngine(FakeEngine("unet", fail), tracer)
    with tracer.start_as_current_span("call"), pytest.raises(ValueError, match="secret"):
        await worker.run(engine.infer, INPUTS)
    [span] = spans.named("engine_infer")
    assert span.attributes["error.type"] == "ValueError"
    assert span.status.status_code.name == "ERROR"
    assert not span.events
    assert "secret" not in span.to_json()


async def test_the_wait_for_the_thread_is_told_to_what_runs_on_it(worker):
    timed = await worker.run_timed(queue_seconds)
    assert timed.value == timed.queue_seconds > 0
    assert queue_seconds() == 0.0


async def test_an_engine_closes_with_its_wrapper(tracer):
    engine = FakeEngine("unet", dict)
    TracedEngine(engine, tracer).close()
    assert engine.closed
