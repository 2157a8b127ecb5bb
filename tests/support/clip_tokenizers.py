"""Folders of a small CLIP tokenizer, in each form that releases of transformers have written."""

import json
from collections import Counter
from itertools import pairwise
from pathlib import Path
from typing import Any

START, END = "<|startoftext|>", "<|endoftext|>"
_WORDS = (
    "a photo of the cat dog rocket on yellow red background don't we're hello world naïve café "
    "상상 우주 로켓 노란 배경 2024 !! ..."
)


def added(content: str, *, typed: bool = False, **fields: Any) -> dict[str, Any]:
    """An added token as JSON files hold it."""
    flags = {"lstrip": False, "normalized": True, "rstrip": False, "single_word": False}
    return {**({"__type": "AddedToken"} if typed else {}), "content": content, **flags, **fields}


def learn(merge_count: int = 120) -> tuple[dict[str, int], list[tuple[str, str]]]:
    """A vocabulary and merges, learnt by byte-pair encoding from a few words."""
    letters = byte_letters()
    words = []
    for word in _WORDS.lower().split():
        symbols = [letters[byte] for byte in word.encode()]
        words.append([*symbols[:-1], symbols[-1] + "</w>"])
    merges: list[tuple[str, str]] = []
    for _ in range(merge_count):
        pairs = Counter(pair for word in words for pair in pairwise(word))
        if not pairs:
            break
        best = max(sorted(pairs), key=pairs.__getitem__)
        merges.append(best)
        words = [_merged(word, best) for word in words]
    alphabet = list(letters.values())
    tokens = [*alphabet, *(a + "</w>" for a in alphabet), *(a + b for a, b in merges), START, END]
    return {token: index for index, token in enumerate(tokens)}, merges


def write_tokenizer(
    path: Path,
    *,
    config: dict[str, Any] | None = None,
    special: dict[str, Any] | None = None,
    extra: dict[str, int] | None = None,
) -> Path:
    """Writes a folder as older releases did: vocabulary and merges, the rest where given."""
    path.mkdir(parents=True)
    vocabulary, merges = learn()
    lines = ["#version: 0.2", *(" ".join(pair) for pair in merges), ""]
    (path / "merges.txt").write_text("\n".join(lines), "utf-8")
    files = {
        "vocab.json": vocabulary,
        "tokenizer_config.json": config,
        "special_tokens_map.json": special,
        "added_tokens.json": extra,
    }
    for name, content in files.items():
        if content is not None:
            (path / name).write_text(json.dumps(content, ensure_ascii=False), "utf-8")
    return path


def byte_letters() -> dict[int, str]:
    """GPT-2's letters for bytes: themselves where printable, from U+0100 elsewhere."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in plain]
    return {
        **{byte: chr(byte) for byte in plain},
        **{byte: chr(256 + index) for index, byte in enumerate(others)},
    }


def _merged(word: list[str], pair: tuple[str, str]) -> list[str]:
    result: list[str] = []
    for symbol in word:
        if result and (result[-1], symbol) == pair:
            result[-1] += symbol
        else:
            result.append(symbol)
    return result
