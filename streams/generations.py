"""Says on the topic `generations` which generation serves. Not what one is (`engine.generation`), nor where it is kept."""

from __future__ import annotations

import msgspec
from confluent_kafka import KafkaException, Producer

from engine.active import ACTIVE, Active
from engine.errors import ArtefactError, BrokerError
from engine.manifest import Manifest, encode_manifest
from engine.registry import Registry
from streams import security
from streams.settings import Settings
from streams.topics import Names, admin

TIMEOUT_S = 20.0


def activate(settings: Settings, generation_id: str | None, *, by: str, reason: str, at_ms: int) -> Manifest:
    """Announce a published generation (None: the newest) as the active one; workers verify it and switch.

    Raises:
        ArtefactError: the registry has no such generation, or none at all.
        BrokerError: the announcement was not acknowledged.
    """
    registry = Registry(settings.registry, settings.registry_cache)
    wanted = generation_id or registry.latest()
    if wanted is None:
        raise ArtefactError("no_generation", f"nothing in {settings.registry}", "a published generation", "run `headwater export` first")
    manifest = registry.manifest(wanted)
    admin(settings)  # says why, where no broker takes us
    topic = Names.under(settings.prefix).generations
    active = msgspec.json.encode(Active(manifest.id, 1.0, by, at_ms, reason))
    producer = Producer(
        {**security.librdkafka(settings), "acks": "all", "enable.idempotence": True, "partitioner": "murmur2_random", "log_level": 0}
    )
    failed: list[str] = []
    try:
        for key, value in ((manifest.id.encode(), encode_manifest(manifest)), (ACTIVE, active)):
            producer.produce(topic, value, key, on_delivery=lambda error, _: failed.append(error.str()) if error else None)
        left = producer.flush(TIMEOUT_S)
    except KafkaException as error:
        raise BrokerError(
            "not_announced", str(error), "a record on generations", "look at the broker and the rights", retryable=True
        ) from error
    if left or failed:
        found = failed[0] if failed else f"no answer within {TIMEOUT_S:g} s"
        raise BrokerError(
            "not_announced",
            found,
            "an acknowledged record on generations",
            "look at the broker and the rights, then try again",
            retryable=True,
        )
    return manifest
