"""What engines hold that do not compute."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Timing:
    """A device of the backend `timed`.

    Attributes:
        profile: file that says what takes how long on it.
        device: its name, the same in every process that shares it.
    """

    profile: Path | None = None
    device: str = "0"
