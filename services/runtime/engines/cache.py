"""Where built engines lie: a cache outside the model, or a folder beside its weights.

An entry is a folder with the built files and `entry.json`, which holds the key it was built for
and the sha256 of every file. Nothing is loaded whose key or sum differs. Writers build into a
temporary folder and rename it under a lock, so readers never see half an entry.
"""

import fcntl
import hashlib
import json
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ..errors import ModelNotReady
from ..models.folder import ModelFolder

ENTRY_NAME = "entry.json"
BESIDE_NAME = "engines"
DEFAULT_CACHE_PATH = Path("~/.cache/sangsang")

_FORMAT = 1
_ANY_DEVICE = "any"
_SCRATCH = ".scratch-"
_OTHERS_WRITE = stat.S_IWOTH
# What a backend computes in unless something else was asked for.
_PLAIN_PRECISIONS = ("f32", "f16")


class NotBuilt(ModelNotReady):
    """There is no entry for this key."""


class DamagedBuild(ModelNotReady):
    """There is an entry, but its files are not those that were built."""


@dataclass(frozen=True, slots=True)
class BuildKey:
    """Everything that decides the bytes of a build.

    Attributes:
        module: what was built, e.g. `unet`.
        module_digest: sha256 of what it was built from, e.g. `ModelFolder.digest`.
        backend: e.g. `onnxruntime`.
        backend_version: version of what reads the build; for portable graphs, of their format.
        device: architecture it was compiled for, e.g. `sm_90`; `any` for a portable graph.
        precision: precision of the computation, e.g. `f32`; behind a comma, how it was reached.
        profile: the shapes it takes, e.g. `dynamic`.
    """

    module: str
    module_digest: str
    backend: str
    backend_version: str
    device: str = _ANY_DEVICE
    precision: str = "f32"
    profile: str = "dynamic"

    @property
    def precision_name(self) -> str:
        """The precision without how it was reached."""
        return self.precision.partition(",")[0]

    def digest(self) -> str:
        """Returns the sha256 of all fields, in hex."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()


class EngineCache:
    """A folder of built engines.

    Attributes:
        root: the folder; made when the first entry is written.
        single: whether it keeps one entry for each module, backend, device and precision, replaced
            when the model changes, as beside a model, rather than one for each key.
    """

    def __init__(self, root: Path, *, single: bool = False) -> None:
        self.root = root.expanduser()
        self.single = single

    @classmethod
    def beside(cls, folder: ModelFolder) -> "EngineCache":
        """Returns the cache inside the model's own folder."""
        return cls(folder.path / BESIDE_NAME, single=True)

    def entry_path(self, key: BuildKey) -> Path:
        """Returns where the entry of a key lies, whether or not it exists."""
        name = key.module if self.single else f"{key.module}-{key.digest()[:20]}"
        if self.single and key.device != _ANY_DEVICE:
            name = f"{name}-{key.device}"
        if self.single and key.precision_name not in _PLAIN_PRECISIONS:
            name = f"{name}-{key.precision_name}"
        return self.root / key.backend / name

    def find(self, key: BuildKey) -> Path:
        """Returns the folder with the built files, after checking every one of them.

        Raises:
            NotBuilt: there is no entry, or it was built for another key.
            DamagedBuild: the entry's files are missing or changed.
        """
        path = self.entry_path(key)
        for name, expected in _files_of(path, key).items():
            file = path / name
            if Path(name).name != name or not file.is_file() or _sha256(file) != expected:
                raise DamagedBuild(f"{file} is not the file that was built")
        return path

    def read(self, key: BuildKey, name: str) -> bytes:
        """Returns a built file's content: the very bytes whose sum was checked.

        For what is run as code: between `find` and opening a file, somebody could change it.

        Raises:
            NotBuilt: there is no entry, or it was built for another key.
            DamagedBuild: the file is missing or changed, or others may write to its folder.
        """
        path = self.entry_path(key)
        expected = _files_of(path, key).get(name)
        try:
            content = (path / name).read_bytes()
            mode = path.stat().st_mode
        except OSError as exc:
            raise DamagedBuild(f"{path / name} cannot be read: {exc}") from exc
        if hashlib.sha256(content).hexdigest() != expected:
            raise DamagedBuild(f"{path / name} is not the file that was built")
        if mode & _OTHERS_WRITE:
            raise DamagedBuild(f"anybody may write to {path}")
        return content

    @contextmanager
    def scratch(self, backend: str) -> Iterator[Path]:
        """Yields an empty folder for what a build needs on its way, which goes with the block.

        What builds left that were killed is removed: nobody holds their folders' locks any more.
        """
        parent = self.root / backend
        parent.mkdir(parents=True, exist_ok=True)
        with _locked(parent):
            _sweep_scratch(parent)
            path = Path(tempfile.mkdtemp(prefix=_SCRATCH, dir=parent))
            descriptor = os.open(path, os.O_RDONLY)
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        try:
            yield path
        finally:
            shutil.rmtree(path, ignore_errors=True)
            os.close(descriptor)

    @contextmanager
    def writing(self, key: BuildKey) -> Iterator[Path]:
        """Yields an empty folder and makes it the key's entry if the block ends well.

        Others who build for the same cache wait; look with `find` again inside the block.
        """
        final = self.entry_path(key)
        final.parent.mkdir(parents=True, exist_ok=True)
        # Beside a model no lock file may stay behind: there the folder itself is locked.
        lock = final.parent if self.single else final.parent / f".{final.name}.lock"
        with _locked(lock):
            _sweep(final)
            temporary = Path(tempfile.mkdtemp(prefix=f".{final.name}.", dir=final.parent))
            try:
                yield temporary
                if any(temporary.iterdir()):
                    _write_entry(temporary, key)
                    _replace(final, temporary)
            finally:
                shutil.rmtree(temporary, ignore_errors=True)


