"""Where the artwork and its names come from: two npm packages, fetched once and kept.

`emoji-datasource-google` carries Google's Noto Color Emoji (Apache-2.0) as 64-pixel PNGs,
`emojibase-data` (MIT) the names and keywords in many languages.
"""

import subprocess
import tarfile
from pathlib import Path

from PIL import Image

from .concepts import Concept

ARTWORK_PACKAGE = "emoji-datasource-google@16.0.0"
NAMES_PACKAGE = "emojibase-data@17.0.0"


def fetch(package: str, cache: Path) -> Path:
    """Returns the folder of an npm package, downloading it with `npm pack` the first time.

    Raises:
        subprocess.CalledProcessError: If npm cannot get it.
    """
    folder = cache / package.replace("@", "-")
    if not folder.exists():
        cache.mkdir(parents=True, exist_ok=True)
        command = ["npm", "pack", "--silent", "--pack-destination", str(cache), package]
        # The words are constants of this file.
        packed = subprocess.run(command, check=True, capture_output=True, text=True)  # noqa: S603
        name = packed.stdout.strip()
        unpacked = cache / f"{folder.name}.partial"
        with tarfile.open(cache / name) as archive:
            archive.extractall(unpacked, filter="data")
        unpacked.rename(folder)
    return folder / "package"


def load_artwork(package: Path, concepts: list[Concept]) -> list[Image.Image]:
    """Returns each concept's picture, RGBA, 64x64.

    Raises:
        FileNotFoundError: If the set has no picture of a concept.
    """
    return [Image.open(_file(package, c.hexcode)).convert("RGBA") for c in concepts]


def _file(package: Path, hexcode: str) -> Path:
    """Finds a picture whether or not its name spells out the variation selector."""
    folder = package / "img" / "google" / "64"
    spellings = (hexcode, f"{hexcode}-fe0f", hexcode.replace("-fe0f", ""))
    for spelling in spellings:
        if (folder / f"{spelling}.png").exists():
            return folder / f"{spelling}.png"
    raise FileNotFoundError(f"no picture of {hexcode} in {folder}")
