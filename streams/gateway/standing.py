"""The newest standing list per surface and user, as the topic `recommendations` has it, and who waits for the next. It makes no list."""

from __future__ import annotations

import asyncio
from collections import defaultdict

import msgspec

from streams.gateway.bounded import Bounded

OVERHEAD = 500
"""Bytes of Python objects around a list's own."""


class Trigger(msgspec.Struct):
    """What a list was made for, as far as it matters here."""

    kind: str


class Head(msgspec.Struct, gc=False):
    """A list, as far as the gateway reads it."""

    list_id: str
    valid_until: int
    trigger: Trigger
    applied: dict[str, tuple[int, int]] = {}


class Listed(msgspec.Struct, frozen=True, gc=False):
    """A list as it stood on the topic. `valid_until` in ms."""

    list_id: str
    valid_until: int
    value: bytes


_head = msgspec.json.Decoder(Head).decode


def read_head(value: bytes) -> Head:
    """What the gateway reads of a list.

    Raises:
        msgspec.DecodeError: it is none.
    """
    return _head(value)


class Stream:
    """One open stream: the newest list per surface that was not yet sent. A slow reader misses lists in between, and takes no memory."""

    def __init__(self, surface: str | None) -> None:
        self._surface = surface
        self._newest: dict[str, Listed | None] = {}
        self._some = asyncio.Event()

    def offer(self, surface: str, found: Listed | None) -> None:
        """A new list of the user, or None for one that ended."""
        if self._surface in (None, surface):
            self._newest[surface] = found
            self._some.set()

    def close(self) -> None:
        """Wake who waits."""
        self._some.set()

    async def next(self, timeout_s: float) -> list[tuple[str, Listed | None]]:
        """What is new, by surface; empty when nothing came in time."""
        try:
            async with asyncio.timeout(timeout_s):
                await self._some.wait()
        except TimeoutError:
            return []
        self._some.clear()
        new, self._newest = list(self._newest.items()), {}
        return new


class Standing:
    """The lists held, those used last, within a number and bytes; and the streams by user.

    ``surfaces``: those that lists were read of; ``closing``: no stream goes on.
    """

    def __init__(self, most: int, most_bytes: int) -> None:
        self.held = Bounded[Listed](most, most_bytes)
        self._streams: defaultdict[str, set[Stream]] = defaultdict(set)
        self.surfaces: dict[str, None] = {}
        self.closing = False

    def take(self, key: str, found: Listed | None) -> None:
        """A record of `recommendations`; None for a list that ended."""
        surface, _, user = key.partition(":")
        if found is None:
            self.held.drop(key)
        else:
            self.held.put(key, found, len(found.value) + len(key) + OVERHEAD)
            self.surfaces.setdefault(surface)
        for stream in self._streams.get(user, ()):
            stream.offer(surface, found)

    def get(self, user: str, surface: str, now_ms: int) -> Listed | None:
        """The list that stands, or None where none is held or it is no longer valid."""
        found = self.held.get(f"{surface}:{user}")
        return found if found is not None and found.valid_until > now_ms else None

    def open(self, user: str, surface: str | None, now_ms: int) -> Stream:
        """A stream of a user's lists, which begins with those that stand."""
        stream = Stream(surface)
        self._streams[user].add(stream)
        for name in self.surfaces if surface is None else (surface,):
            if (found := self.get(user, name, now_ms)) is not None:
                stream.offer(name, found)
        return stream

    def leave(self, user: str, stream: Stream) -> None:
        """End a stream."""
        self._streams[user].discard(stream)
        if not self._streams[user]:
            del self._streams[user]

    def close(self) -> None:
        """End all streams: the process stops."""
        self.closing = True
        for streams in self._streams.values():
            for stream in streams:
                stream.close()
