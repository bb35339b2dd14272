"""How a row becomes bytes and back: one byte of format, then MessagePack. Not what a row holds (`engine.user`, `engine.item`)."""

from __future__ import annotations

from typing import Generic, TypeVar

import msgspec

from engine.errors import StateError

R = TypeVar("R", bound=msgspec.Struct)


class RowCodec(Generic[R]):
    """The codec of one kind of row. `number`: its format, which changes with the row's layout; `what` names it in errors."""

    def __init__(self, kind: type[R], number: int, what: str) -> None:
        self._encode = msgspec.msgpack.Encoder().encode
        self._decode = msgspec.msgpack.Decoder(kind).decode
        self._number, self._prefix, self._what = number, bytes([number]), what

    def encode(self, row: R) -> bytes:
        """The row as bytes."""
        return self._prefix + self._encode(row)

    def decode(self, raw: bytes) -> R:
        """The row again.

        Raises:
            StateError: the bytes are of an unknown format, or damaged.
        """
        if raw[:1] != self._prefix:
            found = f"format {raw[0]}" if raw else "nothing"
            remedy = "run the release that wrote this state, or let this one rebuild it from the log in a new state folder"
            raise StateError("state_format", found=found, expected=f"{self._what} of format {self._number}", remedy=remedy)
        try:
            return self._decode(memoryview(raw)[1:])
        except msgspec.DecodeError as problem:
            remedy = "remove the state folder: it is rebuilt"
            raise StateError("state_damaged", found=str(problem), expected=self._what, remedy=remedy) from problem
