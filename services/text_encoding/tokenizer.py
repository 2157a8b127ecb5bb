"""Prompts to CLIP tokens, without `transformers`.

The same pipeline as its `CLIPTokenizer`, on the `tokenizers` library that both share: a service
that imports `transformers` starts seconds later and needs some hundred MB more.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from tokenizers import Regex, Tokenizer, normalizers, pre_tokenizers
from tokenizers.models import BPE

from ..runtime.errors import FieldViolation, InvalidRequest, ModelNotReady
from .clip_files import ClipFiles

TokenIds: TypeAlias = NDArray[np.int64]

MAX_TEXT_CHARACTERS = 2000

# Words that BPE remembers. The library's own 10,000 hold 93 MiB of hostile prompts (measured).
_WORD_CACHE_SIZE = 2000
_WORDS = (
    r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
)


@dataclass(frozen=True, slots=True)
class Tokens:
    """A text as the encoder takes it.

    Attributes:
        ids: [token_limit], i64, start and end tokens included, padded.
        token_count: tokens that are not padding.
        dropped_token_count: tokens past the limit, which are not in `ids`.
    """

    ids: TokenIds
    token_count: int
    dropped_token_count: int


class ClipTokenizer:
    """The tokenizer of one model. Safe to use from several threads.

    Attributes:
        token_limit: length of what `tokenize` returns.
    """

    def __init__(self, files: ClipFiles, token_limit: int) -> None:
        """Builds the tokenizer.

        Raises:
            ModelNotReady: the files do not make a tokenizer.
        """
        self.token_limit = token_limit
        self._from_left = files.truncation_side == "left"
        self._pad_left = files.padding_side == "left"
        try:
            self._tokenizer = _build(files)
        except Exception as exc:  # The library raises bare Exception for bad merges.
            raise ModelNotReady(f"the tokenizer's files do not fit together: {exc}") from exc
        self._bos, self._eos, self._pad = (
            self._id(token) for token in (files.bos, files.eos, files.pad)
        )

    @classmethod
    def from_folder(cls, path: Path, token_limit: int) -> "ClipTokenizer":
        """Returns the tokenizer of the folder `path`, padding and cutting to `token_limit`.

        Raises:
            ModelNotReady: the folder does not hold a CLIP tokenizer.
        """
        return cls(ClipFiles.read(path), token_limit)

    def tokenize(self, text: str) -> Tokens:
        """Returns the tokens of a text, as diffusers' `encode_prompt` makes them.

        Raises:
            InvalidRequest: the text is too long or not Unicode.
        """
        check_text(text)
        words = self._tokenizer.encode(text, add_special_tokens=False).ids
        room = self.token_limit - 2
        dropped = max(len(words) - room, 0)
        if dropped:
            words = words[dropped:] if self._from_left else words[:room]
        sequence = [self._bos, *words, self._eos]
        ids = np.full(self.token_limit, self._pad, dtype=np.int64)
        start = self.token_limit - len(sequence) if self._pad_left else 0
        ids[start : start + len(sequence)] = sequence
        return Tokens(ids, len(sequence), dropped)

    def _id(self, token: str) -> int:
        index = self._tokenizer.token_to_id(token)
        if index is None:
            raise ModelNotReady(f"the tokenizer's vocabulary lacks its own token {token!r}")
        return index


def check_text(text: str, *, field: str = "text") -> None:
    """Checks that a text can be tokenized in bounded time.

    Raises:
        InvalidRequest: it is longer than `MAX_TEXT_CHARACTERS` or has lone surrogates.
    """
    if len(text) > MAX_TEXT_CHARACTERS:
        limit = f"must have at most {MAX_TEXT_CHARACTERS} characters, got {len(text)}"
        raise InvalidRequest([FieldViolation(field, limit)])
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        raise InvalidRequest([FieldViolation(field, "must be valid Unicode")]) from None


def _build(files: ClipFiles) -> Tokenizer:
    tokenizer = Tokenizer(
        BPE(
            vocab=files.vocabulary,
            merges=files.merges,
            cache_capacity=_WORD_CACHE_SIZE,
            unk_token=files.unk,
            continuing_subword_prefix="",
            end_of_word_suffix="</w>",
            fuse_unk=False,
        )
    )
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_WORDS), behavior="removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    tokenizer.add_tokens(files.added)
    return tokenizer
