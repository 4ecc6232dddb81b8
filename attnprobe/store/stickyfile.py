"""A file for HDF5 to write through, which remembers its first error.

HDF5 cannot let go of a file that it failed to write: it tries again when it closes the file and
when the process ends, and may crash there. So it is never told. The error waits here for the
writer, which asks after every step; what HDF5 writes after it goes nowhere, and the file is thrown
away.
"""

import contextlib
import io
import os
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any


@contextlib.contextmanager
def uninterrupted() -> Iterator[Callable[[], None]]:
    """Let Ctrl-C wait until the block ends: what is raised while HDF5 calls back can get lost.

    Signals come to the main thread alone; in any other one this does nothing.

    Yields:
        What a long block calls where HDF5 does not: it answers to a Ctrl-C that waits.
    """
    caught: list[tuple[Any, ...]] = []
    before = signal.getsignal(signal.SIGINT)

    def heed() -> None:
        if caught and callable(before):
            before(*caught.pop())

    if threading.current_thread() is not threading.main_thread() or not callable(before):
        yield heed
        return
    signal.signal(signal.SIGINT, lambda *what: caught.append(what))
    try:
        yield heed
    finally:
        signal.signal(signal.SIGINT, before)
    heed()


class MemoryFile(io.BytesIO):
    """What stands in for a file on disk where a run is held in memory."""

    def check(self) -> None:
        """Do nothing: writing to memory does not fail half-way."""

    def close(self) -> None:
        """Stay open, so that what was written can be read."""


class StickyFile(io.RawIOBase):
    """A new binary file whose writes never raise; see `check`."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._file = path.open("xb+", buffering=0)
        self._error: OSError | None = None

    def check(self) -> None:
        """Raise the first error, if there was one."""
        if self._error is not None:
            raise self._error

    def write(self, data: Any, /) -> int:
        """Write all of the data, or remember why not."""
        view, done = memoryview(data).cast("B"), 0
        try:
            while self._error is None and done < len(view):
                done += self._file.write(view[done:]) or 0
        except OSError as error:
            self._error = error
        return len(view)

    def readinto(self, buffer: Any, /) -> int:
        """Read back what was written; zeros where nothing was, once writing has failed."""
        view, done = memoryview(buffer).cast("B"), 0
        while done < len(view):
            count = self._file.readinto(view[done:])
            if not count:
                break
            done += count
        if self._error is not None:
            view[done:] = bytes(len(view) - done)
            return len(view)
        return done

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        """Move to a position."""
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        """Return the position."""
        return self._file.tell()

    def truncate(self, size: int | None = None, /) -> int:
        """Set the size, or remember why not."""
        try:
            return self._file.truncate(size)
        except OSError as error:
            self._error = self._error or error
            return size or 0

    def readable(self) -> bool:
        """Return True."""
        return True

    def writable(self) -> bool:
        """Return True."""
        return True

    def seekable(self) -> bool:
        """Return True."""
        return True

    def close(self) -> None:
        """Close the file; the first error is still there to be checked."""
        if not self.closed:
            try:
                self._file.close()
            except OSError as error:
                self._error = self._error or error
        super().close()
