"""The judge: a small classifier that knows only real pictures, and names what it sees.

It never sees a generated picture in training. Augmentation (blur, noise, shifted tones) keeps it
from judging by the crispness that an autoencoder takes away. What its last layer but one says is
also the space in which distances between sets of pictures are measured.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from .real_pictures import RealPictures, Split

_WIDTHS = (32, 64, 128, 256)
FEATURE_COUNT = 512
_BATCH = 128
_EPOCHS = 4
# A folder of a dozen pictures would else be seen but once.
_FEWEST_UPDATES = 40
_SEED = 5
_AT_ONCE = 256
BEST_COUNT = 5
# Part of the judge's file name: another recipe is another judge.
_RECIPE = 1


@dataclass(frozen=True, slots=True)
class Seen:
    """What the judge makes of pictures.

    Attributes:
        features: [picture, 512], f64; over real pictures their mean square is 1.
        best: [picture, 5 or fewer], the likeliest labels, the likeliest first.
    """

    features: NDArray[np.float64]
    best: NDArray[np.int64]


class Judge(nn.Module):
    """Turns pictures [picture, 3, side, side] in -1..1 into a logit for each name."""

    scale: Tensor

    def __init__(self, name_count: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for before, after in zip((3, *_WIDTHS), _WIDTHS, strict=False):
            layers += [nn.Conv2d(before, after, 3, 2, 1), nn.BatchNorm2d(after), nn.ReLU()]
        layers += [
            nn.Conv2d(_WIDTHS[-1], FEATURE_COUNT, 3, 1, 1),
            nn.BatchNorm2d(FEATURE_COUNT),
            nn.ReLU(),
        ]
        self.body = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.head = nn.Linear(FEATURE_COUNT, name_count)
        self.register_buffer("scale", torch.ones(()))

    def forward(self, pictures: Tensor) -> Tensor:
        """Returns logits, [picture, name]."""
        return self.head(self.body(pictures))

    @torch.no_grad()
    def look(self, pixels: NDArray[np.uint8]) -> Seen:
        """Returns features and likeliest names of pictures, [picture, side, side, 3]."""
        features, best = [], []
        for start in range(0, len(pixels), _AT_ONCE):
            raw = self.body(to_unit_range(pixels[start : start + _AT_ONCE]))
            logits = self.head(raw)
            features.append((raw * self.scale).double().numpy())
            best.append(logits.topk(min(BEST_COUNT, logits.shape[1])).indices.numpy())
        return Seen(np.concatenate(features), np.concatenate(best))


def open_judge(
    pictures: RealPictures, parts: Split, work: Path, tell: Callable[[int, int], None]
) -> Judge:
    """Returns the judge of these pictures, trained the first time and kept in `work`.

    Args:
        pictures: what it learns to name.
        parts: which of them it learns from.
        work: folder of trained judges.
        tell: called with how many updates are done, and of how many.
    """
    path = work / f"judge-{_RECIPE}-{pictures.digest()[:16]}.pt"
    if not path.exists():
        work.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(".partial")
        torch.save(_train(pictures, parts.training, tell).state_dict(), partial)
        partial.rename(path)
    judge = Judge(len(pictures.names))
    judge.load_state_dict(torch.load(path, weights_only=True))
    return judge.eval()


def to_unit_range(pixels: NDArray[np.uint8]) -> Tensor:
    """Returns [row, 3, height, width] f32 in -1..1 from uint8 [row, height, width, 3]."""
    tensor = torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 127.5 - 1
    return tensor.contiguous()


def _train(
    pictures: RealPictures, rows: NDArray[np.int64], tell: Callable[[int, int], None]
) -> Judge:
    torch.manual_seed(_SEED)
    judge, labels = Judge(len(pictures.names)), pictures.labels
    updates = max(_EPOCHS * len(rows) // _BATCH, _FEWEST_UPDATES)
    optimizer = torch.optim.AdamW(judge.parameters(), 1e-3, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, updates)
    for update in range(updates):
        picked = rows[np.random.default_rng(update).integers(0, len(rows), _BATCH)]
        logits = judge(_augmented(to_unit_range(pictures.pixels[picked])))
        wanted = torch.from_numpy(labels[picked])
        loss = functional.cross_entropy(logits, wanted, label_smoothing=0.05)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        tell(update + 1, updates)
    judge.eval()
    # One number for all features: it moves no distance against another, and brings the polynomial
    # kernel, which is not scale free, into the range that it is meant for.
    features = judge.look(pictures.pixels[rows[: 8 * _AT_ONCE]]).features
    judge.scale.fill_(1 / max(float(np.sqrt(np.square(features).mean())), 1e-12))
    return judge


def _augmented(pictures: Tensor) -> Tensor:
    count = len(pictures)
    blurred = functional.avg_pool2d(pictures, 3, 1, 1, count_include_pad=False)
    blur = torch.rand(count, 1, 1, 1)
    tone = 1 + 0.1 * torch.randn(count, 3, 1, 1)
    noise = 0.1 * torch.rand(count, 1, 1, 1) * torch.randn_like(pictures)
    return torch.lerp(pictures, blurred, blur) * tone + 0.05 * torch.randn(count, 3, 1, 1) + noise
