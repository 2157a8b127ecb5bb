"""What pocket can draw, and what people call it in English and Korean.

The list itself is `concepts.txt`, a file to be edited by hand. Names come from there, from the
labels of `emojibase-data` and, where no other concept claims them, from its tags: a prompt that
could mean two pictures teaches neither.
"""

import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

_LIST = Path(__file__).with_name("concepts.txt")
# As tags these name hearts and books; in a prompt they name the background.
_COLOUR_WORDS = frozenset(
    [
        "갈색",
        "검은색",
        "노란색",
        "보라색",
        "분홍색",
        "빨간색",
        "주황색",
        "초록색",
        "파란색",
        "하늘색",
        "회색",
        "흰색",
    ]
)
_VARIATION_SELECTOR = "\ufe0f"


@dataclass(frozen=True, slots=True)
class Concept:
    """One thing to draw.

    Attributes:
        emoji: The character itself, which is a prompt too.
        hexcode: Its code points as the picture's file name spells them, e.g. `2764-fe0f`.
        group: The heading it stands under in `concepts.txt`.
        names: English names, the main one first.
        korean: Korean names, the main one first.
    """

    emoji: str
    hexcode: str
    group: str
    names: tuple[str, ...]
    korean: tuple[str, ...]

    @property
    def name(self) -> str:
        """The name that tables and captions use."""
        return self.names[0]


def read_concepts(emojibase: Path) -> list[Concept]:
    """Returns the concepts in the order of the list.

    Args:
        emojibase: The unpacked npm package `emojibase-data`.

    Raises:
        ValueError: If two concepts of the list claim the same emoji or the same own name.
        KeyError: If an emoji of the list is unknown to emojibase-data.
    """
    listed = list(_listed())
    _refuse_twice(bare for bare, _, _ in listed)
    _refuse_twice(name for _, _, own in listed for name in own)
    english = _records(emojibase, "en")
    korean = _records(emojibase, "ko")
    own_names = [own for _, _, own in listed]
    english_names = _claimed(own_names, [english[bare] for bare, _, _ in listed])
    korean_names = _claimed([[] for _ in listed], [korean[bare] for bare, _, _ in listed])
    return [
        Concept(english[bare]["emoji"], english[bare]["hexcode"].lower(), group, names, hangul)
        for (bare, group, _), names, hangul in zip(listed, english_names, korean_names, strict=True)
    ]


def _listed() -> Iterable[tuple[str, str, list[str]]]:
    """Yields (emoji without variation selectors, group, own names) for each entry of the list."""
    group, entry = "", ""
    for line in _LIST.read_text("utf-8").splitlines():
        if line.startswith("#"):
            continue
        if line.startswith("["):
            group = line.strip("[]")
            continue
        for word in [*line.split(), "\u2700"]:
            # Names are Latin words, so a word that opens with a symbol opens the next entry.
            if ord(word[0]) < 0x2000:
                entry += " " + word
                continue
            if entry:
                emoji, _, names = entry.partition("=")
                yield _bare(emoji), group, names.split(",") if names else []
            entry = "" if word == "\u2700" else word


def _records(emojibase: Path, language: str) -> dict[str, dict]:
    text = (emojibase / language / "data.json").read_text("utf-8")
    return {_bare(record["emoji"]): record for record in json.loads(text)}


def _claimed(own: list[list[str]], records: list[dict]) -> list[tuple[str, ...]]:
    """Gives every concept its own names, its label, and the tags that it alone carries."""
    own = [list(names) for names in own]
    taken = {name for names in own for name in names}
    for names, record in zip(own, records, strict=True):
        label = record["label"].lower()
        if label not in taken:
            names.append(label)
            taken.add(label)
    tag_uses = Counter(tag.lower() for record in records for tag in set(record.get("tags", [])))
    for names, record in zip(own, records, strict=True):
        tags = (tag.lower() for tag in record.get("tags", []))
        names.extend(
            t for t in tags if tag_uses[t] == 1 and t not in taken | _COLOUR_WORDS and t[1:]
        )
    return [tuple(names) for names in own]


def _refuse_twice(words: Iterable[str]) -> None:
    twice = [word for word, uses in Counter(words).items() if uses > 1]
    if twice:
        raise ValueError(f"concepts.txt lists these more than once: {twice}")


def _bare(emoji: str) -> str:
    return emoji.replace(_VARIATION_SELECTOR, "")
