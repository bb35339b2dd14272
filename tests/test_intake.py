"""Intake and People over logs in memory: crashes, redelivery, wrong partitions and aliases in any order count each event once."""

from __future__ import annotations

import asyncio
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from types import SimpleNamespace
from typing import Any, NamedTuple

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.item import ItemState, apply_deltas
from engine.objective import Objective
from engine.pairs import Decay, PairBatch, rank_weights
from engine.partition import hash64, item_key, partition_of
from engine.user import Limits, UserState, decode_user, encode_user, user_key
from streams import surfaces
from streams.intake import MOST_ALIAS_LOGS, Intake, IntakeRules
from streams.jobs import Lesson
from streams.metrics import Metrics
from streams.people import People
from streams.table import INTERNAL, Rows

N = 2
START = 1_700_000_000_000
WEIGHTS = {"click": 1.0, "cart": 1.0, "purchase": 1.0, "rating": 1.0, "dislike": -1.0}


class Record(NamedTuple):
    """A record as aiokafka gives it."""

    topic: str
    partition: int
    offset: int
    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[str, bytes], ...]
    timestamp: int = START


class World:
    """Logs, rows and the two handlers of one worker that owns all partitions; it can crash and go on from its last checkpoint."""

    def __init__(
        self, hold_s: float = 0.0, objective: Objective | None = None, chosen: Callable[[str, int, int], bool] | None = None
    ) -> None:
        self.hold_s, self.objective = hold_s, objective
        self.chosen = chosen or ((lambda *_: True) if hold_s else None)
        self.taught_now = asyncio.Event()
        self.logs: dict[tuple[str, int], list[Record]] = defaultdict(list)
        self.read: Counter[tuple[str, int]] = Counter()
        self.stored: list[dict[bytes, bytes]] = [{} for _ in range(N)]  # what a crash leaves
        self.committed: Counter[tuple[str, int]] = Counter()
        self.dead: list[str] = []
        self.forgotten: list[str] = []
        self.wanted: list[Any] = []
        self.lessons: list[Lesson] = []
        self.start()

    # -- what the handlers are given

    def start(self) -> None:
        """Make a worker over what is stored."""
        metrics, epochs = Metrics(), SimpleNamespace(check=lambda *_: 1)
        users: Any = self
        self._rows = [self._open(partition) for partition in range(N)]
        limits = Limits(weights=WEIGHTS, event_id_age_ms=10**15)
        goal = self.objective or Objective()
        rules = IntakeRules(N, ("home",), limits, WEIGHTS, 10_000, 300_000, 0.0, hold_s=self.hold_s, chosen=self.chosen, objective=goal)
        self.intakes = {
            source: Intake(
                source,
                users,
                users,
                users,
                users,
                metrics,
                epochs,  # type: ignore[arg-type]
                rules,
                routed_topic="_events",
                pairs_topic="_pairs",
                generation=lambda: "g",
                clock=lambda: START / 1000 + 10**6,
            )
            for source in ("events", "_events")
        }
        self.people = People(
            users,
            users,
            users,
            users,
            metrics,
            epochs,  # type: ignore[arg-type]
            partitions=N,
            surfaces=("home",),
            tolerance_ms=300_000,
            topic="users",
            routed_topic="_events",
            clock=lambda: START / 1000 + 10**6,
        )
        self.now = 0

    def _open(self, partition: int) -> Rows[UserState]:
        return Rows("users", partition, self.stored[partition], new=UserState, encode=encode_user, decode=decode_user, limit=lambda: 10**6)

    def rows(self, partition: int) -> Rows[UserState]:
        return self._rows[partition]

    async def room(self) -> None: ...

    def want(self, job: Any, owed: Any) -> None:
        self.wanted.append(job)

    def learn(self, job: Any) -> None:
        self.lessons.append(job)

    async def taught(self) -> None:
        await self.taught_now.wait()

    def forget(self, partition: int, user_id: str, wanted: Iterable[str]) -> None:
        self.forgotten += [f"{surface}:{user_id}" for surface in wanted]

    def send(self, problem: Any, record: Record) -> None:
        self.dead.append(problem.code)

    def publish(self, topic: str, key: bytes | None, value: bytes | None, partition: int = -1, headers: Any = None) -> None:
        log = self.logs[topic, partition]
        log.append(Record(topic, partition, len(log), key, value, tuple(headers or ())))

    # -- what happens

    def put(self, topic: str, user: str, value: Any, partition: int | None = None) -> None:
        """A producer's record."""
        self.publish(topic, user.encode(), msgspec.json.encode(value), partition_of(user.encode(), N) if partition is None else partition)

    def event(self, user: str, n: int, partition: int | None = None, **fields: Any) -> None:
        """The n-th event; a repeat has the same n."""
        event = {"event_id": f"e{n}", "type": "click", "user_id": user, "item_id": f"i{n % 7}", "timestamp": START + 1000 * n}
        self.put("events", user, {**event, **fields}, partition)

    def deliver(self, topic: str, partition: int, count: int = 10**6) -> int:
        """Give the next records of a partition to their handler; how many there were."""
        return asyncio.run(self.handed(topic, partition, count))

    async def handed(self, topic: str, partition: int, count: int = 10**6) -> int:
        """The same in an event loop."""
        at = self.read[topic, partition]
        records = self.logs[topic, partition][at : at + count]
        if records:
            batch: Any = SimpleNamespace(topic=topic, partition=partition, records=records, lost=False, done=lambda: None)
            handle = self.people.handle if topic == "users" else self.intakes[topic].handle
            await handle(batch)
            self.read[topic, partition] += len(records)
        return len(records)

    def checkpoint(self, committed: bool = True, kept: Callable[[bytes], bool] = lambda _: True) -> None:
        """Store rows and commit; a crash in between leaves the offsets, or some rows, as they were."""
        for partition, rows in enumerate(self._rows):
            rows.take()
            while records := rows.encoded(100):
                self.stored[partition].update({key: raw for key, raw in records if raw is not None and kept(key)})
            rows.saved()
        if committed:
            self.committed = self.read.copy()

    def crash(self) -> None:
        """Lose what is not stored, and read again from what is committed."""
        self.read = self.committed.copy()
        self.start()

    def finish(self) -> None:
        """Deliver until nothing is left."""
        topics = ("users", "events", "_events")
        for _ in range(50):
            if not sum(self.deliver(topic, partition) for topic in topics for partition in range(N)):
                return
        raise AssertionError("records go round for ever")

    def user(self, name: str) -> UserState:
        """A user's row; no other partition has one."""
        key, right = user_key(name.encode()), partition_of(name.encode(), N)
        assert all(self._rows[other].get(key) is None for other in range(N) if other != right)
        return self._rows[right].get(key) or UserState()

    def item_counts(self) -> dict[int, int]:
        """Uses per item, as their owner counts them."""
        rows: dict[int, ItemState] = defaultdict(ItemState)
        for partition in range(N):
            for record in self.logs["_pairs", partition]:
                batch = msgspec.msgpack.decode(record.value or b"", type=PairBatch)
                apply_deltas(batch, rows.__getitem__, rank_weights(Decay(), 15), Decay(), owner=partition, owners=N)
        return {item: row.count for item, row in rows.items() if row.count}


