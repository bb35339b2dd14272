"""What the gateway reads from Kafka, and to whom each record is told. Two readers: lists and answers must not wait behind the rest."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar, cast

import msgspec
from confluent_kafka import Message

from engine.decode import decode_event, decode_item, decode_rule, decode_user, key_id
from engine.errors import BrokerError, HeadwaterError, TopicError
from streams import topics
from streams.broadcast import Broadcast
from streams.gateway.metrics import Metrics
from streams.gateway.views import Views
from streams.logs import logger
from streams.settings import Settings

T = TypeVar("T")
AGAIN_S = 1.0
LETTERS = 1_000
"""Dead letters read back at the start."""
FETCH_WAIT_MS, MOCK_FETCH_WAIT_MS = 500, 5
"""How long a broker may keep the readers' fetches without records; the embedded one does so for all of it, whatever comes meanwhile."""

log = logger(__name__)
UNREADABLE = (HeadwaterError, msgspec.MsgspecError, UnicodeDecodeError, ValueError)


class Feeds:
    """The readers. ``failure``: set when one can't go on; the process then ends, and whoever watches it starts it anew."""

    def __init__(self, settings: Settings, config: Mapping[str, Any], views: Views, metrics: Metrics) -> None:
        self._settings, self._config, self._views, self._metrics = settings, config, views, metrics
        self._names = names = topics.Names.under(settings.prefix)
        self._most = settings.max_record_bytes
        self._takers: Mapping[str, Callable[[Message], None]] = {
            names.recommendations: self._list,
            names.responses: lambda m: views.asking.answered(m.key(), m.value()),
            names.events: self._event,
            names.users: self._user,
            names.items: self._item,
            names.rules: self._rule,
            names.generations: lambda m: views.generations.took(m.key() or b"", m.value()),
            names.dead_letters: lambda m: views.letters.took(m.value() or b""),
        }
        self._readers: list[Broadcast] = []
        self._waiting = "Kafka"
        self.failure: BaseException | None = None

    def waiting_for(self) -> str:
        """What keeps the gateway from knowing what stands; "" when nothing does."""
        if self._waiting:
            return self._waiting
        return "" if all(reader.caught_up.is_set() for reader in self._readers) else "reading the topics to their ends"

    async def run(self) -> None:
        """Connect, again and again until Kafka answers, then watch the readers until one fails."""
        try:
            while not await self._connected():  # noqa: ASYNC110 - the broker tells nobody that it is there
                await asyncio.sleep(AGAIN_S)
        except Exception as error:  # noqa: BLE001 - settings that no client takes, say: told to the process, which ends
            self.failure = error
        while self.failure is None:
            await asyncio.sleep(AGAIN_S)
            self.failure = next((reader.failure for reader in self._readers if reader.failure is not None), None)

    async def stop(self) -> None:
        """Stop reading."""
        for reader in self._readers:
            await reader.stop()

    async def _connected(self) -> bool:
        try:
            if not self._readers:
                self._readers = await _aside(self._make)
            for reader in self._readers:
                await _aside(reader.open)
        except (BrokerError, TopicError) as error:
            if self._waiting != str(error):
                log.warning("gateway_waits", error=str(error))
            self._waiting = str(error)
            return False
        for reader in self._readers:
            reader.start()
        self._waiting = ""
        return True

    def _make(self) -> list[Broadcast]:
        mock = topics.look(topics.admin(self._settings)).is_mock
        config, names = self._config, self._names
        wait_ms = MOCK_FETCH_WAIT_MS if mock else FETCH_WAIT_MS
        first = Broadcast(
            config, (names.recommendations, names.responses), self._apply, tails={names.responses: 0}, fetch_wait_ms=wait_ms, at_once=True
        )
        rest = (names.items, names.rules, names.generations, names.users, names.events, names.dead_letters)
        tails = {names.events: self._settings.gateway_tail, names.dead_letters: LETTERS}
        return [first, Broadcast(config, rest, self._apply, tails=tails)]

    async def _apply(self, messages: Sequence[Message]) -> None:
        for message in messages:
            topic: Any = message.topic()
            self._metrics.read.labels(topic).inc()
            try:
                self._takers[topic](message)
            except UNREADABLE as error:  # the workers dead-letter such a record with its reason; here it only is not shown
                self._metrics.unreadable.labels(topic).inc()
                log.debug("gateway_unreadable", topic=topic, partition=message.partition(), offset=message.offset(), error=str(error))

    def _list(self, message: Message) -> None:
        self._views.listed((message.key() or b"").decode(), message.value(), message.timestamp()[1])

    def _event(self, message: Message) -> None:
        self._views.flow.event((message.partition() or 0, message.offset() or 0), message.timestamp()[1])
        types = self._settings.event_weights
        self._views.history.took(decode_event(message.value(), message.key(), types=types, max_bytes=self._most))

    def _user(self, message: Message) -> None:
        user = decode_user(message.value(), message.key(), max_bytes=self._most)
        if user is not None:
            self._views.history.told(user, message.timestamp()[1])

    def _item(self, message: Message) -> None:
        item = decode_item(message.value(), message.key(), max_bytes=self._most)
        self._views.items.took(key_id(message.key()), item, message.value())

    def _rule(self, message: Message) -> None:
        decode_rule(message.value(), message.key(), max_bytes=self._most)
        self._views.rules.took(key_id(message.key()), message.value())


async def _aside(function: Callable[[], T]) -> T:
    """What a function gives that may wait for Kafka for long, in a thread that no end of the process waits for."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[T] = loop.create_future()

    def settle(result: T | None, error: BaseException | None) -> None:
        if done.done():
            return
        if error is not None:
            done.set_exception(error)
        else:
            done.set_result(cast("T", result))

    def work() -> None:
        result, failure = None, None
        try:
            result = function()
        except BaseException as error:  # noqa: BLE001 - raised where it is awaited
            failure = error
        if not loop.is_closed():
            loop.call_soon_threadsafe(settle, result, failure)

    threading.Thread(target=work, name="connect", daemon=True).start()
    return await done
