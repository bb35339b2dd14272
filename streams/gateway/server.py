"""The process `headwater gateway`: what it is made of, and how it starts and ends. It answers no request itself."""

from __future__ import annotations

import asyncio
import errno
import ipaddress
import signal
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from time import monotonic, time
from types import FrameType

import uvicorn

from engine.errors import BadSettings, Problem, shorten
from streams import logs, security, topics
from streams.gateway import app
from streams.gateway.asking import Asking
from streams.gateway.catalogue import Items, Rules
from streams.gateway.connections import Connection
from streams.gateway.feeds import Feeds
from streams.gateway.flow import Flow
from streams.gateway.generations import Generations
from streams.gateway.history import History
from streams.gateway.lag import Lag
from streams.gateway.letters import Letters
from streams.gateway.limits import Places
from streams.gateway.metrics import Metrics
from streams.gateway.sender import Sender
from streams.gateway.standing import Standing
from streams.gateway.state import Gateway
from streams.gateway.views import Views
from streams.settings import Settings

MIB = 2**20
STOP_S = 5
"""Seconds that requests under way may take when the process is told to stop; streams end at once."""
KEEP_ALIVE_S = 75
BACKLOG = 2048
"""Connections that may wait to be taken, as uvicorn has it."""
log = logs.logger(__name__)


def main(settings: Settings) -> int:
    """Serve until SIGTERM or SIGINT; the exit status.

    Raises:
        BadSettings: the address is reachable from elsewhere, and there is no token; or it is none of this machine.
        OSError: somebody listens there already.
    """
    local = check(settings)
    sockets = listen(settings.gateway_host.strip("[]"), settings.gateway_port)
    logs.configure(settings.log_level, settings.log_format)
    return asyncio.run(_serve(settings, sockets, local=local))


def check(settings: Settings) -> bool:
    """Whether the gateway listens on this machine only.

    >>> check(Settings(gateway_host="::1"))
    True

    Raises:
        BadSettings: it does not, and there is no token.
    """
    host = settings.gateway_host.strip("[]")
    try:
        local = ipaddress.ip_address(host).is_loopback
    except ValueError:
        local = host == "localhost"
    if not local and settings.gateway_token is None:
        remedy = "set HEADWATER_GATEWAY_TOKEN to a secret of 16 characters or more, or HEADWATER_GATEWAY_HOST to 127.0.0.1"
        expected = f"a token, as {host} can be reached from other machines"
        raise BadSettings([Problem("gateway_token", "missing", "none", expected, remedy)])
    return local


def listen(host: str, port: int) -> list[socket.socket]:
    """Take the port at every address that a host name has.

    Raises:
        BadSettings: the host is no address of this machine.
        OSError: somebody listens there already, or this user may not.
    """
    taken = list[socket.socket]()
    try:
        for family, _, _, _, address in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE):
            taken.append(one := socket.create_server(address, family=family, backlog=BACKLOG))
            # connections inherit it; without it the body of an answer waits 40 ms for the client to acknowledge its head
            one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    except OSError as error:
        for other in taken:
            other.close()
        if isinstance(error, socket.gaierror) or error.errno == errno.EADDRNOTAVAIL:
            found = f"{shorten(repr(host))} ({error.strerror})"
            remedy = "set HEADWATER_GATEWAY_HOST to one, 127.0.0.1 say"
            raise BadSettings([Problem("gateway_host", "no_address", found, "an address of this machine", remedy)]) from None
        raise
    return taken


async def _serve(settings: Settings, sockets: list[socket.socket], *, local: bool) -> int:
    names, metrics = topics.Names.under(settings.prefix), Metrics()
    config = security.librdkafka(settings) | {"log_level": 0}  # what it would say on standard error, many times a second, is in our own log
    sender = Sender(config, metrics, max_bytes=settings.max_record_bytes)
    views = Views(
        Standing(settings.gateway_lists, settings.gateway_lists_mb * MIB),
        Asking(sender, names.requests, settings.gateway_asks, metrics),
        Items(settings.gateway_items_mb * MIB),
        Rules(),
        History(settings.gateway_users),
        Flow(),
        Letters(),
        Generations(),
    )
    feeds = Feeds(settings, config, views, metrics)
    read = (names.events, names.requests, names.users, names.pairs)
    lag = Lag(config, settings.app_id, read, (names.recommendations, names.dead_letters, names.items), monotonic)
    places = Places(settings.gateway_streams, settings.gateway_streams_per_client)
    gateway = Gateway(settings, names, views, sender, lag, metrics, places, time, feeds.waiting_for)
    server: Server

    @asynccontextmanager
    async def around() -> AsyncIterator[None]:
        reading = asyncio.create_task(_watched(feeds, server))
        log.info("gateway_listening", address=f"http://{settings.gateway_host}:{settings.gateway_port}")
        yield
        reading.cancel()
        with suppress(asyncio.CancelledError):
            await reading
        await feeds.stop()
        await sender.stop()
        await lag.stop()
        log.info("gateway_stopped")

    server = Server(
        uvicorn.Config(
            app.build(gateway, local=local, around=around),
            http=Connection,
            log_config=None,
            log_level="warning",
            access_log=False,
            server_header=False,
            proxy_headers=bool(settings.gateway_proxies),
            forwarded_allow_ips=settings.gateway_proxies or None,
            limit_concurrency=settings.gateway_connections,
            timeout_keep_alive=KEEP_ALIVE_S,
            timeout_graceful_shutdown=STOP_S,
            ws="none",
        ),
        views.standing,
    )
    await server.serve(sockets)
    return 1 if feeds.failure is not None or not server.started else 0


async def _watched(feeds: Feeds, server: Server) -> None:
    """Read until reading fails; then the process ends, so that whoever watches it starts it anew."""
    await feeds.run()
    log.error("gateway_failed", error=repr(feeds.failure))
    server.stop()


class Server(uvicorn.Server):
    """uvicorn's server, which waits for open connections when it is told to stop: streams must end by themselves, or it waits in vain."""

    def __init__(self, config: uvicorn.Config, standing: Standing) -> None:
        super().__init__(config)
        self._standing = standing

    def stop(self) -> None:
        """Take no more requests, end the streams."""
        self.should_exit = True
        self._standing.close()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:  # noqa: ARG002 - as uvicorn has it
        """A signal; a second SIGINT waits for nobody. uvicorn's own sends the signal again at the end, and the status is not 0."""
        self.force_exit = self.should_exit and sig == signal.SIGINT
        self.should_exit = True
        asyncio.get_running_loop().call_soon_threadsafe(self._standing.close)  # the handler runs between two steps of the loop's own thread
