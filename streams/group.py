"""The workers' consumer group as seen from outside: who is in it, and how far it has come. It joins nothing and commits nothing."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from concurrent.futures import Future
from typing import Any, Self

from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition
from confluent_kafka.admin import OffsetSpec
from faust.types import TP

from engine.errors import BrokerError, TopicError
from streams import security, topics
from streams.settings import Settings

WORKERS = "faust"
"""Under this name workers speak of their partitions when they join the group (faust/assignor/partition_assignor.py)."""
BACKFILL = "headwater-backfill"
"""The name of those that backfill. A broker admits nobody to a group whose members share no such name with him
(INCONSISTENT_GROUP_PROTOCOL), so the two are never in it together, whoever comes first."""
TIMEOUT_S = 20.0
NOT_YET = frozenset({KafkaError.COORDINATOR_LOAD_IN_PROGRESS, KafkaError.COORDINATOR_NOT_AVAILABLE, KafkaError.NOT_COORDINATOR})
"""Answers of a cluster that has just started: another one comes in a moment. librdkafka calls them not retriable here."""

Offsets = Mapping[TP, int]


class Group:
    """Asks the brokers about one installation's group; every call waits for their answer, so not for the event loop."""

    def __init__(self, settings: Settings) -> None:
        self.name = settings.app_id
        self._admin = topics.admin(settings)
        config = {"group.id": self.name, "enable.auto.commit": False, "log_level": 0}
        self._consumer = Consumer({**security.librdkafka(settings), **config})
        self._found = topics.look(self._admin)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._consumer.close()

    @property
    def is_mock(self) -> bool:
        """Whether it is the embedded broker, which cannot say who is in a group and knows no times of records."""
        return self._found.is_mock

    def parts(self, names: Iterable[str]) -> list[TP]:
        """All partitions of some topics."""
        return [TP(name, partition) for name in names for partition in range(self._found.partitions.get(name, 0))]

    def protocol(self) -> str:
        """Under which name the present members share partitions: `WORKERS`, `BACKFILL`, or "" without members, or where none can tell.

        Raises:
            BrokerError: the broker does not tell.
        """
        until = time.monotonic() + TIMEOUT_S
        while not self.is_mock:
            answer: Future[Any] = self._admin.describe_consumer_groups([self.name], request_timeout=TIMEOUT_S)[self.name]
            try:
                found = answer.result(TIMEOUT_S + 1)
            except KafkaException as error:
                if error.args[0].code() not in NOT_YET or time.monotonic() > until:
                    raise _broken(error) from error
                time.sleep(0.2)
            else:
                return str(found.partition_assignor or "") if found.members else ""
        return ""

    def committed(self, parts: Iterable[TP]) -> dict[TP, int]:
        """The committed offsets, 0 where there is none.

        Raises:
            BrokerError: the broker does not tell.
        """
        try:
            answer = self._consumer.committed([TopicPartition(*tp) for tp in parts], timeout=TIMEOUT_S)
        except KafkaException as error:
            raise _broken(error) from error
        return {TP(one.topic, one.partition): max(0, one.offset) for one in answer}

    def first(self, parts: Iterable[TP]) -> dict[TP, int]:
        """The offset of the first record that is still there.

        Raises:
            BrokerError: the broker does not tell.
        """
        return self._offsets(parts, OffsetSpec.earliest())

    def ends(self, parts: Iterable[TP]) -> dict[TP, int]:
        """The offset that the next record will have.

        Raises:
            BrokerError: the broker does not tell.
        """
        return self._offsets(parts, OffsetSpec.latest())

    def at(self, parts: Iterable[TP], ms: int) -> dict[TP, int]:
        """The offset of the first record produced at a time (ms) or later; the end where there is none.

        Raises:
            BrokerError: the broker does not tell.
            TopicError: it is the embedded one.
        """
        if self.is_mock:
            remedy = "use --until now there, or a Kafka cluster"
            raise TopicError("no_record_times", "the embedded broker", "a broker that finds records by time", remedy)
        parts = list(parts)
        ends = self.ends(parts)
        return {tp: offset if offset >= 0 else ends[tp] for tp, offset in self._offsets(parts, OffsetSpec.for_timestamp(ms)).items()}

    def _offsets(self, parts: Iterable[TP], spec: OffsetSpec) -> dict[TP, int]:
        answers = self._admin.list_offsets({TopicPartition(*tp): spec for tp in parts}, request_timeout=TIMEOUT_S)
        try:
            return {TP(tp.topic, tp.partition): answer.result(TIMEOUT_S + 1).offset for tp, answer in answers.items()}
        except KafkaException as error:
            raise _broken(error) from error


def _broken(error: KafkaException) -> BrokerError:
    kafka: KafkaError = error.args[0]
    remedy = "check the broker, and the user's rights on the group and on the topics"
    return BrokerError(
        "group_unknown",
        f"{kafka.name()} {kafka.str()}",
        "an answer about the group",
        remedy,
        retryable=kafka.retriable() or kafka.code() in {*NOT_YET, *topics.NO_ANSWER},
    )
