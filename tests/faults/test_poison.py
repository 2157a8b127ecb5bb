"""A request that kills or hangs whatever denoises it. Run: pytest tests/faults/test_poison.py"""

import os
import signal
from pathlib import Path

import grpc
import pytest
from supervised_meshes import supervised_mesh

KILLING_SEED, HANGING_SEED = 666, 777


@pytest.fixture(scope="module")
def fragile(tmp_path_factory):
    """Two replicas of each stage whose engines certain seeds kill or hang."""
    inherited = os.environ.get("PYTHONPATH")
    path = [str(Path(__file__).parent / "doubles"), *([inherited] if inherited else [])]
    environment = {
        "PYTHONPATH": os.pathsep.join(path),
        "SANGSANG_HANG_LEAST_S": "2",
        "SANGSANG_HANG_UNKNOWN_S": "10",
    }
    with supervised_mesh(tmp_path_factory.mktemp("fragile"), 2, environment) as mesh:
        yield mesh


@pytest.mark.parametrize(
    ("seed", "code"), [(KILLING_SEED, -signal.SIGKILL), (HANGING_SEED, 1)], ids=["kills", "hangs"]
)
async def test_a_poisonous_request_dies_alone(fragile, seed, code):
    first_end = len(fragile.ends)
    pids = [fragile.pid("diffusion"), fragile.pid("diffusion-2")]
    async with fragile.load() as load:
        await load.more(24)
        poisoned = await load.call(seed)
        assert poisoned.code is grpc.StatusCode.FAILED_PRECONDITION
        assert poisoned.reason == "REQUEST_QUARANTINED"
        again = await load.call(seed)
        assert again.reason == "REQUEST_QUARANTINED"
        for name, pid in zip(("diffusion", "diffusion-2"), pids, strict=True):
            await fragile.serves(name, besides=pid)
        await load.more(24)
    ends = [(end.name, end.code) for end in fragile.ends[first_end:]]
    assert sorted(ends) == [("diffusion", code), ("diffusion-2", code)], "it killed each once"
    assert load.failures == [poisoned, again], "and nobody else failed"
    load.check_pictures()
