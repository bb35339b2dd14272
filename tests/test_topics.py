"""Topics: names as in the contract, made once with one N, checked before a worker starts, and told from their successors."""

from __future__ import annotations

import time
from concurrent.futures import Future
from types import SimpleNamespace
from typing import Any, cast

import pytest
from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import AdminClient, NewTopic

from engine.errors import BrokerError, TopicError
from streams import topics
from streams.embedded import PARTITIONS
from streams.settings import Settings, load
from streams.table import changelog_topic
from streams.topics import Names

pytestmark = pytest.mark.broker
BY_USER = {
    "events",
    "requests",
    "users",
    "recommendations",
    "responses",
    "_events",
    "_pairs",
    "_examples",
    "_users-changelog",
    "_items-changelog",
}


def settings_of(bootstrap: str, prefix: str, partitions: int = PARTITIONS) -> Settings:
    """Settings for a test's own topics."""
    return Settings(broker=f"kafka://{bootstrap}", prefix=prefix, partitions=partitions, shared_partitions=PARTITIONS)


def wait_for(client: AdminClient, name: str, *, there: bool) -> None:
    """Until the cluster's metadata says so: deletion is not at once."""
    until = time.monotonic() + 20
    while (name in topics.look(client).partitions) != there:
        assert time.monotonic() < until
        time.sleep(0.1)


def test_names_and_cleanup_are_the_contracts() -> None:
    """Rule: names, internal marks, cleanup and which topics share N are as the contract's table says."""
    listed = {t.name.removeprefix("x."): t for t in topics.topics(Settings(prefix="x."))}
    assert all(t.name.startswith("x.") for t in listed.values())
    assert {name for name, t in listed.items() if t.by_user} == BY_USER
    assert listed["recommendations"].cleanup == "compact,delete"
    assert {n for n, t in listed.items() if t.cleanup == "compact" and n[0] != "_"} == {"items", "users", "rules", "generations"}
    assert {n for n, t in listed.items() if t.cleanup == "delete" and n[0] != "_"} == {
        "events", "requests", "responses", "exposures", "dead-letters",
    }  # fmt: skip
    assert Names.under("x.").users_changelog == changelog_topic("x.", "users")


def test_create_then_check(cluster: str, prefix: str) -> None:
    """Rule: what create makes, check accepts; making again makes nothing; N is read back from the cluster."""
    settings = settings_of(cluster, prefix)
    wanted = topics.topics(settings)
    client = topics.admin(settings)
    assert {p.code for p in topics.check(client, wanted)} == {"missing_topic"}
    assert len(topics.create(client, wanted)) == len(wanted)
    wait_for(client, wanted[-1].name, there=True)
    assert (
        topics.check(client, wanted) == []
        if not topics.look(client).is_mock
        else topics.uneven(wanted, topics.look(client).partitions) == []
    )
    assert topics.create(client, wanted) == []
    assert topics.count(client, settings) == PARTITIONS


class Opening:
    """A cluster that knows a topic of 2 partitions after `known` looks, and serves its last partition after `served` more."""

    def __init__(self, known: int, served: int) -> None:
        self.known, self.served, self.asked = known, served, 0

    def list_topics(self, timeout: float) -> Any:
        """As AdminClient's."""
        self.known -= 1
        there = {"t": SimpleNamespace(partitions={0: None, 1: None}, error=None)} if self.known < 0 else {}
        return SimpleNamespace(cluster_id="c", topics=there)

    def list_offsets(self, places: Any, request_timeout: float) -> dict[Any, Future[Any]]:
        """As AdminClient's."""
        self.served, self.asked = self.served - 1, self.asked + 1
        answers: dict[Any, Future[Any]] = {place: Future() for place in places}
        for place, answer in answers.items():
            if place.partition == 1 and self.served >= 0:
                answer.set_exception(KafkaException(KafkaError(KafkaError.NOT_LEADER_FOR_PARTITION)))
            else:
                answer.set_result(None)
        return answers


