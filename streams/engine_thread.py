"""Where lists are scored: a thread for the compiled loops, which need no interpreter, so the event loop goes on meanwhile.

The model belongs to the event loop. `lock` is held by whoever changes it, and by whoever lets the thread read it, from the first look to
the last. Two threads running Python at once would only take turns: 0.3 ms of it took 4 ms when the worker was busy.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")

SWITCH_S = 0.0001
"""How long a thread may keep the interpreter while another waits; the default of 5 ms would be half the freshness aimed at."""


class EngineThread:
    """Runs functions one after the other in a thread of its own; see the module for `lock`."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="engine")
        self.lock = asyncio.Lock()
        sys.setswitchinterval(SWITCH_S)

    async def call(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run `function` there and wait for what it gives, or raise what it raises."""
        return await asyncio.get_running_loop().run_in_executor(self._pool, lambda: function(*args, **kwargs))

    def close(self) -> None:
        """End the thread after what it is at."""
        self._pool.shutdown(wait=False, cancel_futures=True)
