"""What an export can come to: these are known without torch, the code that exports is not."""

from dataclasses import dataclass


class ExportFailed(Exception):
    """The module cannot be exported, or what was exported computes something else."""


@dataclass(frozen=True, slots=True)
class CheckReport:
    """How an export compares with torch and with itself.

    Attributes:
        max_difference: largest absolute difference from torch, over several shapes.
        row_exact: whether a row got the same bits in batches of every size that was tried; None if
            none was.
    """

    max_difference: float
    row_exact: bool | None
