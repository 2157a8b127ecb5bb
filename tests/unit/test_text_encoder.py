"""Embeddings: computed once, kept within bounds, never shared with a caller's fate."""

import asyncio
import threading

import numpy as np
import pytest
from clip_tokenizers import write_tokenizer
from stage_fakes import FakeEngine

from sangsang.services.runtime.errors import CorruptTensor, InvalidRequest, StageFailed
from sangsang.services.text_encoding.embedding_cache import EmbeddingCache, EncodedText
from sangsang.services.text_encoding.encoder import TextEncoder
from sangsang.services.text_encoding.shared_calls import SharedCalls
from sangsang.services.text_encoding.tokenizer import ClipTokenizer

LIMIT, WIDTH = 16, 8


def embed(inputs):
    ids = inputs["input_ids"].astype(np.float32)
    return {"last_hidden_state": np.repeat(ids[..., None], WIDTH, axis=2)}


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return ClipTokenizer.from_folder(
        write_tokenizer(tmp_path_factory.mktemp("t") / "tokenizer"), LIMIT
    )


def make(tokenizer, worker, engine, **limits):
    cache = EmbeddingCache(**{"entry_limit": 100, "byte_limit": 10**6, **limits})
    return TextEncoder(engine, tokenizer, digest="d", worker=worker, cache=cache)


async def test_encodes_and_remembers(tokenizer, worker):
    engine = FakeEngine("text_encoder", embed)
    encoder = make(tokenizer, worker, engine)
    first = await encoder.encode("a cat")
    again = await encoder.encode("a cat")
    other = await encoder.encode("a dog")
    assert first.text.embeddings.shape == (LIMIT, WIDTH)
    assert (first.cache_hit, again.cache_hit, other.cache_hit) == (False, True, False)
    assert again.text is first.text
    assert again.compute_seconds == again.queue_seconds == 0
    assert first.compute_seconds > 0
    assert len(engine.calls) == 2
    assert not first.text.embeddings.flags.writeable


async def test_equal_texts_in_flight_are_encoded_once(tokenizer, worker):
    gate = threading.Event()
    engine = FakeEngine("text_encoder", embed, gate=gate)
    encoder = make(tokenizer, worker, engine)
    calls = [asyncio.create_task(encoder.encode("a cat")) for _ in range(8)]
    await asyncio.to_thread(engine.started.wait, 5)
    gate.set()
    results = await asyncio.gather(*calls)
    assert len(engine.calls) == 1
    # The charges add up to the one computation.
    assert sorted(result.cache_hit for result in results) == [False] + [True] * 7
    assert sum(result.compute_seconds > 0 for result in results) == 1


@pytest.mark.parametrize("cancelled", [0, 1])
async def test_a_cancelled_caller_leaves_the_work_to_the_others(tokenizer, worker, cancelled):
    gate = threading.Event()
    encoder = make(tokenizer, worker, FakeEngine("text_encoder", embed, gate=gate))
    calls = [asyncio.create_task(encoder.encode("a cat")) for _ in range(2)]
    await asyncio.sleep(0.01)
    calls[cancelled].cancel()
    await asyncio.sleep(0.01)
    gate.set()
    result = await calls[1 - cancelled]
    assert result.text.token_count == 4
    assert not result.cache_hit
    with pytest.raises(asyncio.CancelledError):
        await calls[cancelled]


async def test_work_that_nobody_waits_for_any_more_is_not_done(tokenizer, worker):
    gate = threading.Event()
    engine = FakeEngine("text_encoder", embed, gate=gate)
    encoder = make(tokenizer, worker, engine)
    running = asyncio.create_task(encoder.encode("runs"))
    await asyncio.to_thread(engine.started.wait, 5)
    queued = [asyncio.create_task(encoder.encode("waits")) for _ in range(3)]
    await asyncio.sleep(0.01)
    for call in queued:
        call.cancel()
    await asyncio.sleep(0.01)
    gate.set()
    await running
    # And it can be asked for again.
    assert not (await encoder.encode("waits")).cache_hit
    assert len(engine.calls) == 2


