"""The topics of an installation: names, partitions, cleanup; how they are made, checked and told from successors. No records."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, fields
from time import monotonic, sleep
from typing import Any, Literal, TypeVar

from confluent_kafka import KafkaError, KafkaException, TopicCollection, TopicPartition
from confluent_kafka.admin import AdminClient, ConfigResource, NewTopic, OffsetSpec, ResourceType

from engine.errors import BrokerError, Problem, TopicError
from streams.reach import reached
from streams.settings import Settings

TIMEOUT_S = 15.0
OPEN_S = 30.0
"""How long brokers may take to serve a topic that was just made."""
DAY_MS = 86_400_000
ANSWER_MS = DAY_MS
"""How long requests and responses stay: whoever asks reads within seconds."""
MOCK_CLUSTER = "mockCluster"
"""What the id of librdkafka's mock cluster begins with. It knows no CreateTopics, DescribeTopics or DescribeConfigs."""
BATCH_OVERHEAD = 512
"""Bytes that a batch of one record adds to it: 61 of header, some more for the record's own lengths and headers."""
NO_ANSWER = frozenset({KafkaError._TRANSPORT, KafkaError._TIMED_OUT, KafkaError._ALL_BROKERS_DOWN, KafkaError._RESOLVE})  # noqa: SLF001 # public, for all their names
"""librdkafka's own codes for a broker that did not answer: `retriable()` speaks only of what brokers answered."""
MAKE = "run `headwater topics create`, or give this user the right to describe what is there"
"""Kafka shows nobody what he may not describe: without rights there is nothing."""
T = TypeVar("T")
Cleanup = Literal["delete", "compact", "compact,delete"]


@dataclass(frozen=True, slots=True)
class Names:
    """Each topic's name under the installation's prefix; internal ones begin with `_` after it."""

    events: str
    items: str
    users: str
    requests: str
    rules: str
    recommendations: str
    responses: str
    exposures: str
    dead_letters: str
    generations: str
    routed_events: str  # events that stood on a wrong partition
    pairs: str  # pair counts, summed per item and batch
    examples: str  # what was shown and taken, with features, for training
    item_stats: str  # neighbours and popularity, broadcast
    vectors: str  # vectors of items that came after the generation, broadcast
    weights: str  # the ranker's weights, broadcast
    users_changelog: str
    items_changelog: str

    @classmethod
    def under(cls, prefix: str) -> Names:
        """The names under a prefix.

        >>> Names.under("shop.").dead_letters, Names.under("").pairs, Names.under("a-").users_changelog
        ('shop.dead-letters', '_pairs', 'a-_users-changelog')
        """
        internal = {"routed_events": "_events", "users_changelog": "_users-changelog", "items_changelog": "_items-changelog"}
        internal |= {name: f"_{name}" for name in ("pairs", "examples", "item_stats", "vectors", "weights")}
        names = [field.name for field in fields(cls)]
        return cls(**{name: prefix + internal.get(name, name.replace("_", "-")) for name in names})


@dataclass(frozen=True, slots=True)
class Topic:
    """One topic as it should be; `by_user`: it has N partitions, as all topics by user and the tables beside them."""

    name: str
    partitions: int
    cleanup: Cleanup
    by_user: bool
    replication: int
    config: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Found:
    """What a cluster has: its id, and per topic the number of partitions."""

    cluster_id: str
    partitions: Mapping[str, int]

    @property
    def is_mock(self) -> bool:
        """Whether it is librdkafka's mock cluster, which makes topics when asked about them and describes none."""
        return self.cluster_id.startswith(MOCK_CLUSTER)


