"""The tokenizer against transformers' own, token for token."""

import time

import numpy as np
import pytest
from clip_tokenizers import END, START, added, learn, write_tokenizer
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sangsang.services.runtime.errors import InvalidRequest, ModelNotReady
from sangsang.services.text_encoding.tokenizer import MAX_TEXT_CHARACTERS, ClipTokenizer

LIMIT = 24

TEXTS = [
    "",
    " ",
    "a photo of a cat",
    "  A  Photo\tof\n\nthe CAT  ",
    "don't we're I'll he'd 's 't it'S",
    "상상 우주 로켓, 노란 배경",
    "\u1109\u1161\u11bc decomposed 한국어",
    "🚀👩‍👩‍👧‍👦 🇰🇷 🏳️‍🌈",
    "é e\u0301 \u0301\u0301 ﬁ ẞ İstanbul Ǆ",
    "zero\u200bwidth \u200e\u200f \ufeffbom",
    "\u202eRTL\u202c עברית العربية",
    "nul\x00in\x01side\x7f",
    "\u2028 \u3000 \x85 \xa0 spaces",
    f"{END} inside {START} x{END}y <|ENDOFTEXT|> <|end",
    "123 456,789.00 ½ Ⅳ ٣",
    "!! ! wow! hello!",
    "cat " * 100,
    "a" * MAX_TEXT_CHARACTERS,
    "🚀" * MAX_TEXT_CHARACTERS,
    "x " * (MAX_TEXT_CHARACTERS // 2),
    END * 150,
    "\U0010ffff\ue000\ufffe",
]

FOLDERS = {
    # Stable Diffusion 1.5's: tokens typed in the configuration and again in the map.
    "sd15": {
        "config": {
            "bos_token": added(START, typed=True),
            "eos_token": added(END, typed=True),
            "unk_token": added(END, typed=True),
            "pad_token": END,
            "model_max_length": LIMIT,
            "do_lower_case": True,
            "tokenizer_class": "CLIPTokenizer",
        },
        "special": {
            "bos_token": added(START),
            "eos_token": added(END),
            "unk_token": added(END),
            "pad_token": END,
        },
    },
    # Stable Diffusion 2's: pads with `!`.
    "sd2": {
        "config": {"pad_token": END, "model_max_length": LIMIT},
        "special": {"bos_token": added(START), "eos_token": added(END), "pad_token": "!"},
    },
    # The newest form, which makes the map void.
    "decoder": {
        "config": {
            "added_tokens_decoder": {
                "0": {**added("!"), "normalized": False, "special": True},
                str(learn()[0][END]): {**added(END), "normalized": False, "special": True},
            },
            "bos_token": START,
            "eos_token": END,
            "pad_token": "!",
            "model_max_length": LIMIT,
        },
        "special": {"pad_token": END},
    },
    "bare": {},
    "added": {
        "config": {"model_max_length": LIMIT},
        "special": {"bos_token": START},
        "extra": {"<cat-toy>": len(learn()[0]), END: learn()[0][END]},
    },
    "left": {"config": {"padding_side": "left", "truncation_side": "left"}},
    "extra": {
        "config": {"extra_special_tokens": ["cat"]},
        "special": {"extra_special_tokens": [added("rocket")]},
    },
    "additional": {"config": {"additional_special_tokens": ["cat", added("dog", typed=True)]}},
}


@pytest.fixture(scope="module", params=[*FOLDERS, "saved", "saved_bare"])
def folder(request, tmp_path_factory):
    path = tmp_path_factory.mktemp("tokenizers") / request.param
    if request.param in FOLDERS:
        return write_tokenizer(path, **FOLDERS[request.param])
    from transformers import CLIPTokenizer

    # What transformers 5 writes: `tokenizer.json`, with and without its configuration.
    older = write_tokenizer(path / "older", **FOLDERS["sd2"])
    CLIPTokenizer.from_pretrained(older).save_pretrained(path / "newer")
    if request.param == "saved_bare":
        (path / "newer" / "tokenizer_config.json").unlink()
    return path / "newer"


@pytest.fixture(scope="module")
def pair(folder):
    from transformers import CLIPTokenizer

    return ClipTokenizer.from_folder(folder, LIMIT), CLIPTokenizer.from_pretrained(folder)


def assert_equal(pair, text):
    ours, theirs = pair
    tokens = ours.tokenize(text)
    padded = theirs(text, padding="max_length", max_length=LIMIT, truncation=True)
    assert tokens.ids.tolist() == padded.input_ids, text
    assert tokens.ids.dtype == np.int64
    assert tokens.token_count == sum(padded.attention_mask)
    whole = len(theirs(text, padding=False, truncation=False).input_ids)
    assert tokens.token_count + tokens.dropped_token_count == whole


@pytest.mark.parametrize("text", TEXTS, ids=range(len(TEXTS)))
def test_equals_transformers(pair, text):
    assert_equal(pair, text)


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    st.lists(
        st.one_of(
            st.sampled_from(
                ["cat", " ", "'s", "!", START, END, "<|end", "\n", "\u200d", "<cat-toy>"]
            ),
            st.text(max_size=8),
        ),
        max_size=30,
    ).map("".join)
)
def test_equals_transformers_on_anything(pair, text):
    assert_equal(pair, text)


