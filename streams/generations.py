"""What the topic `generations` says, and saying it: announce, activate, roll back. Not what a generation is, nor where it is kept.

The topic has each announced generation's manifest under its id, and under `active` which of them serves. Nothing unproven is activated: see
`Board.activate`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from time import monotonic, time_ns
from typing import Any

import msgspec
from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, KafkaException, Producer, TopicPartition

from engine.active import ACTIVE, Active, read_active
from engine.errors import ArtefactError, BadRecord, BrokerError
from engine.manifest import Manifest, decode_manifest, encode_manifest
from engine.registry import Registry, fingerprint, number_of
from streams import security
from streams.logs import logger
from streams.settings import Settings
from streams.topics import Names, admin

TIMEOUT_S = 20.0
LINEAGE = 1_000
"""Parents followed at most: a circle of them would be a damaged registry."""

log = logger(__name__)


@dataclass(frozen=True, slots=True)
class Said:
    """What the topic says: which generations were made active in turn, as far as compaction left them (None: none any more); and the
    announced manifests by id.
    """

    actives: tuple[Active | None, ...] = ()
    manifests: dict[str, Manifest] = field(default_factory=dict)

    @property
    def active(self) -> Active | None:
        """The one that is active now, None before the first."""
        return self.actives[-1] if self.actives else None


class Board:
    """The topic of one installation, and its registry."""

    def __init__(self, settings: Settings) -> None:
        self._settings, self._config = settings, {**security.librdkafka(settings), "log_level": 0}
        self._topic = Names.under(settings.prefix).generations
        self.registry = Registry(settings.registry, settings.registry_cache)

    def read(self) -> Said:
        """Read the topic to its present end. Records that can't be read are passed over, with a warning.

        Raises:
            BrokerError: it can't be read.
        """
        admin(self._settings)  # says why, where no broker takes us; the clients below would wait until the time is up
        own = {"group.id": "headwater-board", "enable.auto.commit": False, "enable.partition.eof": True, "fetch.wait.max.ms": 20}
        consumer = Consumer({**self._config, **own})
        try:
            return self._read(consumer)
        except KafkaException as error:
            raise _unread(str(error)) from error
        finally:
            consumer.close()

    def _read(self, consumer: Consumer) -> Said:
        metadata = consumer.list_topics(self._topic, timeout=TIMEOUT_S).topics[self._topic]
        if metadata.error is not None:
            raise _unread(f"{self._topic}: {metadata.error.str()}")
        left = set(metadata.partitions)
        consumer.assign([TopicPartition(self._topic, p, OFFSET_BEGINNING) for p in left])
        said: list[Active | None] = []
        manifests: dict[str, Manifest] = {}
        until = monotonic() + TIMEOUT_S
        while left:
            for message in consumer.consume(100, 0.2):
                error = message.error()
                if error is not None:
                    if error.code() == KafkaError._PARTITION_EOF:  # noqa: SLF001 - confluent-kafka's name
                        left.discard(message.partition())
                    continue  # any other is told again, until the time is up
                key, value = message.key() or b"", message.value()
                try:
                    if key == ACTIVE:
                        said.append(None if value is None else read_active(value))
                    elif value is None:
                        manifests.pop(key.decode(), None)
                    else:
                        manifests[key.decode()] = decode_manifest(value, f"{self._topic}[{message.partition()}]@{message.offset()}")
                except (BadRecord, ArtefactError, UnicodeDecodeError) as problem:
                    log.warning("generation_record_passed_over", offset=message.offset(), reason=str(problem)[:300])
            if left and monotonic() > until:
                raise _unread(f"{self._topic}: not read to its end within {TIMEOUT_S:g} s")
        return Said(tuple(said), manifests)

    def active(self) -> Active | None:
        """Which generation is active; None also for one that the registry has lost, or has another one of its id in the place of: nobody
        can serve it from there, or train from it.

        Raises:
            BrokerError: the topic can't be read.
            ArtefactError: the registry does not answer.
        """
        active = self.read().active
        if active is None or active.id not in self.registry.ids():
            return None
        return active if active.files in ("", fingerprint(self.registry.manifest(active.id))) else None

    def announce(self, manifest: Manifest) -> None:
        """Say that a generation is published.

        Raises:
            BrokerError: it was not acknowledged.
        """
        self._publish([(manifest.id.encode(), encode_manifest(manifest))])

    def activate(
        self, generation_id: str | None, *, by: str, reason: str, at_ms: int, force: bool = False, expect: str | None = None
    ) -> Manifest:
        """Announce a published generation (None: the newest) as the active one; workers verify it and switch.

        It may serve if its gate let it through, if it served before (it is active now, or an ancestor of the active one), or if no
        generation is active yet and none is known to be worse.

        Args:
            generation_id: its id; None for the newest of the registry.
            by: who says so.
            reason: why, for the record.
            at_ms: now.
            force: also one that was refused or never compared.
            expect: only in the place of this one, and not where a person has said to wait (`Active.hold`).

        Raises:
            ArtefactError: there is no such generation, or it may not serve (`gate_not_passed`, `not_compared`, `superseded`, `on_hold`).
            BrokerError: the topic can't be read, or the announcement was not acknowledged.
        """
        wanted = generation_id or self.registry.latest()
        if wanted is None:
            found, remedy = f"nothing in {self.registry.url}", "run `headwater export` first"
            raise ArtefactError("no_generation", found, "a published generation", remedy)
        manifest, active = self.registry.manifest(wanted), self.active()
        if expect is not None:
            if active is None or active.id != expect:
                found = f"{active.id if active else 'none'} is active"
                raise ArtefactError("superseded", found, expect, f"train again, or `headwater generations activate {wanted}`")
            if active.hold:
                found = f"{active.id} is held: {active.reason or 'no reason given'}"
                raise ArtefactError("on_hold", found, "no hold", f"`headwater generations activate {wanted}` when you want it")
        if not force:
            self._check(manifest, active)
        own = Active(manifest.id, 1.0, by, at_ms, reason, force and not _passed(manifest), files=fingerprint(manifest))
        self._say(manifest, own)
        if expect is not None:
            self._give_way(own, active)
        return manifest

    def _give_way(self, own: Active, expected: Active | None) -> None:
        """Say again what a person said between our look at the topic and our own record: theirs counts.

        Raises:
            ArtefactError: it was so.
            BrokerError: as of `activate`.
        """
        actives = self.read().actives
        at = max((n for n, one in enumerate(actives) if one == own), default=0)
        theirs = actives[at - 1] if at else expected
        if theirs == expected or theirs is None:
            return
        self._publish([(ACTIVE, msgspec.json.encode(theirs))])
        raise ArtefactError(
            "superseded",
            f"{theirs.id} was activated meanwhile by {theirs.by or 'somebody'}",
            own.id,
            f"`headwater generations activate {own.id}`",
        )

    def rollback(self, *, by: str, reason: str, at_ms: int, hold: bool) -> Manifest:
        """Make the parent of the active generation serve again; with `hold` no trainer puts another in its place.

        Raises:
            ArtefactError: nothing is active, or it has no parent.
            BrokerError: as of `activate`.
        """
        active = self.active()
        parent = None if active is None else self.registry.manifest(active.id).parent
        if active is None or parent is None:
            found = "nothing is active" if active is None else f"{active.id} has no parent"
            raise ArtefactError("no_parent", found, "a generation to go back to", "name one with `headwater generations activate ID`")
        manifest = self.registry.manifest(parent)
        reason = reason or f"rolled back from {active.id}"
        self._say(manifest, Active(parent, 1.0, by, at_ms, reason, not _passed(manifest), hold, fingerprint(manifest)))
        return manifest

    def prune(self, keep: int, *, dry: bool = False) -> list[str]:
        """Remove generations from registry and topic, but for the newest `keep`, the active one and its parent; gives what was removed.

        The newest always stays: ids go on from it. What died in publishing before them goes too. `dry`: only say what would be.

        Raises:
            ArtefactError: nothing is active, so that nobody knows what is still wanted; or the registry does not answer.
            BrokerError: the topic can't be read, or written.
        """
        active = self.active()
        if active is None:
            raise ArtefactError("nothing_active", "no active generation", "one that says what is wanted", "activate one first")
        ids = self.registry.ids()
        wanted = {one for one in (active.id, self.registry.manifest(active.id).parent, *ids[-max(1, keep) :]) if one}
        gone = [one for one in ids if one not in wanted]
        if dry:
            return gone
        for one in gone:
            self._publish([(one.encode(), None)])
            self.registry.remove(one)
        left = self.registry.remove_unfinished(min(wanted, key=number_of))
        for one in left:
            self._publish([(one.encode(), None)])
        return sorted([*gone, *left], key=number_of)

    def _check(self, manifest: Manifest, active: Active | None) -> None:
        if _passed(manifest) or (active is not None and manifest.id in self._lineage(active.id)):
            return
        remedy = f"train again, or if you mean it: `headwater generations activate {manifest.id} --force`"
        if manifest.gate is not None:
            found = f"{manifest.id} was refused: {'; '.join(manifest.gate.reasons)}"
            raise ArtefactError("gate_not_passed", found, "a generation that its gate has let through", remedy)
        if active is not None:
            found = f"{manifest.id} was never compared with {active.id}, which serves"
            remedy = (
                f"`headwater generations activate {manifest.id} --force` if you mean it, for another catalogue, say; "
                "`headwater train` makes one that is compared"
            )
            raise ArtefactError("not_compared", found, "a generation that its gate has let through", remedy)

    def _lineage(self, generation_id: str) -> list[str]:
        """A generation and its ancestors, as far as the registry has them."""
        found, known = list[str](), set(self.registry.ids())
        following: str | None = generation_id
        while following is not None and following in known and len(found) < LINEAGE:
            found.append(following)
            following = self.registry.manifest(following).parent
        return found

    def _say(self, manifest: Manifest, active: Active) -> None:
        self._publish([(manifest.id.encode(), encode_manifest(manifest)), (ACTIVE, msgspec.json.encode(active))])

    def _publish(self, records: Sequence[tuple[bytes, bytes | None]]) -> None:
        producer = Producer({**self._config, "acks": "all", "enable.idempotence": True, "partitioner": "murmur2_random"})
        failed: list[str] = []

        def told(error: Any, _: Any) -> None:
            if error is not None:
                failed.append(error.str())

        try:
            for key, value in records:
                producer.produce(self._topic, value, key, on_delivery=told)
            left = producer.flush(TIMEOUT_S)
        except KafkaException as error:
            raise _unannounced(str(error)) from error
        if left or failed:
            raise _unannounced(failed[0] if failed else f"no answer within {TIMEOUT_S:g} s")


class Bulletin:
    """`generations` as a cycle sees it."""

    def __init__(self, board: Board) -> None:
        self._board = board

    def active(self) -> str | None:
        """The id of the active generation."""
        active = self._board.active()
        return None if active is None else active.id

    def announce(self, manifest: Manifest) -> None:
        """Say that it is published."""
        self._board.announce(manifest)

    def activate(self, generation_id: str, parent: str, reason: str) -> None:
        """Make it serve in its parent's place."""
        self._board.activate(generation_id, by="headwater train", reason=reason, at_ms=time_ns() // 1_000_000, expect=parent)


def activate(settings: Settings, generation_id: str | None, *, by: str, reason: str, at_ms: int, force: bool = False) -> Manifest:
    """`Board.activate` for an installation that is asked once."""
    return Board(settings).activate(generation_id, by=by, reason=reason, at_ms=at_ms, force=force)


def _passed(manifest: Manifest) -> bool:
    return manifest.gate is not None and manifest.gate.passed


def _unread(found: str) -> BrokerError:
    return BrokerError(
        "not_read", found, "a readable topic", "run `headwater topics check`; look at the broker and the rights", retryable=True
    )


def _unannounced(found: str) -> BrokerError:
    return BrokerError(
        "not_announced", found, "an acknowledged record on generations", "look at the broker, then try again", retryable=True
    )
