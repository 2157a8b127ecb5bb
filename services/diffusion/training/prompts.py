"""How people ask: the sentences that a concept on a background is trained under.

English for the most part, Korean and the bare emoji now and then. A prompt that names no background
leaves it to the seed.
"""

from dataclasses import dataclass
from random import Random

from .concepts import Concept


@dataclass(frozen=True, slots=True)
class Colour:
    """A background: its English and Korean name and its tone."""

    name: str
    korean: str
    rgb: tuple[int, int, int]


# Tones a little off the emoji palette, so that a yellow face stands out on yellow.
COLOURS = (
    Colour("white", "흰색", (250, 250, 250)),
    Colour("black", "검은색", (24, 24, 28)),
    Colour("gray", "회색", (150, 152, 158)),
    Colour("red", "빨간색", (205, 40, 50)),
    Colour("orange", "주황색", (245, 140, 50)),
    Colour("yellow", "노란색", (255, 236, 120)),
    Colour("green", "초록색", (70, 160, 90)),
    Colour("light blue", "하늘색", (160, 215, 245)),
    Colour("blue", "파란색", (45, 85, 200)),
    Colour("purple", "보라색", (130, 70, 180)),
    Colour("pink", "분홍색", (250, 180, 205)),
    Colour("brown", "갈색", (120, 80, 55)),
)

_ENGLISH = (
    "{a} on {c} background",
    "{a} on {c} background",
    "{n} on {c} background",
    "{n}, {d} background",
)
_ENGLISH_OPEN = ("{n}", "{n}", "{a}")
_KOREAN = ("{d} 배경의 {n}", "{d} 배경 {n}", "{d} 배경에 {n}")
_EMOJI = ("{n} on {c} background", "{n} {d}", "{d} 배경 {n}")

_COLOUR_NAMED = 0.6
_KOREAN_SHARE, _EMOJI_SHARE = 0.2, 0.08
_MAIN_NAME_SHARE = 0.6


def ask(concept: Concept, colour: Colour, rng: Random) -> str:
    """Returns one way to ask for the concept, with or without naming the background."""
    named = rng.random() < _COLOUR_NAMED
    draw = rng.random()
    if draw < _EMOJI_SHARE:
        hangul = rng.random() < 0.3
        return _fill(rng.choice(_EMOJI if named else ("{n}",)), concept.emoji, colour, hangul)
    if draw < _EMOJI_SHARE + _KOREAN_SHARE:
        name = _pick(concept.korean, rng)
        return _fill(rng.choice(_KOREAN if named else ("{n}",)), name, colour, hangul=True)
    name = _pick(concept.names, rng)
    return _fill(rng.choice(_ENGLISH if named else _ENGLISH_OPEN), name, colour, hangul=False)


def plain(concept: Concept, colour: Colour | None = None) -> str:
    """Returns the sentence that evaluation and captions use: "a rocket on a yellow background"."""
    if colour is None:
        return concept.name
    return _fill(_ENGLISH[0], concept.name, colour, hangul=False)


def every_prompt_word(concepts: list[Concept]) -> list[str]:
    """Returns the text that the tokenizer's vocabulary is learnt from."""
    names = [name for c in concepts for name in (*c.names, *c.korean, c.emoji)]
    sentences = [
        _fill(template, concepts[0].name, colour, hangul)
        for colour in COLOURS
        for hangul, templates in ((False, _ENGLISH), (True, _KOREAN))
        for template in templates
    ]
    return names + sentences * 4


def _fill(template: str, name: str, colour: Colour, hangul: bool) -> str:
    return template.format(
        n=name,
        a=_with_article(name),
        c=_with_article(colour.name),
        d=colour.korean if hangul or "배경" in template else colour.name,
    )


def _with_article(name: str) -> str:
    if name.endswith("s") and not name.endswith("ss"):
        return name
    return f"{'an' if name[0] in 'aeiou' else 'a'} {name}"


def _pick(names: tuple[str, ...], rng: Random) -> str:
    if len(names) == 1 or rng.random() < _MAIN_NAME_SHARE:
        return names[0]
    return rng.choice(names[1:])
