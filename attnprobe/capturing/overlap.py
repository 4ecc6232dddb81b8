"""A sink in a thread of its own: writing overlaps the next forward pass."""

import contextlib
import queue
import threading
from collections.abc import Iterator

from attnprobe.types import Capture, Sink

WAITING = 2
"""Captures that may wait; where the disk is slower than the model, the model waits."""


class _Overlapping:
    """Hands captures on, a few at a time, in order."""

    def __init__(self, sink: Sink) -> None:
        self._sink = sink
        self._queue: queue.Queue[Capture | None] = queue.Queue(WAITING)
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._work, name="attnprobe-writer", daemon=True)
        self._thread.start()

    def append(self, capture: Capture, /) -> None:
        """Hand a capture over; wait while too many are waiting already."""
        self._raise()
        self._queue.put(capture)

    def _work(self) -> None:
        while (capture := self._queue.get()) is not None:
            if self._failure is None:  # after a failure, only make room
                try:
                    self._sink.append(capture)
                except BaseException as error:
                    self._failure = error

    def _raise(self) -> None:
        if self._failure is not None:
            raise self._failure

    def finish(self, complete: bool) -> None:
        """Wait for the thread; without `complete`, what waits is dropped."""
        if not complete:
            with contextlib.suppress(queue.Empty):
                while True:
                    self._queue.get_nowait()
        self._queue.put(None)
        self._thread.join()
        if complete:
            self._raise()


@contextlib.contextmanager
def overlapping(sink: Sink) -> Iterator[Sink]:
    """Let a sink work in a thread of its own while the block goes on.

    Captures arrive in order, and all of them before the block ends. An error of the sink is
    raised in the block, at the next capture or at its end.

    Args:
        sink: Where the captures go; only the thread touches it.

    Yields:
        The sink to append to.
    """
    ours = _Overlapping(sink)
    try:
        yield ours
    except BaseException:
        ours.finish(complete=False)
        raise
    ours.finish(complete=True)