def topics(settings: Settings) -> tuple[Topic, ...]:
    """Every topic that an installation needs (contract.md, and the internal ones)."""
    n = Names.under(settings.prefix)
    kept = round(settings.retention_days * DAY_MS)
    lists = round(settings.list_ttl_s * 1000) + DAY_MS
    # rows of a changelog and dead letters may be larger than what is taken in: 1 MiB is Kafka's own default
    size = {"max.message.bytes": str(max(settings.max_record_bytes, 1024 * 1024) + BATCH_OVERHEAD)}

    def topic(name: str, cleanup: Cleanup, partitions: int | None = None, retention_ms: int | None = None) -> Topic:
        config = {"cleanup.policy": cleanup, **size, **({"retention.ms": str(retention_ms)} if retention_ms else {})}
        return Topic(name, partitions or settings.partitions, cleanup, partitions is None, settings.replication, config)

    shared = settings.shared_partitions
    return (
        topic(n.events, "delete", retention_ms=kept),
        topic(n.requests, "delete", retention_ms=ANSWER_MS),
        topic(n.users, "compact"),
        topic(n.recommendations, "compact,delete", retention_ms=lists),
        topic(n.responses, "delete", retention_ms=ANSWER_MS),
        topic(n.routed_events, "delete", retention_ms=kept),
        topic(n.pairs, "delete", retention_ms=kept),
        topic(n.examples, "delete", retention_ms=kept),
        topic(n.users_changelog, "compact"),
        topic(n.items_changelog, "compact"),
        topic(n.items, "compact", shared),
        topic(n.rules, "compact", 1),  # one partition: rules and generations are read in the order in which they were decided
        topic(n.generations, "compact", 1),
        topic(n.exposures, "delete", shared, kept),
        topic(n.dead_letters, "delete", shared, kept),
        topic(n.item_stats, "compact", shared),
        topic(n.vectors, "compact", shared),
        topic(n.weights, "compact", 1),
    )


def admin(settings: Settings) -> AdminClient:
    """A client that can look at topics and make them.

    Raises:
        BrokerError: no broker answered, or one refused user or certificate.
    """
    return reached(settings, TIMEOUT_S)


def look(client: AdminClient) -> Found:
    """What the cluster has now; makes nothing, even where brokers make topics by use.

    Raises:
        BrokerError: no broker answered.
    """
    try:
        metadata = client.list_topics(timeout=TIMEOUT_S)
    except KafkaException as error:
        raise _broker_error(error) from error
    return Found(metadata.cluster_id or "", {name: len(topic.partitions) for name, topic in metadata.topics.items() if not topic.error})


def create(client: AdminClient, wanted: Iterable[Topic]) -> list[str]:
    """Make what is missing, and say what was made; existing topics are left as they are, and their N goes before the settings'.

    Returns when the new ones are open to producers (`wait_open`).

    Raises:
        BrokerError: the cluster refused, or does not serve what was made.
        TopicError: existing topics by user differ in N.
    """
    wanted = list(wanted)
    found = look(client)
    n = _common(wanted, found)
    missing = [topic for topic in wanted if topic.name not in found.partitions]
    if found.is_mock:
        for topic in missing:
            client.list_topics(topic.name, timeout=TIMEOUT_S)  # it makes what it is asked about
    elif missing:
        new = [NewTopic(t.name, n if n and t.by_user else t.partitions, t.replication, config=dict(t.config)) for t in missing]
        for future in client.create_topics(new, request_timeout=TIMEOUT_S).values():
            try:
                _answer(future)
            except BrokerError as error:
                if error.code != KafkaError(KafkaError.TOPIC_ALREADY_EXISTS).name().lower():  # another worker was faster
                    raise
        wait_open(client, {topic.topic: topic.num_partitions for topic in new})
    return [topic.name for topic in missing]


def wait_open(client: AdminClient, partitions: Mapping[str, int]) -> None:
    """Return when each partition of these topics (name -> how many) is served by its leader.

    Until then a leader may refuse a producer's first request and take the second: the first one's records then come behind, or are lost for
    good though the producer is idempotent (KAFKA-15591).

    Raises:
        BrokerError: some are not after OPEN_S.
    """
    until = monotonic() + OPEN_S
    while shut := _shut(client, partitions):
        if monotonic() > until:
            remedy = "look at the brokers, and whether this user may describe the topics; then run `headwater topics create` again"
            found = f"after {OPEN_S:.0f} s {', '.join(f'{name}: {why}' for name, why in shut.items())}"
            raise BrokerError("topics_not_open", found, "leaders that serve them", remedy, retryable=True)
        sleep(0.05)


def _shut(client: AdminClient, partitions: Mapping[str, int]) -> dict[str, str]:
    """Topics that are not known to the cluster, or have a partition whose leader does not answer for it; and why."""
    known = look(client).partitions
    if unknown := {name: "not there" for name, count in partitions.items() if known.get(name, 0) < count}:
        return unknown
    places = {TopicPartition(name, number): OffsetSpec.latest() for name in partitions for number in range(known[name])}
    answers: dict[TopicPartition, Future[Any]] = client.list_offsets(places, request_timeout=TIMEOUT_S)
    errors = {place.topic: error for place, answer in answers.items() if (error := answer.exception(TIMEOUT_S + 1)) is not None}
    return {name: error.args[0].name() if isinstance(error, KafkaException) else repr(error) for name, error in errors.items()}


