"""What every contender can do: start, say where it is called, stop; and be called and cancelled.

The two halves live in two processes. The driver starts and stops a `Contender`; the load generator
opens a `Client` of it, whose calls are cancelled as asyncio tasks are.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from .engines import EngineChoice
from .load import Ask


@dataclass(frozen=True, slots=True)
class Site:
    """Where and with what a contender runs.

    Attributes:
        choice: the engines.
        place: a folder of its own for logs and files.
        environments: the Python environments of others, by name.
    """

    choice: EngineChoice
    place: Path
    environments: Mapping[str, Path]


class Contender(Protocol):
    """A way to serve the model.

    Attributes:
        name: short, e.g. `mesh`.
        client: module of the client, in this package.
        settings: how it is set, in words, for the results.
    """

    name: str
    client: str
    settings: str

    def start(self, site: Site) -> str:
        """Starts it and returns its address when it serves.

        Raises:
            RuntimeError: it did not come up; the message has the end of its log.
        """
        ...

    def process_ids(self) -> list[int]:
        """Returns its own processes; what they started counts with them."""
        ...

    def stop(self) -> None:
        """Ends every process that it started, by its id."""
        ...


@dataclass(frozen=True, slots=True)
class Reply:
    """A finished picture.

    Attributes:
        picture: PNG.
        preview_s: seconds to the first preview; None for none.
    """

    picture: bytes
    preview_s: float | None = None


class Refused(Exception):
    """The contender did not take the request, or gave it up for want of time."""


class Client(Protocol):
    """Calls a contender."""

    async def picture(self, ask: Ask, *, previews: bool = False) -> Reply:
        """Returns the picture; cancelling the task cancels the call.

        Raises:
            Refused: it was not taken, or given up for want of time.
            TimeoutError: its patience ran out.
        """
        ...

    async def close(self) -> None:
        """Closes the connections."""
        ...
