"""Compiles loops over arrays to machine code (numba). They run without the interpreter's lock, so the event loop goes on meanwhile.

Compiled code is kept beside the source, or in NUMBA_CACHE_DIR; where nothing can be written each process compiles anew, some 20 s. numba
compiles again when the function's own file changes, and only then: constants and helpers of a kernel stand in the kernel's file.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar, cast

import numba

F = TypeVar("F", bound=Callable[..., object])


def kernel(function: F) -> F:
    """Compile a function of numbers, arrays and named tuples of these, at its first call."""
    try:
        return cast("F", numba.njit(nogil=True, cache=True, error_model="numpy")(function))
    except RuntimeError:  # no folder that can be written to
        return cast("F", numba.njit(nogil=True, error_model="numpy")(function))


def summing(function: F) -> F:
    """The same for long sums, which the compiler may add up a register full at a time: machines then differ in the last digit.

    Five times as fast for 384 float32 as one after the other, which is what the letter of a loop says. NaN and infinity stay what they are.
    """
    order = {"reassoc", "contract"}
    try:
        return cast("F", numba.njit(nogil=True, cache=True, error_model="numpy", fastmath=order)(function))
    except RuntimeError:  # no folder that can be written to
        return cast("F", numba.njit(nogil=True, error_model="numpy", fastmath=order)(function))
