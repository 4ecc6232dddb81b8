"""Writes down every operation on files that a writer does, at the border to the system.

Python's functions for files are replaced while it records; HDF5 writes through a Python file, so
nothing passes by. That the list is whole is not taken on trust: `Disk.replayed` must give the files
that are really there.
"""

import contextlib
import io
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock


class Recorder:
    """Numbers files as a file system numbers inodes, and lists what happens to them."""

    def __init__(self, root: Path) -> None:
        self.root = root.absolute()
        self.operations: list[tuple] = []
        self.inodes: dict[str, int] = {}
        self.handles: dict[int, str] = {}
        self.n_inodes = 0
        for path in sorted(self.root.rglob("*")):
            if path.is_file():
                self.note("exists", str(path), self._new(str(path)), path.read_bytes())

    def _new(self, path: str) -> int:
        self.n_inodes += 1
        self.inodes[path] = self.n_inodes
        return self.n_inodes

    def inside(self, path: Any) -> str | None:
        """Return the full name of what lies under the root; None for all else."""
        if not isinstance(path, (str, os.PathLike)):
            return None
        full = Path(path).absolute()
        return str(full) if full.is_relative_to(self.root) else None

    def note(self, *operation: object) -> None:
        """List an operation."""
        self.operations.append(operation)

    def opened(self, path: str, existed: bool, truncated: bool) -> int:
        """List what opening a file for writing did, and return its inode."""
        if not existed:
            self.note("create", path, self._new(path))
        elif truncated:
            self.note("truncate", self.inodes[path], 0)
        return self.inodes[path]

    def linked(self, source: str, target: str) -> None:
        """List a hard link."""
        self.inodes[target] = self.inodes[source]
        self.note("link", target, self.inodes[source])

    def unlinked(self, path: str) -> None:
        """List that a name is gone."""
        self.inodes.pop(path)
        self.note("unlink", path)

    def renamed(self, source: str, target: str) -> None:
        """List that a name was changed."""
        self.inodes[target] = self.inodes.pop(source)
        self.note("rename", source, target, self.inodes[target])

    def synced(self, handle: int) -> None:
        """List that a file or folder was forced onto the disk."""
        path = self.handles.get(handle)
        if path is not None:
            folder = Path(path).is_dir()
            self.note("sync folder" if folder else "sync", path if folder else self.inodes[path])


class _File(io.FileIO):
    """A file whose writes are listed."""

    def __init__(self, recorder: Recorder, path: str, mode: str) -> None:
        existed = Path(path).exists()
        super().__init__(path, mode)
        self._recorder = recorder
        self._inode = recorder.opened(path, existed, "w" in mode)
        recorder.handles[self.fileno()] = path

    def write(self, data: Any, /) -> int:
        at = self.tell()
        count = super().write(data)
        self._recorder.note("write", self._inode, at, bytes(memoryview(data).cast("B")[:count]))
        return count

    def truncate(self, size: int | None = None, /) -> int:
        size = super().truncate(size)
        self._recorder.note("truncate", self._inode, size)
        return size

    def close(self) -> None:
        if not self.closed:
            self._recorder.handles.pop(self.fileno(), None)
        super().close()


@contextlib.contextmanager
def recorded(root: Path) -> Iterator[list[tuple]]:
    """Record while the block runs.

    Yields:
        The operations on everything under `root`, first the files that were there.
    """
    recorder = Recorder(root)
    with contextlib.ExitStack() as stack:
        for module, name, replacement in _replacements(recorder):
            stack.enter_context(mock.patch.object(module, name, replacement))
        yield recorder.operations


def _replacements(recorder: Recorder) -> Iterator[tuple[Any, str, Callable[..., Any]]]:
    yield io, "open", _opening(recorder, io.open)
    real_open, real_close, real_fsync = os.open, os.close, os.fsync

    def open_handle(path: Any, flags: int, *args: Any, **named: Any) -> int:
        full = recorder.inside(path)
        existed = full is not None and Path(full).exists()
        handle = real_open(path, flags, *args, **named)
        if full is not None:
            if flags & os.O_CREAT:
                recorder.opened(full, existed, bool(flags & os.O_TRUNC))
            recorder.handles[handle] = full
        return handle

    def close_handle(handle: int) -> None:
        recorder.handles.pop(handle, None)
        real_close(handle)

    def fsync(handle: int) -> None:
        real_fsync(handle)
        recorder.synced(handle)

    yield os, "open", open_handle
    yield os, "close", close_handle
    yield os, "fsync", fsync
    for name in ("link", "replace", "rename"):
        yield os, name, _between(recorder, getattr(os, name), name == "link")
    for name in ("unlink", "remove"):
        yield os, name, _after(recorder, getattr(os, name), recorder.unlinked)
    for name, what in (("mkdir", "mkdir"), ("rmdir", "rmdir")):
        note = lambda path, what=what: recorder.note(what, path)  # noqa: E731
        yield os, name, _after(recorder, getattr(os, name), note)


def _opening(recorder: Recorder, real: Callable[..., Any]) -> Callable[..., Any]:
    def open_file(file: Any, mode: str = "r", buffering: int = -1, *args: Any, **named: Any) -> Any:
        full = recorder.inside(file)
        if full is None or not set(mode) & set("wxa+"):
            return real(file, mode, buffering, *args, **named)
        raw = _File(recorder, full, mode.replace("b", "").replace("t", ""))
        if buffering == 0:
            return raw
        buffered = io.BufferedRandom(raw) if "+" in mode else io.BufferedWriter(raw)
        return buffered if "b" in mode else io.TextIOWrapper(buffered, *args, **named)

    return open_file


def _after(
    recorder: Recorder, real: Callable[..., Any], note: Callable[[str], None]
) -> Callable[..., Any]:
    def function(path: Any, *args: Any, **named: Any) -> None:
        real(path, *args, **named)
        full = recorder.inside(path)
        if full is not None:
            note(full)

    return function


def _between(recorder: Recorder, real: Callable[..., Any], links: bool) -> Callable[..., Any]:
    def function(source: Any, target: Any, **named: Any) -> None:
        real(source, target, **named)
        pair = recorder.inside(source), recorder.inside(target)
        if None not in pair:
            (recorder.linked if links else recorder.renamed)(*pair)

    return function
