"""Keeps few shards open at a time, and remembers what was read and checked of the others."""

from collections import OrderedDict
from collections.abc import Callable

from attnprobe.store.shard import Shard

MAX_OPEN = 256
"""How many shards stay open at most: opening and closing one takes longer than reading a head."""
SHARE_OF_FILES = 4
"""A run keeps at most one in so many of the files that the process may have open."""
MAX_CACHED_BYTES = 2**28
"""How much may be kept of the light columns of shards that are closed."""


def max_open() -> int:
    """Return how many shards may stay open, by what the system allows."""
    try:
        import resource
    except ImportError:  # there is no such limit to ask for on Windows
        return MAX_OPEN // SHARE_OF_FILES
    allowed, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    unlimited = allowed == resource.RLIM_INFINITY
    return MAX_OPEN if unlimited else max(1, min(MAX_OPEN, allowed // SHARE_OF_FILES))


class OpenShards:
    """The shards of a run by number, opened when they are asked for."""

    def __init__(self, opener: Callable[[int], Shard]) -> None:
        self._opener = opener
        self._open: OrderedDict[int, Shard] = OrderedDict()
        self._closed: OrderedDict[int, Shard] = OrderedDict()
        self._n_cached = 0
        self._max_open = max_open()

    def __len__(self) -> int:
        """Return how many are open."""
        return len(self._open)

    def __getitem__(self, number: int) -> Shard:
        if number not in self._open:
            self._open[number] = self._opened(number)
            if len(self._open) > self._max_open:
                self._put_away(*self._open.popitem(last=False))
        self._open.move_to_end(number)
        return self._open[number]

    def close(self) -> None:
        """Close every shard."""
        while self._open:
            self._open.popitem()[1].close()
        self._closed.clear()
        self._n_cached = 0

    def _opened(self, number: int) -> Shard:
        shard = self._closed.pop(number, None)
        if shard is None:
            return self._opener(number)
        self._n_cached -= shard.n_cached
        shard.reopen()
        return shard

    def _put_away(self, number: int, shard: Shard) -> None:
        shard.close()
        self._closed[number] = shard
        self._n_cached += shard.n_cached
        while self._n_cached > MAX_CACHED_BYTES:
            self._n_cached -= self._closed.popitem(last=False)[1].n_cached