USERS = ("anon", "signed", "other")
steps = st.one_of(
    st.tuples(st.just("event"), st.sampled_from(USERS), st.integers(0, 30), st.integers(0, N)),
    st.tuples(st.just("alias")),
    st.tuples(st.just("deliver"), st.sampled_from(("events", "_events", "users")), st.integers(0, N - 1), st.integers(1, 3)),
    st.tuples(st.just("checkpoint"), st.booleans(), st.integers(0, 3)),
    st.tuples(st.just("crash")),
)


@settings(max_examples=300, deadline=None)
@given(st.lists(steps, min_size=5, max_size=60))
def test_each_event_counts_once(story: list[Any]) -> None:
    """Whatever crashes, comes again, stands on a wrong partition or belongs to an alias: each event counts once, for user and item."""
    world = World()
    sent: dict[str, set[int]] = defaultdict(set)
    for what, *arguments in story:
        if what == "event":
            user, n, partition = arguments
            n = 100 * USERS.index(user) + n  # an event id is one user's
            sent[user].add(n)
            world.event(user, n, None if partition == N else partition)
        elif what == "alias":
            world.put("users", "anon", {"user_id": "anon", "alias_of": "signed"})
        elif what == "deliver":
            world.deliver(*arguments)
        elif what == "checkpoint":
            committed, odd = arguments
            world.checkpoint(committed and not odd, lambda key, odd=odd: not odd or hash64(key.decode("latin-1")) % 4 >= odd)  # type: ignore[misc]
        else:
            world.crash()
    world.finish()
    if ("alias",) in story:
        sent["signed"] |= sent.pop("anon", set())
    expected = {user: sorted(sent[user]) for user in USERS}
    assert {user: world.user(user).events for user in USERS} == {user: len(all_) for user, all_ in expected.items()}
    histories = {user: [(one.item_id, one.time) for one in world.user(user).history] for user in USERS}
    assert histories == {user: [(f"i{n % 7}", START + 1000 * n) for n in all_] for user, all_ in expected.items()}
    if not {("alias",), ("crash",)} <= set(story):  # then an item may count what went both ways twice: known, and bounded by a checkpoint
        assert world.item_counts() == Counter(item_key(f"i{n % 7}") for all_ in expected.values() for n in all_)
    assert not world.dead