def _files_of(path: Path, key: BuildKey) -> dict[str, str]:
    """Returns the sum of each file of an entry, which is the key's own."""
    entry = _read_entry(path)
    if entry.get("format") != _FORMAT or entry.get("key") != asdict(key):
        raise NotBuilt(f"{path} was built from other weights or by another version")
    files = entry.get("files")
    if not isinstance(files, dict) or not files:
        raise DamagedBuild(f"{path / ENTRY_NAME} lists no files")
    return files


def _read_entry(path: Path) -> dict[str, Any]:
    try:
        entry: object = json.loads((path / ENTRY_NAME).read_text("utf-8"))
    except FileNotFoundError as exc:
        raise NotBuilt(f"{path} does not exist") from exc
    except (OSError, ValueError) as exc:
        raise DamagedBuild(f"{path / ENTRY_NAME} cannot be read: {exc}") from exc
    if not isinstance(entry, dict):
        raise DamagedBuild(f"{path / ENTRY_NAME} must hold a JSON object")
    return entry


def _write_entry(path: Path, key: BuildKey) -> None:
    files = {file.name: _sha256(file) for file in sorted(path.iterdir())}
    entry = {"format": _FORMAT, "key": asdict(key), "files": files}
    (path / ENTRY_NAME).write_text(json.dumps(entry, indent=2, sort_keys=True) + "\n", "utf-8")


def _replace(final: Path, temporary: Path) -> None:
    # mkdtemp makes folders that only their owner can enter; a container may serve as another user.
    temporary.chmod(0o755)
    if final.exists():
        # A folder cannot be renamed over a full one: move the old one away first.
        old = temporary.with_name(f"{temporary.name}.old")
        final.rename(old)
        temporary.rename(final)
        shutil.rmtree(old, ignore_errors=True)
    else:
        temporary.rename(final)


def _sweep(final: Path) -> None:
    """Removes what builds of this entry left that were killed; nobody else has the lock."""
    for stale in final.parent.glob(f".{final.name}.*"):
        if stale.is_dir():
            shutil.rmtree(stale, ignore_errors=True)


def _sweep_scratch(parent: Path) -> None:
    for stale in parent.glob(f"{_SCRATCH}*"):
        try:
            descriptor = os.open(stale, os.O_RDONLY)
        except FileNotFoundError:
            # Its build has just ended.
            continue
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(stale, ignore_errors=True)
        except BlockingIOError:
            # Its build still runs.
            continue
        finally:
            os.close(descriptor)


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    flags = os.O_RDONLY if path.is_dir() else os.O_RDWR | os.O_CREAT
    descriptor = os.open(path, flags, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        # Closing lets go of the lock.
        os.close(descriptor)


def _sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
