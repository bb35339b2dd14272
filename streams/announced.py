"""What the topic `generations` says serves now: one bounded read to its end. It announces nothing (`streams.generations` does)."""

from __future__ import annotations

from time import monotonic

from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, KafkaException, TopicPartition

from engine.active import ACTIVE, Active, read_active
from engine.errors import BadRecord, BrokerError, TopicError
from streams import security
from streams.settings import Settings
from streams.topics import MAKE, Names, admin

TIMEOUT_S = 20.0
POLL_S = 0.5


def announced(settings: Settings) -> Active | None:
    """The generation that is announced as active, None while none is; a record that can't be read announces none.

    Raises:
        TopicError: there is no topic `generations`.
        BrokerError: the topic can't be read to its end in time.
    """
    admin(settings)  # says why, where no broker takes us
    topic = Names.under(settings.prefix).generations
    own = {"group.id": f"{settings.app_id}-announced", "enable.auto.commit": False, "enable.partition.eof": True, "log_level": 0}
    consumer = Consumer({**security.librdkafka(settings), **own})
    try:
        partitions = consumer.list_topics(topic, timeout=TIMEOUT_S).topics[topic].partitions
        if not partitions:
            raise TopicError("missing_topic", f"no topic {topic}", "the topic of generations", MAKE)
        consumer.assign([TopicPartition(topic, number, OFFSET_BEGINNING) for number in partitions])
        return _read(consumer, len(partitions))
    except KafkaException as error:
        raise _unread(error.args[0].str()) from error
    finally:
        consumer.close()


def _read(consumer: Consumer, partitions: int) -> Active | None:
    found, ended, late = None, 0, monotonic() + TIMEOUT_S
    while ended < partitions:
        if monotonic() > late:
            raise _unread(f"not at the end after {TIMEOUT_S:g} s")
        message = consumer.poll(POLL_S)
        if message is None:
            continue
        error = message.error()
        if error is None:
            found = _active(message.key(), message.value(), found)
        elif error.code() == KafkaError._PARTITION_EOF:  # noqa: SLF001 - confluent-kafka's name
            ended += 1
        elif error.code() != KafkaError.GROUP_AUTHORIZATION_FAILED and not error.retriable():  # no group is used, nor a right to one
            raise _unread(error.str())
    return found


def _active(key: bytes | None, value: bytes | None, before: Active | None) -> Active | None:
    if key != ACTIVE:
        return before
    try:
        return read_active(value) if value is not None else None
    except BadRecord:  # workers pass it over too, with a line in their logs
        return before


def _unread(found: str) -> BrokerError:
    return BrokerError("generations_unread", found, "the topic of generations, read to its end", "look at the broker and the rights", True)