def tokenizer(tmp_path, limit=LIMIT):
    return ClipTokenizer.from_folder(write_tokenizer(tmp_path / "t"), limit)


def test_a_long_prompt_is_cut_and_the_cut_is_told(tmp_path):
    tokens = tokenizer(tmp_path).tokenize("cat " * 30)
    vocabulary = learn()[0]
    assert tokens.ids[0] == vocabulary[START]
    # CLIP reads the sentence at its end token, so that one stays.
    assert tokens.ids[-1] == vocabulary[END]
    assert (tokens.token_count, tokens.dropped_token_count) == (LIMIT, 30 - (LIMIT - 2))


def test_an_empty_prompt_is_start_and_end(tmp_path):
    tokens = tokenizer(tmp_path).tokenize("")
    assert (tokens.token_count, tokens.dropped_token_count) == (2, 0)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("x" * (MAX_TEXT_CHARACTERS + 1), "2001"),
        ("y" * 1_000_000, "1000000"),
        ("lone \ud800 surrogate", "Unicode"),
    ],
)
def test_what_cannot_be_tokenized_is_refused(tmp_path, text, words):
    with pytest.raises(InvalidRequest, match=words) as caught:
        tokenizer(tmp_path).tokenize(text)
    assert [v.field for v in caught.value.violations] == ["text"]


@pytest.mark.parametrize(
    "text",
    [
        "a" * 2000,
        "ab" * 1000,
        "\u0301" * 2000,
        "👩\u200d" * 1000,
        "'s" * 1000,
        "x y " * 500,
        "🚀" * 2000,
    ],
    ids=range(7),
)
def test_the_worst_texts_take_less_than_50_ms(tmp_path, text):
    subject = tokenizer(tmp_path, limit=77)
    subject.tokenize("warm up")
    times = []
    for _ in range(3):
        started = time.perf_counter()
        subject.tokenize(text)
        times.append(time.perf_counter() - started)
    assert min(times) < 0.05


@pytest.mark.parametrize("damage", ["absent", "not json", "list", "bad merges", "no start"])
def test_a_damaged_folder_is_named(tmp_path, damage):
    path = write_tokenizer(tmp_path / "t")
    if damage == "absent":
        (path / "vocab.json").unlink()
    elif damage == "bad merges":
        (path / "merges.txt").write_text("q z x y\n")
    elif damage == "no start":
        (path / "merges.txt").write_text("zzz qqq\n")
    else:
        (path / "vocab.json").write_text({"not json": "{", "list": "[]"}[damage])
    with pytest.raises(ModelNotReady):
        ClipTokenizer.from_folder(path, LIMIT)
