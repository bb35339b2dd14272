"""The command `headwater up`: an installation in memory for trying things out. Events, state and lists are gone when it ends.

1. It sees that it is the only one in this folder.
2. The embedded broker starts; that the ports are free is looked at before topics are made and anything of another one could be touched.
3. The settings that other commands need are written to `var/up/headwater.toml`, and README's lines that produce and consume beside it.
4. Worker and gateway start; when they are ready, what to do next is printed.
5. Until Ctrl-C, SIGTERM or the terminal's end, or until a part ends by itself. All processes end with this one.
"""

from __future__ import annotations

import fcntl
import json
import signal
import socket
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from threading import Event

from engine.errors import HeadwaterError
from streams import snippets, topics
from streams.embedded import EmbeddedBroker
from streams.processes import Children
from streams.settings import Settings, load

FOLDER = Path("var/up")
CONFIG = FOLDER / "headwater.toml"
PROGRAMS = {FOLDER / "produce.py": snippets.PRODUCER, FOLDER / "consume.py": snippets.CONSUMER}
READY_S = 180.0
"""A worker compiles its loops the first time on a machine, some 20 s."""
LOOK_S = 0.5
NEXT = """\
worker    ready; its log is {log}
page      {page}

In another terminal, from this folder:

  export HEADWATER_CONFIG={config}
  headwater items load FILE
  headwater events load FILE
  headwater lists USER

README's lines for your own programs, with this broker's address: {programs}
Ctrl-C ends it; events, state and lists are gone then, generations stay in {registry}."""


def main(environ: Mapping[str, str], config: Path | None, say: Callable[[str], None]) -> None:
    """Run until told to stop.

    Raises:
        HeadwaterError: another one is at work here, a port is taken, a part did not start, or ended by itself.
    """
    ended = Event()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: ended.set())
    environ = {name: value for name, value in environ.items() if (name, value) != ("HEADWATER_CONFIG", str(CONFIG))}  # an earlier one's
    environ |= {"HEADWATER_CONFIG": str(config)} if config else {}
    FOLDER.mkdir(parents=True, exist_ok=True)
    with (
        alone(),  # 1
        tempfile.TemporaryDirectory(prefix="headwater-up-", ignore_cleanup_errors=True) as scratch,
        EmbeddedBroker() as broker,  # 2
        Children() as children,
    ):
        state = Path(scratch) / "state"
        environ |= {
            "HEADWATER_BROKER": f"kafka://{broker.bootstrap}",
            "HEADWATER_STATE_DIR": str(state),
            "HEADWATER_SESSION_TIMEOUT_S": "6",
        }
        settings = load(environ)
        free(settings)
        topics.create(topics.admin(settings), topics.topics(settings))
        _write(settings, broker.bootstrap)  # 3
        say(f"broker    {broker.bootstrap}, in memory")
        worker = children.start("the worker", ["worker"], environ, FOLDER / "worker.log")  # 4
        worker.until_ready(f"http://127.0.0.1:{settings.web_port}/readyz", READY_S, ended.is_set)
        gateway = children.start("the gateway", ["gateway"], environ, FOLDER / "gateway.log")
        gateway.until_ready(f"http://127.0.0.1:{settings.gateway_port}/readyz", READY_S, ended.is_set)
        if not ended.is_set():
            page, programs = f"http://127.0.0.1:{settings.gateway_port}", ", ".join(map(str, PROGRAMS))
            say(NEXT.format(log=FOLDER / "worker.log", page=page, config=CONFIG, programs=programs, registry=settings.registry))
        while not ended.wait(LOOK_S):  # 5
            children.check()
        say("ending")
        for path in (CONFIG, *PROGRAMS):
            path.unlink(missing_ok=True)


def _write(settings: Settings, address: str) -> None:
    registry = settings.registry if "://" in settings.registry else str(Path(settings.registry).absolute())  # for commands from elsewhere
    told = {"broker": settings.broker, "prefix": settings.prefix, "registry": registry}
    CONFIG.write_text("".join(f"{name} = {json.dumps(value)}\n" for name, value in told.items()), encoding="utf-8")
    for path, text in PROGRAMS.items():
        path.write_text(snippets.filled(text, address, prefix=settings.prefix, mock=True), encoding="utf-8")


@contextmanager
def alone() -> Iterator[None]:
    """While inside, the only `headwater up` of this folder.

    Raises:
        HeadwaterError: another one is at work.
    """
    with (FOLDER / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            found, remedy = f"a `headwater up` at work in {Path.cwd()}", "use that one, or end it with Ctrl-C in its terminal"
            raise HeadwaterError("already_up", found, "none", remedy) from error
        yield


def free(settings: Settings) -> None:
    """See that the ports of worker and gateway are free: else their readiness would be that of somebody else's.

    Raises:
        HeadwaterError: one is not.
    """
    for name, host, port in (
        ("HEADWATER_WEB_PORT", settings.web_host, settings.web_port),
        ("HEADWATER_GATEWAY_PORT", settings.gateway_host, settings.gateway_port),
    ):
        with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((host.strip("[]"), port))
            except OSError as error:
                remedy = f"end what listens there (`ss -ltnp`), or set {name} to another port"
                raise HeadwaterError("address_taken", f"{host}:{port}, {error.strerror}", "a free port", remedy) from error