def test_what_an_alias_brings_along() -> None:
    """A low rating stays one, an event before 1973 keeps its time, and a repeat of the alias changes nothing."""
    world = World()
    world.event("anon", 1, type="rating", value=1.0)
    world.event("anon", 2, timestamp="1970-06-01T00:00:00Z")
    world.event("anon", 3, type="dislike")
    world.finish()
    for _ in range(2):
        world.put("users", "anon", {"user_id": "anon", "alias_of": "signed"})
    world.finish()
    assert [(one.item_id, one.weight > 0) for one in world.user("signed").history] == [("i2", True), ("i1", False), ("i3", False)]
    assert world.user("signed").history[0].time == 13_046_400_000
    assert world.user("anon").history == []
    assert world.forgotten == ["home:anon"]


def test_many_aliases() -> None:
    """Each anonymous id that a user had brings one position or two; their number is bounded."""
    world = World()
    for n in range(3 * MOST_ALIAS_LOGS):
        world.event(f"anon{n}", n)
        world.put("users", f"anon{n}", {"user_id": f"anon{n}", "alias_of": "signed"})
    world.finish()
    for n in range(3 * MOST_ALIAS_LOGS):
        world.event(f"anon{n}", 1_000 + n)
    world.finish()
    assert world.user("signed").events == 6 * MOST_ALIAS_LOGS
    assert len(world.user("signed").applied) <= MOST_ALIAS_LOGS + 2 * N


def test_no_list_for_an_erased_user_when_records_come_again() -> None:
    """Events from before an erasure, delivered once more after it, lead to no list; the erasure follows the alias and ends."""
    world = World()
    world.event("signed", 1)
    world.put("users", "anon", {"user_id": "anon", "alias_of": "signed"})
    world.put("users", "signed", {"user_id": "signed", "alias_of": "anon"})
    world.finish()
    world.put("users", "anon", {"user_id": "anon", "erase": True, "timestamp": START + 10**6})
    world.finish()
    world.checkpoint(committed=False)
    world.crash()
    world.wanted.clear()
    world.finish()
    assert world.user("signed").events == 0
    assert [job for job in world.wanted if job.trigger.kind == "event"] == []
    assert {"home:anon", "home:signed"} <= set(world.forgotten)


def test_surfaces_are_bounded() -> None:
    """Of ever new surface names only so many get lists; what was noted is known after a restart."""
    world = World()
    for n in range(surfaces.MOST + 10):
        world.event("u", n, surface=f"s{n}")
    world.finish()
    extra = {name for job in world.wanted for name in job.surfaces} - {"home"}
    assert len(extra) == surfaces.MOST
    world.checkpoint()
    world.crash()
    rows = world.rows(partition_of(b"u", N))
    assert set(surfaces.noted(rows)) == extra
    assert INTERNAL + surfaces.ROW in world.stored[rows.partition]


def test_examples_are_weighted_by_type_and_value() -> None:
    """Rule: an example counts as the objective says; there is none of a type, or a value, that counts nothing; by default all are alike."""
    story: list[dict[str, Any]] = [
        {"type": "click"},
        {"type": "cart"},
        {"type": "purchase", "value": 50.0},
        {"type": "purchase", "value": -3.0},
        {"type": "purchase"},
    ]
    for objective, expected in (
        (None, [1.0, 1.0, 1.0, 1.0, 1.0]),
        (Objective({"purchase": 2.0, "click": 0.0}, {"purchase": 20.0}), [1.0, 5.0, 2.0]),
    ):
        world = World(objective=objective, chosen=lambda *_: True)
        world.event("u", 90, type="click")  # before it nothing is known of the user
        for n, fields in enumerate(story):
            world.event("u", n, item_id=f"new{n}", **fields)
        world.finish()
        assert [lesson.weight for lesson in world.lessons] == expected
        assert world.user("u").events == len(story) + 1, "the user's row has them all"


def test_pairs_go_out_once_the_examples_of_their_events_are_made() -> None:
    """An example that knew its own event would teach what no list can know: what comes of an event waits for it, but for a checkpoint."""
    world = World(hold_s=0.001)

    def counted() -> int:
        return sum(len(world.logs["_pairs", partition]) for partition in range(N))

    async def story() -> None:
        intake, partition = world.intakes["events"], partition_of(b"other", N)
        task = asyncio.create_task(intake.run())
        for n in range(2):
            world.event("other", n)
            await world.handed("events", partition)
        await asyncio.sleep(0.02)
        assert (len(world.lessons), counted()) == (1, 0), "the first event has none"
        world.event("other", 2)
        await world.handed("events", partition)  # while a flush waits: its turn is the next
        world.taught_now.set()
        await asyncio.sleep(0.02)
        known = counted()
        assert known
        world.taught_now.clear()
        world.event("other", 3)
        await world.handed("events", partition)
        await asyncio.sleep(0.02)
        assert counted() == known
        intake.flush()  # what a checkpoint does: rows that know an event are never kept without what comes of it
        assert counted() > known
        world.taught_now.set()
        await asyncio.sleep(0.02)
        task.cancel()

    asyncio.run(story())
    assert world.item_counts() == {item_key(f"i{n}"): 1 for n in range(4)}
