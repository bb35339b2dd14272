"""What a worker must be allowed on topics and group, asked of the broker before it starts. It gives no rights; docs/security.md lists them.

Without this a missing right shows late or never: a group that may not be joined is waited for, a changelog that can't be read recovers
nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from confluent_kafka import KafkaError, KafkaException, TopicCollection
from confluent_kafka.admin import AclOperation, AdminClient

from engine.errors import BrokerError
from streams.topics import TIMEOUT_S, Names

READ, WRITE = AclOperation.READ, AclOperation.WRITE
BOTH = ("routed_events", "pairs", "examples", "item_stats", "vectors", "weights", "users_changelog", "items_changelog")
READS = ("events", "users", "requests", "items", "rules", "generations")
WRITES = ("recommendations", "responses", "dead_letters")


def of_worker(names: Names) -> dict[str, set[AclOperation]]:
    """What a worker does with each topic."""
    kinds = ((BOTH, {READ, WRITE}), (READS, {READ}), (WRITES, {WRITE}))
    return {getattr(names, field): set(wanted) for fields, wanted in kinds for field in fields}


def check(client: AdminClient, wanted: Mapping[str, set[AclOperation]], group: str) -> None:
    """See that this client may do what is wanted on topics, and join the group; a broker without an authorizer allows everything.

    Raises:
        BrokerError: a right is missing; all that are, are named. Or the broker does not answer.
    """
    answers = client.describe_topics(TopicCollection(sorted(wanted)), include_authorized_operations=True, request_timeout=TIMEOUT_S)
    lacking = [f"{operation.name.title()} on {name}" for name in wanted for operation in sorted(wanted[name] - _allowed(answers[name]))]
    (told,) = client.describe_consumer_groups([group], request_timeout=TIMEOUT_S).values()
    if _error(told) == KafkaError.GROUP_AUTHORIZATION_FAILED:
        lacking.append(f"Read on group {group}")
    if lacking:
        remedy = "give this user these rights (docs/security.md); where a topic is missing: `headwater topics create`"
        raise BrokerError("missing_rights", f"no right to {', '.join(lacking)}", "the rights of a worker", remedy)


def _allowed(answer: Any) -> set[AclOperation]:
    """The operations on a topic that are allowed; None where it is not seen."""
    if _error(answer) in (KafkaError.TOPIC_AUTHORIZATION_FAILED, KafkaError.UNKNOWN_TOPIC_OR_PART):
        return set()
    try:
        found = answer.result(TIMEOUT_S).authorized_operations
    except KafkaException as error:
        raise BrokerError("rights_unknown", str(error), "an answer about rights", "look at the broker", retryable=True) from error
    return set(found) if found is not None else {READ, WRITE}  # None: a broker before 2.3, which can't be asked


def _error(answer: Any) -> int | None:
    try:
        answer.result(TIMEOUT_S)
    except KafkaException as error:
        return int(error.args[0].code())
    return None
