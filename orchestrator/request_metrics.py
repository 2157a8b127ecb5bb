"""What becomes of requests and their pictures, for Prometheus."""

import asyncio
import time
from typing import Any, Literal, TypeAlias

from ..services.runtime.deadlines import Deadline
from ..services.runtime.errors import (
    DeadlinePassed,
    DeadlineTooShort,
    MeshError,
    Overloaded,
    RequestQuarantined,
    StageUnavailable,
    TenantInFlightExceeded,
    TenantRateExceeded,
)
from ..services.runtime.metrics import declarations
from ..services.runtime.metrics.exemplars import current_exemplar
from ..services.runtime.metrics.registry import Metrics
from ..services.runtime.span_status import cancel_code
from .plan import TIERS, GenerationPlan
from .progress import ProgressFeed
from .scheduling.admission import Backlog
from .scheduling.work import Ticket

Outcome: TypeAlias = Literal["finished", "late", "failed", "left"]

_REFUSALS: tuple[type[MeshError], ...] = (
    Overloaded,
    DeadlineTooShort,
    TenantRateExceeded,
    TenantInFlightExceeded,
    RequestQuarantined,
    StageUnavailable,
)
_PHASES = ("waiting", "running")


class RequestMetrics:
    """Counts requests, those that come in and those that may not.

    Args:
        metrics: where it counts.
        backlog: what is admitted and not done.
    """

    def __init__(self, metrics: Metrics, backlog: Backlog) -> None:
        self._admissions = metrics.counter(declarations.ADMISSIONS)
        self._refusals = metrics.counter(declarations.REFUSALS)
        self._seconds = metrics.histogram(declarations.REQUEST_SECONDS)
        self._pictures = metrics.counter(declarations.PICTURES)
        self._in_time = metrics.counter(declarations.PICTURES_IN_TIME)
        self._compute = metrics.histogram(declarations.PICTURE_COMPUTE_SECONDS)
        self._misses = metrics.counter(declarations.DEADLINE_MISSES)
        # There from the start: the first of a series that appears with it is in nobody's rate.
        for tier in TIERS:
            self._admissions.labels(tier)
            self._in_time.labels(tier)
            for refusal in _REFUSALS:
                self._refusals.labels(tier, refusal.reason)
            for phase in _PHASES:
                self._misses.labels(tier, phase)
        metrics.read(declarations.REQUESTS_WAITING, lambda: {(): backlog.waiting})
        metrics.read(
            declarations.REQUESTS_RUNNING, lambda: {(): backlog.admitted - backlog.waiting}
        )
        metrics.read(
            declarations.BACKLOG_SECONDS,
            # A copy: the metrics are fetched on a thread.
            lambda: {(tier,): seconds for tier, seconds in backlog.tier_seconds.copy().items()},
        )

    def note_admission(self, plan: GenerationPlan) -> None:
        """Notes that a request was let in; `note_end` follows."""
        self._admissions.labels(plan.tier).inc()

    def note_refusal(self, plan: GenerationPlan, error: MeshError) -> None:
        """Notes that a request was not let in."""
        self._refusals.labels(plan.tier, error.reason).inc()

    def note_end(
        self,
        plan: GenerationPlan,
        ticket: Ticket,
        deadline: Deadline,
        feed: ProgressFeed,
        task: "asyncio.Future[Any]",
    ) -> None:
        """Notes that a request that was let in has ended.

        Args:
            plan: what was asked for.
            ticket: with which it came in.
            deadline: of whoever waited for it longest.
            feed: its pictures.
            task: that ran it, done.
        """
        outcome = _outcome(task, deadline)
        finished = feed.pictures
        for picture in finished:
            self._pictures.labels(plan.model_id, plan.tier, "finished").inc()
            compute_seconds = sum(run.compute_seconds for run in picture.runs)
            self._compute.labels(plan.tier).observe(compute_seconds, current_exemplar())
        if outcome == "finished":
            seconds = time.monotonic() - ticket.admitted_s
            self._seconds.labels(plan.tier).observe(seconds, current_exemplar())
            left_s = deadline.time_left_s
            if left_s is None or left_s >= 0:
                self._in_time.labels(plan.tier).inc(len(finished))
            return
        lost_count = len(plan.seeds) - len(finished)
        self._pictures.labels(plan.model_id, plan.tier, outcome).inc(lost_count)
        if outcome == "late":
            phase = "running" if ticket.started else "waiting"
            self._misses.labels(plan.tier, phase).inc()


def _outcome(task: "asyncio.Future[Any]", deadline: Deadline) -> Outcome:
    if task.cancelled():
        # Nobody waits any more: they left, or the time of the last of them was up.
        return "left" if cancel_code(deadline.time_left_s) == "CANCELLED" else "late"
    error = task.exception()
    if error is None:
        return "finished"
    return "late" if isinstance(error, DeadlinePassed) else "failed"
