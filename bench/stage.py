"""A whole installation with a past, to be looked at: broker, worker and gateway as processes, ifdb-played replayed. It measures nothing."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from engine.dataset import read
from engine.protocol import stream
from engine.registry import Registry
from streams import replay, topics
from streams.demo import DATA, generation_for
from streams.embedded import EmbeddedBroker
from streams.generations import activate
from streams.outside import Outside
from streams.processes import Children, free_port
from streams.settings import load

ROOM = 400
"""Events without a list up to which more are sent."""
Say = Callable[[str], None]


@contextmanager
def stage(events: int, say: Say) -> Iterator[tuple[str, Outside]]:
    """The gateway's address and an outside client, after the last `events` of ifdb-played were sent and listed."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="headwater-stage-", ignore_cleanup_errors=True)))
        broker = stack.enter_context(EmbeddedBroker())
        web, port = free_port(), free_port()
        environ = {name: value for name, value in os.environ.items() if not name.startswith("HEADWATER_")}
        environ |= {
            "HEADWATER_BROKER": f"kafka://{broker.bootstrap}",
            "HEADWATER_STATE_DIR": str(folder / "state"),
            "HEADWATER_WEB_PORT": str(web),
            "HEADWATER_GATEWAY_PORT": str(port),
            "HEADWATER_SESSION_TIMEOUT_S": "6",
            "OPENBLAS_NUM_THREADS": "1",
        }
        settings = load(environ)
        topics.create(topics.admin(settings), topics.topics(settings))
        data = read(DATA)
        children = stack.enter_context(Children())
        registry = Registry(settings.registry)
        if generation_for(registry, data.items) is None:
            say(f"no generation for this catalogue in {settings.registry}: exporting one, about a minute")
            children.run("headwater export", ["export", "--catalogue", str(DATA), "--registry", settings.registry], environ)
        manifest = generation_for(registry, data.items)
        activate(settings, manifest.id if manifest else None, by="bench.stage", reason="to be looked at", at_ms=round(time.time() * 1000))
        producer = replay.producer_of(settings)
        replay.replay_items(data, producer, topic=topics.Names.under(settings.prefix).items)
        producer.close()
        worker = children.start("the worker", ["worker"], environ, folder / "worker.log")
        gateway = children.start("the gateway", ["gateway"], environ, folder / "gateway.log")
        worker.until_ready(f"http://127.0.0.1:{web}/readyz")
        gateway.until_ready(f"http://127.0.0.1:{port}/readyz")
        outside = Outside(settings)
        stack.callback(outside.close)
        say(f"sending {events} events")
        for row in stream(data)[-events:]:
            while outside.uncovered >= ROOM:
                children.check()
                outside.read(0.05)
            key, value = replay.event_record(data.name, row)
            outside.send(key.decode(), value)
        while outside.uncovered:
            children.check()
            outside.read(0.05)
        yield f"http://127.0.0.1:{port}", outside