async def test_an_engine_that_fails_fails_its_callers_only(tokenizer, worker):
    def compute(_):
        raise StageFailed("out of luck")

    engine = FakeEngine("text_encoder", compute)
    encoder = make(tokenizer, worker, engine)
    calls = [encoder.encode("x"), encoder.encode("x")]
    results = await asyncio.gather(*calls, return_exceptions=True)
    assert [type(result) for result in results] == [StageFailed, StageFailed]
    engine.compute = embed
    assert (await encoder.encode("x")).text.token_count == 3


async def test_values_that_are_not_finite_are_neither_returned_nor_kept(tokenizer, worker):
    broken = np.full((1, LIMIT, WIDTH), np.nan, np.float32)
    engine = FakeEngine("text_encoder", lambda _: {"last_hidden_state": broken})
    encoder = make(tokenizer, worker, engine)
    with pytest.raises(CorruptTensor):
        await encoder.encode("x")
    engine.compute = embed
    assert not (await encoder.encode("x")).cache_hit


async def test_a_text_too_long_does_not_reach_the_worker(tokenizer, worker):
    engine = FakeEngine("text_encoder", embed)
    with pytest.raises(InvalidRequest):
        await make(tokenizer, worker, engine).encode("x" * 1_000_000)
    assert engine.calls == []


def text(value=0.0, width=WIDTH):
    return EncodedText(np.full((LIMIT, width), value, np.float32), 2, 0)


def test_the_least_recently_used_goes_first():
    cache = EmbeddingCache(entry_limit=2, byte_limit=10**6)
    cache.put(("d", "a"), text(1))
    cache.put(("d", "b"), text(2))
    assert cache.get(("d", "a")) is not None
    cache.put(("d", "c"), text(3))
    assert [cache.get(("d", t)) is not None for t in "abc"] == [True, False, True]
    assert cache.get(("other encoder", "a")) is None


def test_bytes_are_bounded_and_accounted():
    cache = EmbeddingCache(entry_limit=1000, byte_limit=20_000)
    for index in range(100):
        cache.put(("d", str(index)), text(index))
    kept = len(cache)
    assert 1 < kept < 20
    assert cache.size_bytes <= 20_000
    for _ in range(10):
        cache.put(("d", "99"), text(1))
    assert len(cache) == kept
    cache.put(("d", "huge"), text(0, width=10_000))
    assert cache.get(("d", "huge")) is None
    assert len(cache) == kept


def test_no_entries_means_no_cache():
    cache = EmbeddingCache(entry_limit=0, byte_limit=10**6)
    cache.put(("d", "a"), text())
    assert cache.get(("d", "a")) is None
    assert cache.size_bytes == 0


def test_the_cache_is_safe_between_threads():
    cache = EmbeddingCache(entry_limit=20, byte_limit=30_000)

    def hammer(seed):
        for index in range(2000):
            key = ("d", str((index * seed) % 50))
            if cache.get(key) is None:
                cache.put(key, text())

    threads = [threading.Thread(target=hammer, args=(seed,)) for seed in (1, 3, 7, 11)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(cache) <= 20
    kept = sum(text().embeddings.nbytes + 4 * len(key[1]) + 1024 for key in cache._entries)
    assert cache.size_bytes == kept


async def test_nobody_joins_work_that_is_being_given_up():
    calls: SharedCalls[str, int] = SharedCalls()
    starts = []

    async def work():
        starts.append(1)
        await asyncio.sleep(0.05)
        return len(starts)

    first = asyncio.create_task(calls.run("k", work))
    await asyncio.sleep(0.01)
    first.cancel()
    # In the same turn of the loop, before the cancelled task has ended.
    with pytest.raises(asyncio.CancelledError):
        await first
    assert await calls.run("k", work) == (2, True)
    assert calls._calls == {}
