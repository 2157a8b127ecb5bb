"""Building with a progress bar, for `sangsang build` and for what starts a mesh."""

from pathlib import Path

from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from ...services.runtime.errors import ModelNotReady
from ...services.runtime.models.folder import ModelFolder
from .console import err, out
