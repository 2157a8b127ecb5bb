"""How long calls of a stage take, alone and while another stage is called all the time."""

import itertools
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence

from ...runtime.models.profile import PairProfile, StageName

Call = Callable[[], object]


def measure_alone(call: Call, duration_s: float) -> float:
    """Returns the mean seconds of a call, one after the other for some time."""
    return seconds_together([call], duration_s)[0]


def measure_pairs(
    calls: Mapping[StageName, Call], alone: Mapping[StageName, float], duration_s: float
) -> Iterator[PairProfile]:
    """Yields what each pair of stages does to each other.

    Args:
        calls: one call of each stage.
        alone: mean seconds of a call by itself.
        duration_s: for each pair.
    """
    for stage, other in itertools.combinations(calls, 2):
        first, second = seconds_together([calls[stage], calls[other]], duration_s)
        yield PairProfile(
            stage=stage,
            other=other,
            slowdown=first / alone[stage],
            other_slowdown=second / alone[other],
        )


def seconds_together(calls: Sequence[Call], duration_s: float) -> list[float]:
    """Returns the mean seconds of each call while all are made over and over at once.

    Raises:
        Exception: what a call raised.
    """
    means = [0.0] * len(calls)
    failures: list[BaseException] = []
    # Nobody is timed alone at either end: all begin together, and go on until all have stopped.
    begin = threading.Barrier(len(calls))
    timing = threading.Semaphore(0)
    stop = threading.Event()

    def repeat(index: int) -> None:
        try:
            calls[index]()
            begin.wait(timeout=60.0)
            means[index] = _mean_seconds(calls[index], duration_s)
            timing.release()
            while not stop.is_set():
                calls[index]()
        except BaseException as error:
            failures.append(error)
            begin.abort()
            timing.release()

    threads = [threading.Thread(target=repeat, args=(index,)) for index in range(len(calls))]
    for thread in threads:
        thread.start()
    for _ in threads:
        timing.acquire()
    stop.set()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]
    return means


def _mean_seconds(call: Call, duration_s: float) -> float:
    started_at = time.perf_counter()
    for count in itertools.count(1):
        call()
        taken_s = time.perf_counter() - started_at
        if taken_s >= duration_s:
            return taken_s / count
    raise AssertionError("counting does not end")
