"""A mapping that keeps what was used last, within a number of entries and of bytes. Nothing is computed again."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from operator import itemgetter
from typing import Generic, TypeVar

V = TypeVar("V")


class Bounded(Generic[V]):
    """Entries by text, the one used longest ago first.

    ``bytes``: what the entries were said to take, together; ``evicted``: entries dropped for want of room.

    >>> held = Bounded[int](most=2)
    >>> held.put("a", 1), held.put("b", 2), held.get("a"), held.put("c", 3)
    (None, None, 1, None)
    >>> list(held), held.evicted
    (['a', 'c'], 1)
    """

    def __init__(self, most: int, most_bytes: int | None = None) -> None:
        self._most, self._most_bytes = most, most_bytes
        self._entries: OrderedDict[str, tuple[V, int]] = OrderedDict()
        self.bytes = self.evicted = 0

    def __len__(self) -> int:
        return len(self._entries)

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __reversed__(self) -> Iterator[str]:
        return reversed(self._entries)

    def values(self) -> Iterator[V]:
        """The entries as they are now, the one used longest ago first; they may be walked through in another thread."""
        return map(itemgetter(0), tuple(self._entries.values()))

    def peek(self, name: str) -> V | None:
        """An entry, without counting it as used."""
        found = self._entries.get(name)
        return None if found is None else found[0]

    def get(self, name: str) -> V | None:
        """An entry, which is used by that."""
        found = self._entries.get(name)
        if found is None:
            return None
        self._entries.move_to_end(name)
        return found[0]

    def put(self, name: str, value: V, size: int = 0) -> None:
        """Set an entry that takes so many bytes; what was used longest ago makes room."""
        self.drop(name)
        self._entries[name] = value, size
        self.bytes += size
        while len(self._entries) > self._most or (self._most_bytes is not None and self.bytes > self._most_bytes):
            _, (_, freed) = self._entries.popitem(last=False)
            self.bytes -= freed
            self.evicted += 1

    def drop(self, name: str) -> bool:
        """Forget an entry; whether there was one."""
        found = self._entries.pop(name, None)
        if found is None:
            return False
        self.bytes -= found[1]
        return True