def test_new_topics_are_open_when_all_leaders_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rule: it waits until a topic is known and each partition served; one that is not in time is named."""
    cluster = Opening(known=2, served=3)
    topics.wait_open(cast("AdminClient", cluster), {"t": 2})
    assert (cluster.known, cluster.asked) == (-4, 4)
    monkeypatch.setattr(topics, "OPEN_S", 0.1)
    for never, why in ((Opening(known=1_000, served=0), "not there"), (Opening(known=0, served=1_000), "NOT_LEADER_FOR_PARTITION")):
        with pytest.raises(BrokerError, match=f"after 0 s t: {why}") as caught:
            topics.wait_open(cast("AdminClient", never), {"t": 2})
        assert caught.value.code == "topics_not_open"


@pytest.mark.kafka
def test_uneven_topics_are_refused(kafka: str, prefix: str) -> None:
    """Rule: topics by user that differ in N, and a cleanup that loses data, are named with a remedy, and nothing is made beside them."""
    settings = settings_of(kafka, prefix, 2)
    client = topics.admin(settings)
    odd = [NewTopic(prefix + "events", 2, config={"cleanup.policy": "compact"}), NewTopic(prefix + "responses", 3)]
    for future in client.create_topics(odd).values():
        future.result(10)
    wait_for(client, prefix + "responses", there=True)
    problems = {p.code: p for p in topics.check(client, topics.topics(settings)) if p.code != "missing_topic"}
    assert problems["partition_count"].field == prefix + "responses"
    assert "2 partitions" in problems["partition_count"].remedy
    assert problems["cleanup_policy"].field == prefix + "events"
    with pytest.raises(TopicError):
        topics.create(client, topics.topics(settings))
    with pytest.raises(TopicError):
        topics.count(client, settings)


@pytest.mark.kafka
def test_existing_topics_decide_n(kafka: str, prefix: str) -> None:
    """Rule: what is created beside existing topics gets their N, whatever the settings say."""
    settings = settings_of(kafka, prefix, 8)
    client = topics.admin(settings)
    for future in client.create_topics([NewTopic(prefix + "events", 3)]).values():
        future.result(10)
    wait_for(client, prefix + "events", there=True)
    topics.create(client, topics.topics(settings))
    wait_for(client, prefix + "responses", there=True)
    assert topics.count(client, settings) == 3


@pytest.mark.kafka
def test_a_topic_made_again_has_another_epoch(kafka: str, prefix: str) -> None:
    """Rule: the epoch stays while a topic lives, and changes when it is deleted and made again under its name."""
    settings = settings_of(kafka, prefix)
    client = topics.admin(settings)
    name = prefix + "events"
    seen = []
    for _ in range(2):
        for future in client.create_topics([NewTopic(name, 1)]).values():
            future.result(10)
        wait_for(client, name, there=True)
        first, again = topics.epochs(client, [name]), topics.epochs(client, [name])
        assert first == again
        seen.append(first[name])
        for future in client.delete_topics([name]).values():
            future.result(10)
        wait_for(client, name, there=False)
    assert seen[0] != seen[1]
    assert all(epoch.startswith("topic:") for epoch in seen)
    with pytest.raises(BrokerError):
        topics.epochs(client, [name])


def test_the_embedded_broker_has_one_epoch(embedded: str, prefix: str) -> None:
    """Rule: where topics have no id the cluster's id is the epoch: another mock cluster is another epoch."""
    client = topics.admin(settings_of(embedded, prefix))
    assert topics.epochs(client, ["a", "b"]) == {name: f"cluster:{topics.look(client).cluster_id}" for name in "ab"}


def test_no_broker_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rule: a broker that is not there is an error worth trying again, not a hang."""
    monkeypatch.setattr(topics, "TIMEOUT_S", 1.0)
    with pytest.raises(BrokerError) as caught:
        topics.admin(load({"HEADWATER_BROKER": "kafka://127.0.0.1:1"}))
    assert caught.value.retryable
