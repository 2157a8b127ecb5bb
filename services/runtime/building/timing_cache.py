"""What TensorRT measured in earlier builds, kept beside the engines.

One file for a version of TensorRT and a GPU: most of a build is timing, and modules and models have
layers in common.
"""

import fcntl
import os
import tempfile
from pathlib import Path
from typing import Any


class TimingCache:
    """The timings of one build.

    Args:
        file: where they are kept; it need not be there.
        config: the build's `IBuilderConfig`, which starts with them.
    """

    def __init__(self, file: Path, config: Any) -> None:
        self._file, self._config = file, config
        if not self._attach(_read(file)):
            # Of another GPU or damaged: TensorRT says so, and measures anew.
            self._attach(b"")

    def keep(self) -> None:
        """Adds what was measured to the file; others may have added to it meanwhile."""
        with self._file.with_suffix(".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            measured = self._config.get_timing_cache()
            others = self._config.create_timing_cache(_read(self._file))
            if others is not None:
                measured.combine(others, False)
            _replace(self._file, bytes(measured.serialize()))

    def _attach(self, content: bytes) -> bool:
        cache = self._config.create_timing_cache(content)
        # Never those of another GPU: they would choose the wrong kernels.
        return cache is not None and bool(self._config.set_timing_cache(cache, False))


def _read(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except FileNotFoundError:
        return b""


def _replace(file: Path, content: bytes) -> None:
    descriptor, name = tempfile.mkstemp(prefix=f".{file.name}.", dir=file.parent)
    with os.fdopen(descriptor, "wb") as stream:
        stream.write(content)
    Path(name).replace(file)
