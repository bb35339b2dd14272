"""uvicorn's connection, with two limits that it has not: how long a header may take, and how many places one address may hold."""

from __future__ import annotations

import asyncio

from uvicorn.protocols.http.h11_impl import H11Protocol

HEADER_S = 10.0
"""How long the header of a request may take, from the connection or the header's first bytes on. uvicorn closes a connection that is
idle after an answer, but waits for ever for the first request, and for the rest of one that has begun."""
CROWDED = 0.9
"""Part of the places beyond which an address that has more than half of them gets no further one."""


class Connection(H11Protocol):
    """One connection, on which one request comes after the other."""

    _deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if self._greedy():
            transport.abort()
        else:
            self._await_header()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._await_header()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._unset_deadline()

    def _await_header(self) -> None:
        """Where no request is under way, one must be by the deadline; what comes meanwhile does not move it."""
        answered = getattr(self.cycle, "response_complete", True)  # there is no cycle before the first request
        if not answered:
            self._unset_deadline()
        elif self._deadline is None:
            self._deadline = self.loop.call_later(HEADER_S, self.transport.abort)

    def _unset_deadline(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _greedy(self) -> bool:
        """Whether places are scarce and this address has most of them. Behind proxies all clients have the proxies' addresses."""
        most, taken = self.limit_concurrency, len(self.connections)
        if most is None or taken <= most * CROWDED or self.config.proxy_headers or self.client is None:
            return False
        mine = sum(isinstance(one, Connection) and one.client is not None and one.client[0] == self.client[0] for one in self.connections)
        return mine > taken / 2
