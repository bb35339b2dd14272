"""The command `headwater up`: an installation for trying things out, in memory, on this machine. What it holds is gone when it ends.

1. The embedded broker starts, topics are made.
2. The settings that other commands need are written to `var/up/headwater.toml`.
3. Worker and gateway start; when they are ready, what to do next is printed.
4. Until Ctrl-C or SIGTERM, or until a part ends by itself. All processes end with this one.
"""

from __future__ import annotations

import json
import signal
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from threading import Event

from streams import topics
from streams.embedded import EmbeddedBroker
from streams.processes import Children
from streams.settings import load

FOLDER = Path("var/up")
CONFIG = FOLDER / "headwater.toml"
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

Ctrl-C ends it, and all that it holds is gone."""


def main(environ: Mapping[str, str], config: Path | None, say: Callable[[str], None]) -> None:
    """Run until told to stop.

    Raises:
        HeadwaterError: a part did not start, or ended by itself.
    """
    ended = Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: ended.set())
    with tempfile.TemporaryDirectory(prefix="headwater-up-") as scratch, EmbeddedBroker() as broker, Children() as children:  # 1
        state = Path(scratch) / "state"
        own = {"HEADWATER_BROKER": f"kafka://{broker.bootstrap}", "HEADWATER_STATE_DIR": str(state), "HEADWATER_SESSION_TIMEOUT_S": "6"}
        environ = {name: value for name, value in environ.items() if (name, value) != ("HEADWATER_CONFIG", str(CONFIG))}  # an earlier one's
        environ |= own | ({"HEADWATER_CONFIG": str(config)} if config else {})
        settings = load(environ)
        topics.create(topics.admin(settings), topics.topics(settings))
        FOLDER.mkdir(parents=True, exist_ok=True)  # 2
        told = {"broker": settings.broker, "prefix": settings.prefix, "registry": settings.registry}
        CONFIG.write_text("".join(f"{name} = {json.dumps(value)}\n" for name, value in told.items()), encoding="utf-8")
        say(f"broker    {broker.bootstrap}, in memory")
        worker = children.start("the worker", ["worker"], environ, FOLDER / "worker.log")  # 3
        worker.until_ready(f"http://127.0.0.1:{settings.web_port}/readyz", READY_S, ended.is_set)
        gateway = children.start("the gateway", ["gateway"], environ, FOLDER / "gateway.log")
        gateway.until_ready(f"http://127.0.0.1:{settings.gateway_port}/readyz", READY_S, ended.is_set)
        if not ended.is_set():
            say(NEXT.format(log=FOLDER / "worker.log", page=f"http://127.0.0.1:{settings.gateway_port}", config=CONFIG))
        while not ended.wait(LOOK_S):  # 4
            children.check()
    CONFIG.unlink(missing_ok=True)
