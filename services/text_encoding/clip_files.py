"""Reads a CLIP tokenizer's folder, whichever generation of `transformers` wrote it.

Newer ones write `tokenizer.json`, older ones `vocab.json` and `merges.txt`, and the special tokens
lie in up to four files with an order of precedence. The result has to be the tokenizer that
`CLIPTokenizer.from_pretrained` builds: another id for one token is another picture.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias, cast

from tokenizers import AddedToken

from ..runtime.errors import ModelNotReady

Json: TypeAlias = dict[str, Any]

# In the order in which transformers adds them.
_NAMED = (
    "bos_token",
    "eos_token",
    "unk_token",
    "sep_token",
    "pad_token",
    "cls_token",
    "mask_token",
)
_EXTRA = ("additional_special_tokens", "extra_special_tokens")
_DEFAULTS = {
    "bos_token": "<|startoftext|>",
    "eos_token": "<|endoftext|>",
    "unk_token": "<|endoftext|>",
    "pad_token": "<|endoftext|>",
}


@dataclass(frozen=True, slots=True)
class ClipFiles:
    """What a CLIP tokenizer consists of.

    Attributes:
        vocabulary: id of each token.
        merges: pairs in the order of their rank.
        added: tokens matched before the text is split, in the order to add them.
        bos: token that starts a sequence.
        eos: token that ends it.
        pad: token that fills it up.
        unk: token of what the vocabulary lacks.
        padding_side: `right` or `left`.
        truncation_side: `right` or `left`.
    """

    vocabulary: dict[str, int]
    merges: list[tuple[str, str]]
    added: list[AddedToken]
    bos: str
    eos: str
    pad: str
    unk: str
    padding_side: str
    truncation_side: str

    @classmethod
    def read(cls, path: Path) -> "ClipFiles":
        """Returns the tokenizer that lies in the folder `path`.

        Raises:
            ModelNotReady: files are missing or are not what they should be.
        """
        try:
            return _read(path)
        except (OSError, ValueError, KeyError, TypeError) as exc:
            raise ModelNotReady(f"{path} is not a CLIP tokenizer: {exc!r}") from exc


def _read(path: Path) -> ClipFiles:
    config = _json(path / "tokenizer_config.json")
    serialized = _json(path / "tokenizer.json")
    vocabulary, merges = _vocabulary(path, serialized)
    named, indexed = _special_tokens(path, config, serialized)
    return ClipFiles(
        vocabulary=vocabulary,
        merges=merges,
        added=_in_adding_order(named, indexed),
        bos=_text(named["bos_token"]),
        eos=_text(named["eos_token"]),
        pad=_text(named["pad_token"]),
        unk=_text(named["unk_token"]),
        padding_side=str(config.get("padding_side", "right")),
        truncation_side=str(config.get("truncation_side", "right")),
    )


def _vocabulary(path: Path, serialized: Json) -> tuple[dict[str, int], list[tuple[str, str]]]:
    if serialized:
        model = serialized["model"]
        pairs = [m.split(" ") if isinstance(m, str) else m for m in model["merges"]]
        return dict(model["vocab"]), [(left, right) for left, right in pairs]
    vocabulary = cast(dict[str, int], _json(path / "vocab.json", required=True))
    lines = (path / "merges.txt").read_text("utf-8").split("\n")
    merges: list[tuple[str, str]] = []
    for line in lines:
        # The first line may state a version.
        if line.strip() and not line.startswith("#version"):
            left, right = line.rstrip("\r").split(" ")
            merges.append((left, right))
    return vocabulary, merges


def _special_tokens(
    path: Path, config: Json, serialized: Json
) -> tuple[dict[str, Any], dict[int, AddedToken]]:
    """Returns the named tokens (and lists of extra ones) and the added tokens by id."""
    settings = {key: _token(value) for key, value in config.items() if key in (*_NAMED, *_EXTRA)}
    if "added_tokens_decoder" in config:
        # The newest form: it replaces all the older files.
        entries = cast(Mapping[str, Json], config["added_tokens_decoder"])
        indexed = {int(index): AddedToken(**entry) for index, entry in entries.items()}
        return _unified(settings, indexed), indexed
    for key, value in _json(path / "special_tokens_map.json").items():
        token = _token(value, special=True)
        # The one entry that both files add to.
        settings[key] = [*settings.get(key, []), *token] if key == _EXTRA[1] else token
    # Not the defaults: transformers looks at what the files name.
    special = {_text(settings[key]) for key in _NAMED if settings.get(key)}
    indexed = {
        int(index): AddedToken(text, normalized=text not in special, special=text in special)
        for text, index in _json(path / "added_tokens.json").items()
    }
    for entry in serialized.get("added_tokens", []):
        fields = {key: value for key, value in entry.items() if key != "id"}
        indexed[int(entry["id"])] = AddedToken(**fields)
    return _unified(settings, indexed), indexed


def _unified(settings: dict[str, Any], indexed: dict[int, AddedToken]) -> dict[str, Any]:
    # A named token that is listed with an id takes the flags it has there.
    by_text = {token.content: token for token in indexed.values()}
    stated = {
        key: by_text.get(_text(value), value) if key in _NAMED else value
        for key, value in settings.items()
        if value is not None
    }
    return {**_DEFAULTS, **stated}


def _in_adding_order(named: dict[str, Any], indexed: dict[int, AddedToken]) -> list[AddedToken]:
    tokens = [indexed[index] for index in sorted(indexed)]
    wanted = [named[key] for key in _NAMED if key in named]
    for key in _EXTRA:
        wanted += list(cast(list[Any], named.get(key, [])))
    listed = {token.content for token in tokens}
    for value in wanted:
        # Twice the same text is no mistake: the library takes the flags of the last.
        if _text(value) not in listed:
            token = value if isinstance(value, AddedToken) else AddedToken(value, special=True)
            tokens.append(token)
    special = {_text(named[key]) for key in _NAMED if key in named}
    for token in tokens:
        token.special = token.special or token.content in special
    return tokens


def _token(value: Any, *, special: bool | None = None) -> Any:
    """Returns a token as it is written in a file: a string, an `AddedToken`, or a list of them."""
    if isinstance(value, list):
        return [_token(item, special=special) for item in cast(list[Any], value)]
    if not isinstance(value, dict):
        return value
    fields = {key: item for key, item in cast(Json, value).items() if key != "__type"}
    if special is not None:
        fields["special"] = special
    return AddedToken(**fields)


def _text(value: Any) -> str:
    return value.content if isinstance(value, AddedToken) else str(value)


def _json(file: Path, *, required: bool = False) -> Json:
    if not file.is_file() and not required:
        return {}
    value: object = json.loads(file.read_text("utf-8"))
    if not isinstance(value, dict):
        raise ValueError(f"{file.name} must hold a JSON object")
    return cast(Json, value)
