"""What is asked: the same prompts with the same seeds, whatever the configuration.

The prompts are those of the real pictures. Each group asks for every name once; a few prompts are
asked again with other seeds, which shows how much a configuration leaves to the seed.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from .real_pictures import Caption

Item = TypeVar("Item")

# Seeds of one group never meet those of the next.
_SEEDS_PER_GROUP = 10_000
_VARIETY_SEED, _FIGURE_SEED = 1_000_000, 2_000_000


@dataclass(frozen=True, slots=True)
class Question:
    """One prompt with its seed, and what an answer has to show."""

    caption: Caption
    seed: int


def ask_each(captions: Sequence[Caption], limit: int | None = None) -> list[Question]:
    """Returns one question for each name of each group.

    A name with several prompts in a group is asked for with one of them, in rotation, so that the
    group as a whole uses them all. Seeds go by name: fewer questions are some of the same.

    Args:
        captions: of the real pictures.
        limit: most questions of each group, spread over its names; None asks for all.
    """
    groups: dict[str, dict[int, dict[str, Caption]]] = {}
    for caption in captions:
        texts = groups.setdefault(caption.group, {}).setdefault(caption.label, {})
        texts.setdefault(caption.text, caption)
    asked = []
    for number, by_label in enumerate(groups.values()):
        for label in spread(sorted(by_label), limit):
            choices = list(by_label[label].values())
            seed = number * _SEEDS_PER_GROUP + label
            asked.append(Question(choices[label % len(choices)], seed))
    return asked


def ask_again(captions: Sequence[Caption], prompts: int, seeds: int) -> list[Question]:
    """Returns some prompts of the first group, each with several seeds, one after the other."""
    firsts = _one_of_each_text([c for c in captions if c.group == captions[0].group])
    return [
        Question(caption, _VARIETY_SEED + number * seeds + seed)
        for number, caption in enumerate(spread(firsts, prompts))
        for seed in range(seeds)
    ]


def ask_for_figure(
    captions: Sequence[Caption], texts: Sequence[str], rows: int = 6
) -> list[Question]:
    """Returns what the figure shows: the given prompts, else some spread over the groups.

    A given prompt need not be among the captions: nobody scores the figure.
    """
    known = {caption.text: caption for caption in captions}
    chosen = texts or [question.caption.text for question in spread(ask_each(captions), rows)]
    return [
        Question(known.get(text) or Caption(text, 0, "", None), _FIGURE_SEED + number)
        for number, text in enumerate(chosen)
    ]


def spread(items: Sequence[Item], limit: int | None) -> list[Item]:
    """Returns at most `limit` of the items, evenly spaced."""
    if limit is None or limit >= len(items):
        return list(items)
    places = np.linspace(0, len(items), limit, endpoint=False).astype(int)
    return [items[place] for place in places]


def _one_of_each_text(captions: Sequence[Caption]) -> list[Caption]:
    return list({caption.text: caption for caption in captions}.values())
