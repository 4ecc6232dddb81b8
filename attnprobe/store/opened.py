"""Keeps few shards open at a time, and remembers what was read and checked of the others."""

from collections import OrderedDict
from collections.abc import Callable

from attnprobe.store.shard import Shard

MAX_OPEN = 8
MAX_CACHED_BYTES = 2**28
"""How much may be kept of the light columns of shards that are closed."""


class OpenShards:
    """The shards of a run by number, opened when they are asked for."""

    def __init__(self, opener: Callable[[int], Shard]) -> None:
        self._opener = opener
        self._open: OrderedDict[int, Shard] = OrderedDict()
        self._closed: OrderedDict[int, Shard] = OrderedDict()
        self._n_cached = 0

    def __len__(self) -> int:
        """Return how many are open."""
        return len(self._open)

    def __getitem__(self, number: int) -> Shard:
        if number not in self._open:
            self._open[number] = self._opened(number)
            if len(self._open) > MAX_OPEN:
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
