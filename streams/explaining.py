"""What an explanation rests on, read from outside: the standing list, the user's row, catalogue and rules, and what a worker answers now.
How it is said: `engine.explain`.

Topics are read without a consumer group's offsets, to their present end: a second for thousands of items and users, about a minute for a
million.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from time import monotonic
from typing import Any
from uuid import uuid4

import msgspec
from confluent_kafka import Consumer, KafkaError, KafkaException, Producer, TopicPartition

from engine.errors import BrokerError
from engine.explain import Known, of_item, of_list, of_user
from engine.partition import partition_of
from engine.rules import compile_rules
from engine.user import UserState, decode_user, user_key
from engine.work import CANDIDATES
from streams import security, topics
from streams.rulebook import Rulebook
from streams.settings import Settings
from streams.standing import newest, standing

TIMEOUT_S = 15.0


@dataclass(frozen=True, slots=True)
class Explanation:
    """The lines of an explanation; `found`: whether there is a list, or an item was explained."""

    lines: tuple[str, ...]
    found: bool


def explain(settings: Settings, user_id: str, item_id: str | None, surface: str, wait_s: float, clock_ms: int) -> Explanation:
    """Explain a user's standing list, or where one item stands in it.

    Args:
        settings: of the installation.
        user_id: the user.
        item_id: the item; None: the whole list.
        surface: the placement.
        wait_s: how long a list, its user's row and answers are waited for, each.
        clock_ms: now.

    Raises:
        BrokerError: a topic can't be read, or requests not sent.
        TopicError: one is missing.
        StateError: the row is of another release.
    """
    book = Rulebook(settings, clock_ms).read()
    found = standing(settings, user_id, surface, 0.0)
    row = row_of(settings, user_id, found, wait_s)
    known = Known({item.item_id: item for item in book.items}, row, compile_rules(book.rules.values()), book.now_ms)
    lines = list(of_user(user_id, row))
    if item_id is not None:
        listed = [] if found is None else [place["item_id"] for place in found["items"]]
        requests: list[dict[str, Any]] = [{"k": max(CANDIDATES, len(listed))}, {"candidates": [item_id]}]
        ranked, alone = (
            (None, None) if item_id in listed else ask(settings, user_id, [{**one, "surface": surface} for one in requests], wait_s)
        )
        lines += of_item(item_id, found, ranked, alone, surface, known)
    elif found is not None:
        lines += of_list(found, known)
    else:
        lines.append(f"no list on {surface}: one comes with the user's first event; the gateway makes one for anybody who asks")
    return Explanation(tuple(lines), item_id is not None or found is not None)


def row_of(settings: Settings, user_id: str, found: Mapping[str, Any] | None, wait_s: float) -> UserState | None:
    """The user's row as the workers have written it down; waits for one that covers the events that the list covers.

    Raises:
        BrokerError: the changelog can't be read.
        StateError: the row is of another release.
    """
    wanted = None if found is None else found["applied"].get("events")
    topic = topics.Names.under(settings.prefix).users_changelog
    raw = newest(settings, topic, user_id, user_key(user_id.encode()), wait_s if wanted else 0.0, _covers(wanted))
    return decode_user(raw) if raw else None


def _covers(wanted: Sequence[int] | None) -> Callable[[bytes], bool]:
    """Whether a row has the event at a place (partition, offset) of `events`."""

    def enough(raw: bytes) -> bool:
        return bool(raw) and (wanted is None or decode_user(raw).applied.get(f"events/{wanted[0]}", (0, -1))[1] >= wanted[1])

    return enough


def ask(settings: Settings, user_id: str, requests: Sequence[Mapping[str, Any]], wait_s: float) -> list[dict[str, Any] | None]:
    """Send requests of a user, and give their responses in order; None for one that did not come within `wait_s`.

    Raises:
        BrokerError: they can't be sent, or responses not read.
    """
    names, client = topics.Names.under(settings.prefix), topics.admin(settings)
    place = TopicPartition(names.responses, partition_of(user_id.encode(), topics.count(client, settings)))
    config = {**security.librdkafka(settings), "log_level": 0}
    answers: dict[str, dict[str, Any] | None] = {f"explain-{uuid4().hex}": None for _ in requests}
    consumer = Consumer({**config, "group.id": f"{settings.app_id}-explain", "enable.auto.commit": False, "fetch.wait.max.ms": 20})
    failed: list[str] = []

    def told(error: Any, _: Any) -> None:
        if error is not None:
            failed.append(error.str())

    try:
        place.offset = consumer.get_watermark_offsets(place, timeout=TIMEOUT_S)[1]
        consumer.assign([place])
        producer = Producer({**config, "acks": "all", "partitioner": "murmur2_random", "message.timeout.ms": round(TIMEOUT_S * 1000)})
        for request_id, fields in zip(answers, requests, strict=True):
            value = msgspec.json.encode({"request_id": request_id, "user_id": user_id, **fields})
            producer.produce(names.requests, value, user_id.encode(), on_delivery=told)
        if producer.flush(TIMEOUT_S) or failed:
            raise _unsent(failed[0] if failed else "no answer")
        until = monotonic() + wait_s
        while not all(answers.values()) and monotonic() < until:
            for body in _bodies(consumer):
                if body.get("request_id") in answers:
                    answers[body["request_id"]] = body
    except KafkaException as error:
        raise _unsent(str(error)) from error
    finally:
        consumer.close()
    return list(answers.values())


def _bodies(consumer: Consumer) -> Iterator[dict[str, Any]]:
    for message in consumer.consume(100, 0.1):
        error = message.error()
        if error is not None and error.code() == KafkaError.TOPIC_AUTHORIZATION_FAILED:
            raise _unsent(error.str())
        if error is None and message.value():
            yield msgspec.json.decode(message.value() or b"")


def _unsent(found: str) -> BrokerError:
    remedy = "look at the broker and the rights, then try again"
    return BrokerError("not_asked", found, "requests that are taken, and responses that can be read", remedy, retryable=True)