def check(client: AdminClient, wanted: Iterable[Topic]) -> list[Problem]:
    """What is wrong with the topics: missing ones, those by user that differ in N, and a cleanup that would lose data.

    Raises:
        BrokerError: the cluster can't be asked.
    """
    wanted = list(wanted)
    found = look(client)
    problems = [
        Problem(t.name, "missing_topic", "no topic", f"{t.partitions} partitions", MAKE) for t in wanted if t.name not in found.partitions
    ]
    problems += uneven(wanted, found.partitions)
    if not found.is_mock:
        there = [t for t in wanted if t.name in found.partitions]
        for topic, policy in zip(there, _policies(client, [t.name for t in there]), strict=True):
            if set(policy.split(",")) != set(topic.cleanup.split(",")):
                remedy = f"set the topic's cleanup.policy to {topic.cleanup} (kafka-configs --alter)"
                problems.append(Problem(topic.name, "cleanup_policy", policy, topic.cleanup, remedy))
    return problems


def uneven(wanted: Iterable[Topic], partitions: Mapping[str, int]) -> list[Problem]:
    """A problem for each topic by user whose number of partitions is not that of `events` (or of the first there is).

    A user's records on all of them must stand on the same partition: else a worker would own a user's events, but not the user's row.
    """
    there = [t.name for t in wanted if t.by_user and t.name in partitions]
    return [
        Problem(
            name,
            "partition_count",
            f"{partitions[name]} partitions",
            f"{partitions[there[0]]}, as {there[0]} has",
            f"make {name} again with {partitions[there[0]]} partitions (delete it, then `headwater topics create`), or use a new prefix",
        )
        for name in there
        if partitions[name] != partitions[there[0]]
    ]


def count(client: AdminClient, settings: Settings) -> int:
    """N, as the cluster has it: the number of partitions of the topics by user.

    Raises:
        BrokerError: the cluster can't be asked.
        TopicError: the topics by user differ in N, or none is there.
    """
    n = _common(topics(settings), look(client))
    if not n:
        raise TopicError("missing_topic", "no topic by user", f"{Names.under(settings.prefix).events}", MAKE)
    return n


def epochs(client: AdminClient, names: Sequence[str]) -> dict[str, str]:
    """What tells each topic from one made again under its name: offsets of another epoch mean other records.

    It is the topic's UUID (KIP-516). Where there is none (the mock cluster, brokers before 2.8) it is the cluster's id: a mock cluster
    that starts again is another one, but a topic made again on the same old broker is not seen.

    Raises:
        BrokerError: the cluster can't be asked, or has no such topic.
    """
    found = look(client)
    fallback = f"cluster:{found.cluster_id}"
    if found.is_mock:
        return dict.fromkeys(names, fallback)
    answers = client.describe_topics(TopicCollection(list(names)), request_timeout=TIMEOUT_S)
    ids = {name: str(_answer(future).topic_id or "") for name, future in answers.items()}
    return {name: f"topic:{uuid}" if uuid.strip("A") else fallback for name, uuid in ids.items()}  # all A: the zero UUID in base64


def _common(wanted: Iterable[Topic], found: Found) -> int:
    """N of the topics by user that are there, 0 without any."""
    wanted = list(wanted)
    problems = uneven(wanted, found.partitions)
    if problems:
        one = problems[0]
        raise TopicError(one.code, f"{one.field}: {one.found}", one.expected, one.remedy)
    return next((found.partitions[t.name] for t in wanted if t.by_user and t.name in found.partitions), 0)


def _policies(client: AdminClient, names: Sequence[str]) -> list[str]:
    resources = [ConfigResource(ResourceType.TOPIC, name) for name in names]
    answers: dict[Any, Future[Any]] = client.describe_configs(resources, request_timeout=TIMEOUT_S) if resources else {}
    by_name = {resource.name: str(_answer(future)["cleanup.policy"].value) for resource, future in answers.items()}
    return [by_name[name] for name in names]


def _answer(future: Future[T]) -> T:
    try:
        return future.result(TIMEOUT_S + 1)
    except KafkaException as error:
        raise _broker_error(error) from error


def _broker_error(error: KafkaException) -> BrokerError:
    kafka: KafkaError = error.args[0]
    remedy = "check HEADWATER_BROKER, the network, and the user's rights"
    again = kafka.retriable() or kafka.code() in NO_ANSWER
    return BrokerError(kafka.name().strip("_").lower(), kafka.str(), "an answer from the cluster", remedy, retryable=again)
