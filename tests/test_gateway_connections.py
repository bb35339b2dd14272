"""The gateway's connections and its port: what a client may keep without asking for anything. Sockets, but no broker."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest
import uvicorn

from engine.errors import BadSettings, of_system
from streams.gateway import connections
from streams.gateway.connections import Connection
from streams.gateway.server import listen

HEADER_S = 0.4
WHOLE = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"


async def slow(scope: Any, receive: Any, send: Any) -> None:
    """An application that answers at once, and ends its answer much later than a header may take."""
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"4")]})
    await send({"type": "http.response.body", "body": b"be", "more_body": True})
    await asyncio.sleep(2 * HEADER_S)
    await send({"type": "http.response.body", "body": b"ll"})


@asynccontextmanager
async def served(**settings: Any) -> AsyncIterator[int]:
    """A server on a port of its own."""
    sockets = listen("127.0.0.1", 0)
    config = uvicorn.Config(slow, http=Connection, lifespan="off", log_config=None, log_level="critical", ws="none", **settings)
    server = uvicorn.Server(config)
    running = asyncio.create_task(server._serve(sockets))  # noqa: SLF001 - serve() would take the test's signals
    try:
        yield sockets[0].getsockname()[1]
    finally:
        server.force_exit = server.should_exit = True
        await running


async def read(reader: asyncio.StreamReader, size: int = 65_536) -> bytes:
    """What comes next; b"" where the connection is closed."""
    with suppress(ConnectionResetError):
        return await asyncio.wait_for(reader.read(size), 10)
    return b""


@pytest.fixture(autouse=True)
def hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    """Headers must come sooner than usual."""
    monkeypatch.setattr(connections, "HEADER_S", HEADER_S)


@pytest.mark.parametrize(
    "first, more",
    [
        (b"", b""),
        (WHOLE[:20], b""),
        (WHOLE[:20], b"x"),  # a byte now and then does not help
        (b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 99\r\n\r\n", b"x"),  # neither does the rest of what is answered already
        (WHOLE + WHOLE[:20], b"x"),
    ],
)
def test_a_connection_without_a_request_is_closed(first: bytes, more: bytes) -> None:
    """Rule: who sends no header, half of one, or one byte after the other, holds a place no longer than a header may take."""

    async def seconds() -> float:
        async with served() as port:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(first)
            clock, waiting = asyncio.get_running_loop(), b"\r\n\r\n" in first
            while waiting:
                waiting = not (await read(reader)).endswith(b"ll")
            began, closed = clock.time(), asyncio.create_task(read(reader))
            while not closed.done():
                assert clock.time() - began < 10, "it stays"
                with suppress(ConnectionError):
                    writer.write(more)
                    await writer.drain()
                await asyncio.wait([closed], timeout=HEADER_S / 4)
            writer.close()
            return clock.time() - began

    assert HEADER_S / 2 < asyncio.run(seconds()) < 4 * HEADER_S


def test_what_is_under_way_stays() -> None:
    """Rule: an answer may take as long as it takes, and the connection serves the next request after it, also after a pause."""

    async def answers() -> list[bytes]:
        found = []
        async with served() as port:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            for _ in range(2):
                writer.write(WHOLE[:9])
                await asyncio.sleep(HEADER_S / 4)
                writer.write(WHOLE[9:])
                found.append(await asyncio.wait_for(reader.readuntil(b"bell"), 10))
                await asyncio.sleep(1.5 * HEADER_S)
            writer.close()
        return found

    assert all(answer.startswith(b"HTTP/1.1 200") for answer in asyncio.run(answers()))


@pytest.mark.parametrize("behind_proxies", [False, True])
def test_one_address_leaves_room_for_others(behind_proxies: bool) -> None:
    """Rule: the last tenth of the places is not for an address that has most of them; behind proxies all have the same."""

    async def held() -> tuple[int, bytes]:
        async with served(limit_concurrency=20, proxy_headers=behind_proxies) as port:
            mine = [await asyncio.open_connection("127.0.0.1", port) for _ in range(25)]
            reader, writer = await asyncio.open_connection("127.0.0.1", port, local_addr=("127.0.0.2", 0))
            writer.write(WHOLE)
            answer = await read(reader, 12)
            ended = await asyncio.gather(*(asyncio.wait({asyncio.create_task(one.read(1))}, timeout=HEADER_S / 8) for one, _ in mine))
            for _, one in [*mine, (reader, writer)]:
                one.close()
            return sum(not done for done, _ in ended), answer

    assert asyncio.run(held()) == ((25, b"HTTP/1.1 503") if behind_proxies else (18, b"HTTP/1.1 200"))


def test_the_port() -> None:
    """Rule: the port is taken at every address of a name, or the gateway says who has it; a host of another machine is a wrong setting."""
    taken = listen("localhost", 0)
    assert {one.getsockname()[0] for one in taken} <= {"127.0.0.1", "::1"}
    port = taken[0].getsockname()[1]
    with pytest.raises(OSError, match=str(port)) as caught:
        listen(taken[0].getsockname()[0], port)
    known = of_system(caught.value)
    assert known is not None
    assert known.code == "address_taken"
    for one in taken:
        one.close()
    for host in ("192.0.2.1", "no.such.host.invalid"):
        with pytest.raises(BadSettings, match="HEADWATER_GATEWAY_HOST"):
            listen(host, 0)
    with socket.create_server(("127.0.0.1", port)):
        pass


def test_an_answer_does_not_wait_for_its_own_head() -> None:
    """Rule: connections send at once (TCP_NODELAY), or a body would wait for the acknowledgement of the header before it."""
    with listen("127.0.0.1", 0)[0] as server, socket.create_connection(server.getsockname()), server.accept()[0] as accepted:
        assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
