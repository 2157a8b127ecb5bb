"""Kernels run in Triton's interpreter here: it has to be asked for before triton is imported.

pytest reads this file before it collects any test, and diffusers imports triton where it is there.
"""

import os
import threading

import pytest

os.environ.setdefault("TRITON_INTERPRET", "1")


@pytest.fixture
def gate():
    """What a call on `worker` may wait for; it opens at the end whatever happens."""
    gate = threading.Event()
    yield gate
    gate.set()


@pytest.fixture
def worker(gate):
    """An engine's thread."""
    from sangsang.services.runtime.worker import EngineWorker

    worker = EngineWorker("engine")
    yield worker
    gate.set()
    worker.close()
