"""Takes in what is said about users: attributes, consent, an alias, erasure. The agent of `users`."""

from __future__ import annotations

import msgspec

from engine.decode import decode_user, key_id
from engine.errors import BadRecord
from engine.lists import Trigger
from engine.partition import partition_of
from engine.user import Position, UserState, user_key
from streams.batch import Batch
from streams.deadletters import DeadLetters
from streams.epochs import Epochs
from streams.listmaker import ListMaker, Owed, Standing
from streams.outbox import Outbox
from streams.table import CheckpointTable

SOURCE = "users"


class People:
    """The handler of `users`."""

    def __init__(
        self,
        users: CheckpointTable[UserState],
        maker: ListMaker,
        outbox: Outbox,
        dead: DeadLetters,
        epochs: Epochs,
        *,
        partitions: int,
        surfaces: tuple[str, ...],
        recommendations: str,
        routed_topic: str,
    ) -> None:
        self._users, self._maker, self._outbox, self._dead, self._epochs = users, maker, outbox, dead, epochs
        self._n, self._surfaces, self._recommendations, self._routed = partitions, surfaces, recommendations, routed_topic

    async def handle(self, batch: Batch) -> None:
        """Apply a batch."""
        rows = self._users.rows(batch.partition)
        epoch = self._epochs.check(rows, SOURCE)
        owed = Owed(batch)
        for record in batch.records:
            position = Position(SOURCE, epoch, batch.partition, record.offset)
            try:
                user = decode_user(record.value, record.key)
                user_id = key_id(record.key)
            except BadRecord as problem:
                self._dead.send(problem, record)
                continue
            row: UserState = rows.edit(user_key(record.key))
            if row.covers(position):
                continue
            row.advance(position)
            if user is None:
                row.attributes = {}
                continue
            if user.erase:
                row.erase(user.timestamp or record.timestamp)
                for surface in self._surfaces:
                    self._outbox.publish(self._recommendations, f"{surface}:{user_id}".encode(), None, batch.partition)
                continue
            row.attributes = dict(user.attributes)
            row.personalise = user.personalise
            if user.alias_of is not None and not row.alias_of:
                self._merge(row, user_id, user.alias_of)
            else:
                trigger = Trigger("user", user_id, record.timestamp, position)
                self._maker.want(Standing(batch.partition, user_id, trigger, self._surfaces, record.timestamp / 1000.0), owed)
        owed.paid()

    def _merge(self, row: UserState, user_id: str, target: str) -> None:
        """Send the history to the user it now belongs to, once, as events under ids of their own; later events follow (`Intake`)."""
        row.alias_of = target
        key = target.encode()
        for n, one in enumerate(row.history):
            event = {
                "event_id": f"alias:{n}:{one.time}:{user_id}"[:128],
                "type": one.type or "click",
                "user_id": target,
                "item_id": one.item_id,
                "timestamp": one.time,
            }
            self._outbox.publish(self._routed, key, msgspec.json.encode(event), partition_of(key, self._n))
