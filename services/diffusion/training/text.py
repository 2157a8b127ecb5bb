"""From prompt to embeddings: a byte-level BPE tokenizer and a small CLIP text encoder.

The encoder first learns, in a few minutes, to name concept and background and to sketch the picture
in 8x8 pixels. Synonyms, Korean names and the bare emoji then lie together before the UNet, whose
updates cost far more, sees the first of them.
"""

# diffusers and transformers annotate loosely: `tuple[str]` for any tuple, outputs as bare tuples.
# pyright: reportPrivateImportUsage=false, reportArgumentType=false, reportAttributeAccessIssue=false
# ruff: noqa: S311 - pictures and prompts are drawn from seeds, not secrets

import json
from collections.abc import Callable
from pathlib import Path
from random import Random

import torch
from PIL import Image
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from torch import Tensor, nn
from torch.nn import functional
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from .concepts import Concept
from .crew import Progress
from .prompts import COLOURS, ask, every_prompt_word

TOKEN_COUNT = 24
WIDTH = 192
_VOCABULARY = 4096
_START, _END = "<|startoftext|>", "<|endoftext|>"
_WORD_END = "</w>"
_SKETCH_SIDE_PX = 8


def learn_tokenizer(concepts: list[Concept]) -> CLIPTokenizer:
    """Returns a CLIP tokenizer whose vocabulary comes from our prompts; any byte is covered."""
    blank = CLIPTokenizer()
    learner = Tokenizer(models.BPE(end_of_word_suffix=_WORD_END))
    learner.normalizer = blank.backend_tokenizer.normalizer
    learner.pre_tokenizer = blank.backend_tokenizer.pre_tokenizer
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=_VOCABULARY - len(alphabet) - 2,
        initial_alphabet=alphabet,
        end_of_word_suffix=_WORD_END,
        show_progress=False,
    )
    learner.train_from_iterator(every_prompt_word(concepts), trainer)
    model = json.loads(learner.to_str())["model"]
    # The learner knows only the word ends that it met; an unseen one would be an unknown token.
    learnt = sorted(model["vocab"], key=model["vocab"].__getitem__)
    words = dict.fromkeys([*alphabet, *(c + _WORD_END for c in alphabet), *learnt, _START, _END])
    vocabulary = {word: number for number, word in enumerate(words)}
    merges = [tuple(pair) for pair in model["merges"]]
    return CLIPTokenizer(vocabulary, merges, model_max_length=TOKEN_COUNT)


def save_tokenizer(tokenizer: CLIPTokenizer, folder: Path) -> None:
    """Writes both spellings: tokenizer.json for `tokenizers`, vocabulary and merges for CLIP."""
    # A tokenizer remembers how it last padded and cut; that is the caller's choice, not the file's.
    tokenizer.backend_tokenizer.no_padding()
    tokenizer.backend_tokenizer.no_truncation()
    tokenizer.save_pretrained(folder)
    model = json.loads(tokenizer.backend_tokenizer.to_str())["model"]
    (folder / "vocab.json").write_text(json.dumps(model["vocab"], ensure_ascii=False), "utf-8")
    merges = "\n".join(" ".join(pair) for pair in model["merges"])
    (folder / "merges.txt").write_text(f"#version: 0.2\n{merges}\n", "utf-8")
    special = {"bos_token": _START, "eos_token": _END, "pad_token": _END, "unk_token": _END}
    (folder / "special_tokens_map.json").write_text(json.dumps(special, indent=2) + "\n", "utf-8")


def tokenize(tokenizer: CLIPTokenizer, prompts: list[str]) -> Tensor:
    """Returns token ids [prompt, 24], padded and cut exactly as the diffusers pipeline does it."""
    encoded = tokenizer(
        prompts,
        padding="max_length",
        max_length=TOKEN_COUNT,
        truncation=True,
        return_tensors="pt",
    )
    return encoded.input_ids


def new_text_encoder(tokenizer: CLIPTokenizer) -> CLIPTextModel:
    """Returns the untrained encoder; like the pipeline, it attends to the padding."""
    config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=WIDTH,
        intermediate_size=4 * WIDTH,
        num_hidden_layers=2,
        num_attention_heads=WIDTH // 32,
        max_position_embeddings=TOKEN_COUNT,
        projection_dim=WIDTH,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return CLIPTextModel(config)


def teach_names(
    encoder: CLIPTextModel,
    tokenizer: CLIPTokenizer,
    concepts: list[Concept],
    artwork: list[Image.Image],
    report: Callable[[Progress], None],
    updates: int,
    rows: int = 64,
) -> float:
    """Trains the encoder to name and sketch what a prompt asks for; returns its last accuracy."""
    sketches = torch.stack([_sketch(picture) for picture in artwork])
    heads = nn.ModuleList(
        [nn.Linear(WIDTH, size) for size in (len(concepts), len(COLOURS), sketches.shape[1])]
    )
    parameters = [*encoder.parameters(), *heads.parameters()]
    optimizer = torch.optim.AdamW(parameters, 1e-3, (0.9, 0.98))
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, updates)
    accuracy = 0.0
    for update in range(updates):
        rng = Random(update)
        wanted = torch.tensor([rng.randrange(len(concepts)) for _ in range(rows)])
        grounds = torch.tensor([rng.randrange(len(COLOURS)) for _ in range(rows)])
        pairs = zip(wanted.tolist(), grounds.tolist(), strict=True)
        prompts = [ask(concepts[c], COLOURS[g], rng) for c, g in pairs]
        with torch.autocast("cpu", torch.bfloat16):
            pooled = encoder(tokenize(tokenizer, prompts)).last_hidden_state.float().mean(1)
        names, colours, drawn = (head(pooled) for head in heads)
        loss = functional.cross_entropy(names, wanted) + functional.mse_loss(
            drawn, sketches[wanted]
        )
        # Many prompts leave the background open; the head then learns to say "any".
        loss = loss + 0.5 * functional.cross_entropy(colours, grounds)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        accuracy += 0.02 * ((names.argmax(1) == wanted).float().mean().item() - accuracy)
        if update % 100 == 0:
            report(Progress(update, loss.item(), 0.0))
    return accuracy


def _sketch(picture: Image.Image) -> Tensor:
    """Returns the picture as 8x8 premultiplied RGBA, flat, about unit variance."""
    small = picture.convert("RGBa").resize((_SKETCH_SIDE_PX,) * 2, Image.Resampling.BOX)
    return torch.tensor(list(small.tobytes())).float() / 64 - 2
