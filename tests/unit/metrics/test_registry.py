"""Metrics and their endpoint. Run: pytest tests/unit/metrics"""

import asyncio
import subprocess
import sys
import textwrap

import pytest
from opentelemetry.trace import SpanContext, TraceFlags
from scraping import OPEN_METRICS, Values, fetch, free_ports, trace_ids

from sangsang.services.runtime.metrics import declarations
from sangsang.services.runtime.metrics.exemplars import exemplar_of
from sangsang.services.runtime.metrics.registry import Metrics

SAMPLED = SpanContext(7, 3, False, TraceFlags(TraceFlags.SAMPLED))


@pytest.fixture
async def served():
    """Metrics, and the port that they are served on."""
    metrics, port = Metrics("fake"), free_ports(1)
    await metrics.serve("127.0.0.1", port)
    yield metrics, port
    await metrics.close()


async def test_what_was_counted_is_fetched(served):
    metrics, port = served
    metrics.counter(declarations.CALLS).labels("a/b", "OK").inc()
    metrics.histogram(declarations.STEP_SECONDS).labels("m").observe(0.02)
    values = Values(await asyncio.to_thread(fetch, port))
    assert values.of(declarations.CALLS, method="a/b", code="OK") == 1
    assert values.of(declarations.STEP_SECONDS, "_sum") == 0.02
    assert values.of(declarations.STEP_SECONDS, "_bucket", le="0.01") == 0
    assert values.of(declarations.STEP_SECONDS, "_bucket", le="0.02") == 1
    assert values.of(declarations.START_TIME, service="fake") > 1e9


async def test_what_is_read_is_read_when_it_is_fetched(served):
    metrics, port = served
    rows = {("m",): 1.0}
    metrics.read(declarations.ROWS_IN_FLIGHT, lambda: rows)
    metrics.read(declarations.WASTED_STEPS, lambda: {("m",): rows["m",] * 2})
    for count in (3.0, 5.0):
        rows["m",] = count
        values = Values(await asyncio.to_thread(fetch, port))
        assert values.of(declarations.ROWS_IN_FLIGHT, model="m") == count
        assert values.of(declarations.WASTED_STEPS, model="m") == 2 * count


async def test_a_trace_is_beside_its_duration_in_the_format_that_has_room_for_it(served):
    metrics, port = served
    seconds = metrics.histogram(declarations.STEP_SECONDS).labels("m")
    seconds.observe(0.02, exemplar_of(SAMPLED))
    text = await asyncio.to_thread(fetch, port, OPEN_METRICS)
    assert trace_ids(text, declarations.STEP_SECONDS) == {f"{7:032x}"}
    assert "trace_id" not in await asyncio.to_thread(fetch, port)


@pytest.mark.parametrize(
    "context",
    [None, SpanContext(0, 0, False), SpanContext(7, 3, False, TraceFlags(TraceFlags.DEFAULT))],
    ids=["no span", "no trace", "not recorded"],
)
def test_a_trace_that_nobody_records_is_not_named(context):
    assert exemplar_of(context) is None


def test_two_services_of_one_process_do_not_mix():
    one, other = Metrics("one"), Metrics("other")
    one.counter(declarations.CALLS).labels("a/b", "OK").inc()
    other.counter(declarations.CALLS).labels("a/b", "OK").inc(5)
    assert Values(one.text()).of(declarations.CALLS) == 1
    assert Values(other.text()).of(declarations.CALLS) == 5


async def test_a_port_that_is_taken_is_an_error_and_a_closed_one_is_free_again(served):
    metrics, port = served
    with pytest.raises(OSError, match="in use"):
        await Metrics("late").serve("127.0.0.1", port)
    await metrics.close()
    again = Metrics("again")
    await again.serve("127.0.0.1", port)
    assert again.port == port
    await again.close()


def test_a_process_without_metrics_does_not_import_their_library():
    code = """
    import sys
    import sangsang.orchestrator.service
    import sangsang.services.diffusion.servicer
    import sangsang.services.text_encoding.servicer
    from sangsang.services.runtime.server import ServiceHost
    from sangsang.services.runtime.settings import ProcessSettings

    class Nothing:
        name, service_names = "nothing", ()

    ServiceHost(Nothing(), ProcessSettings())
    assert "prometheus_client" not in sys.modules
    ServiceHost(Nothing(), ProcessSettings(metrics_port=1))
    assert "prometheus_client" in sys.modules
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(code)], check=True, timeout=60)
