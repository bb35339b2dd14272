"""Going through standing lists: which are made again, for which record, and which are left alone. Without a broker."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rocksdict
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.listed import FINE, OUT, SOME, Listed, Verdicts, encode_listed, name_of, read_page
from engine.partition import hash64, item_key
from engine.records import Item, Rule
from engine.rules import Match, compile_rules
from engine.user import Position, UserState, decode_user, encode_user, user_key
from streams import republisher
from streams.jobs import Again
from streams.metrics import Metrics
from streams.republisher import MOST_WAITING, Republisher
from streams.table import NotOwnedError, Rows
from streams.withdrawals import ITEMS, RULES, Place, Withdrawals
from tests.little_shop import DAY, START, Shop

FAR = START + 1000 * DAY


class World:
    """One partition's rows on a real RocksDB, a little shop's catalogue, and a maker that only writes down what it is asked for."""

    def __init__(self, folder: Path, known: int = 0, renew_per_s: float = 0.0) -> None:
        options = rocksdict.Options(raw_mode=True)
        options.create_if_missing(True)
        self.db = rocksdict.Rdict(str(folder / "db"), options=options)
        self.rows = self.opened()
        self.model = Shop().model
        self.catalogue = self.model.catalogue
        self.withdrawals = Withdrawals(self.catalogue, {ITEMS: 1, RULES: 2})
        self.rules: dict[str, Rule] = {}
        self.asked: list[Again] = []
        self.now = START + DAY
        self.known, self.waiting, self.waiting_again, self.offset = known, 0, 0, 0
        self.share = 0.0
        anything: Any = self
        self.republisher = Republisher(
            anything,
            anything,
            self.model,
            self.withdrawals,
            Metrics(),
            rules=self.all_rules,
            known=lambda: self.known,
            renew_per_s=renew_per_s,
            clock=lambda: self.now / 1000,
        )

    def opened(self) -> Rows[UserState]:
        """The rows, as after a rebalance."""
        return Rows("users", 3, self.db, new=UserState, encode=encode_user, decode=decode_user, limit=lambda: 100)

    # what the republisher asks of table and maker

    @property
    def owned(self) -> list[Rows[UserState]]:
        return [self.rows]

    def all_rules(self) -> Any:
        return compile_rules(self.rules.values())

    def keep_time(self, rules: Any) -> None:
        pass

    def stream_time(self) -> int:
        return self.now

    def load(self) -> float:
        return self.share

    def again(self, job: Again) -> None:
        self.asked.append(job)

    # what happens

    def listed(self, user: str, *items: str, surface: str = "home", until: int = FAR, known: int = 0, **row: Any) -> None:
        """A user's list."""
        self.rows.put(user_key(user.encode()), UserState(events=1, **row))
        self.rows.set_note(name_of(surface, user), encode_listed(Listed(until, known, tuple(map(item_key, items)))))

    def place(self) -> Place:
        self.offset += 1
        return Place(0, self.offset, self.now + self.offset)

    def put(self, item: Item) -> None:
        """An entry comes."""
        key = item_key(item.item_id)
        at = self.catalogue.index.get(key)
        before = None if at is None else self.catalogue.items[at]
        self.withdrawals.put(key, before, self.catalogue.put(item), item, self.place(), self.all_rules())

    def remove(self, name: str) -> None:
        """A tombstone comes."""
        self.withdrawals.removed(item_key(name), name, self.place())
        self.catalogue.remove(name)

    def rule(self, rule_id: str, action: Any, match: Any, **fields: Any) -> None:
        """A rule comes."""
        self.rules[rule_id] = Rule(rule_id, action, match, **fields)
        self.withdrawals.ruled(rule_id, self.rules[rule_id], self.place())

    def save(self) -> None:
        """A checkpoint."""
        self.rows.take()
        while records := self.rows.encoded(100):
            self.rows.store(records, None)
        self.rows.saved()

    def look(self) -> list[Again]:
        """What is asked for in one look, rests left out."""
        self.asked = []
        asyncio.run(self.republisher.look())
        return self.asked

    def found(self) -> list[tuple[str, str, str, str]]:
        """The same: user, surface, kind of trigger, its id."""
        return sorted((job.user_id, job.surface, job.trigger.kind, job.trigger.id) for job in self.look())


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    """A world in which nothing rests, with five lists that were looked at once."""
    monkeypatch.setattr(republisher, "REST_S", -1.0)
    world = World(tmp_path)
    world.listed("ann", "i1", "i2")
    world.listed("ann", "i8", surface="cart")
    world.listed("bob/x", "i2", "i4", attributes={"country": "no"})
    world.listed("cat")
    world.listed("dan", "i5", until=world.now - 1)
    assert world.look() == []
    return world


@pytest.mark.parametrize("stored", [False, True])
def test_a_removed_item(world: World, stored: bool) -> None:
    """The lists that hold it, whether a checkpoint has stored them or not, are asked for once, with the tombstone's place and their end."""
    if stored:
        world.save()
    world.remove("i2")
    found = world.look()
    assert [(job.user_id, job.surface, job.reason) for job in found] == [("ann", "home", "item_removed"), ("bob/x", "home", "item_removed")]
    for job in found:
        assert (job.trigger.kind, job.trigger.id, job.trigger.timestamp) == ("item_removed", "i2", world.now + 1)
        assert job.trigger.position == Position(f"items@{hash64(job.user_id):x}", 1, 0, 1)
        assert (job.partition, job.valid_until, job.since) == (3, FAR, (world.now + 1) / 1000)
        assert job.note == world.rows.note(name_of(job.surface, job.user_id))
    assert world.look() == [], "nothing was taken out since"


def test_lists_whose_time_is_over_are_forgotten(world: World) -> None:
    """They are not made again, and their notes go."""
    world.remove("i5")
    assert world.look() == []
    assert world.rows.note(name_of("home", "dan")) is None


@pytest.mark.parametrize(
    "change",
    [
        {"available": False},
        {"available_from": START + 400 * DAY},
    ],
)
def test_an_unavailable_item(world: World, change: dict[str, Any]) -> None:
    """One that is not available, or not yet, is taken out; other changes of an entry make nobody look."""
    world.put(Item("i1", "Another title", price=3.0))
    assert world.look() == []
    world.put(Item("i1", "Another title", **change))
    assert world.found() == [("ann", "home", "item_unavailable", "i1")]
    world.put(Item("i1", "Another title"))
    assert world.found() == []


def test_rules(world: World) -> None:
    """A block and a filter take out what they keep out, on their surfaces and from their users; others do not; an end does nothing."""
    world.rule("b", "block", {"item_ids": ("i2", "i8")}, surfaces=("cart",))
    assert world.found() == [("ann", "cart", "rule", "b")]
    world.rule("n", "block", {"item_ids": ("i2",)}, users={"country": "no"})
    assert world.found() == [("ann", "cart", "rule", "b"), ("bob/x", "home", "rule", "n")]
    world.rule("p", "pin", {"item_ids": ("i2",)}, rank=0)
    assert world.found() == [], "nothing was taken out"
    world.rule("f", "filter", {"item_ids": ("i1", "i2", "i4")})
    assert ("ann", "cart", "rule", "f") in world.found(), "the newest record counts"
    del world.rules["f"]
    world.withdrawals.ruled("f", None, world.place())
    assert world.found() == []


def test_a_rule_that_starts(world: World) -> None:
    """It takes nothing out before its time; then what it matches, and once."""
    world.rule("later", "block", {"item_ids": ("i4",)}, starts_at=world.now + 500)
    assert world.found() == []
    world.now += 499
    assert world.found() == []
    world.now += 1
    (job,) = world.look()
    assert (job.trigger.id, job.trigger.timestamp) == ("later", world.now)
    assert world.look() == []


def test_time_that_goes_back(world: World) -> None:
    """The first event makes it an old time now: a rule of that time that starts afterwards is not missed."""
    world.rule("old", "block", {"item_ids": ("i4",)}, starts_at=START - 5 * DAY, ends_at=START - DAY)
    world.now = START + DAY
    assert world.found() == []
    world.now = START - 10 * DAY
    world.look()
    world.now = START - 4 * DAY
    assert world.found() == [("bob/x", "home", "rule", "old")]


def test_an_entry_that_a_rule_is_about(world: World) -> None:
    """An entry that comes to match a rule is taken out, for that entry's record; the same record never stands for two such changes."""
    world.rule("gore", "block", {"tags": "gore"})
    world.look()
    world.put(Item("i4", "Item 4", tags=("gore",)))
    (job,) = world.look()
    assert (job.trigger.kind, job.trigger.id, job.trigger.position.source.partition("@")[0]) == ("rule", "gore", "items")


def test_what_nobody_saw(world: World) -> None:
    """After a rebalance or a restart all lists are looked at; a tombstone that was compacted away is told by the item's hash."""
    world.catalogue.remove("i4")
    assert world.look() == []
    world.save()
    world.rows.close()
    world.rows = world.opened()
    (job,) = world.look()
    assert (job.user_id, job.trigger.kind, job.trigger.id) == ("bob/x", "item_removed", "")
    assert job.trigger.position[1:] == (1, -1, item_key("i4"))


def test_an_item_that_the_catalogue_never_had(world: World) -> None:
    """It counts as removed."""
    world.listed("eve", "never")
    world.remove("i9")
    assert ("eve", "home", "item_removed", "") in world.found()


def test_a_partition_that_goes_away(world: World) -> None:
    """It is left to its next owner, and nobody fails."""
    world.remove("i2")
    world.rows.close()
    assert world.look() == []
    with pytest.raises(NotOwnedError):
        world.rows.notes(b"list/", None, 1)


def test_the_queue_is_bounded(world: World) -> None:
    """While many lists wait to be made again, no more are looked for."""
    world.waiting_again = MOST_WAITING
    world.remove("i2")

    async def story() -> None:
        looking = asyncio.create_task(world.republisher.look())
        for _ in range(5):
            await asyncio.sleep(0.01)
        assert not looking.done()
        world.waiting_again = 0
        await asyncio.wait_for(looking, 5)

    asyncio.run(story())
    assert len(world.asked) == 2


def test_renewal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A list made when a tenth less was known is made again, not faster than it may, at the same level under the same place."""
    monkeypatch.setattr(republisher, "REST_S", -1.0)
    world = World(tmp_path, known=1_000, renew_per_s=1_000.0)
    world.listed("old", "i1", known=900)
    world.listed("new", "i1", known=1_000)
    world.listed("over", "i1", known=0, until=world.now)
    (job,) = world.look()
    assert (job.user_id, job.reason, job.trigger.kind, job.trigger.id, job.valid_until) == ("old", "renewal", "renewal", "", FAR)
    assert job.trigger.position == Position(f"known@{hash64('old'):x}", 0, 3, republisher.level(1_000))
    assert world.look() == [], "nothing was learned since"
    world.known = 1_099
    assert world.look() == []
    world.known = 1_100
    assert sorted(job.user_id for job in world.look()) == ["new", "old"]


@pytest.mark.parametrize("waiting, share", [(1, 0.0), (0, 0.5)])
def test_a_renewal_gives_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, waiting: int, share: float) -> None:
    """While others wait for lists, or lists are made most of the time, nothing is renewed; what was taken out goes first."""
    monkeypatch.setattr(republisher, "REST_S", -1.0)
    world = World(tmp_path, renew_per_s=1_000.0)
    world.listed("ann", "i1")
    world.look()
    world.known, world.waiting, world.share = 1_000, waiting, share

    async def story(then: Callable[[], None]) -> list[str]:
        world.asked = []
        looking = asyncio.create_task(world.republisher.look())
        await asyncio.sleep(0.02)
        assert world.asked == []
        then()
        await asyncio.wait_for(looking, 5)
        return [job.reason for job in world.asked]

    assert asyncio.run(story(lambda: world.remove("i1"))) == [], "the look ends, so that the next one finds it"
    world.waiting, world.share = 0, 0.0
    assert [job.reason for job in world.look()] == ["item_removed", "renewal"]


NAMES = [f"i{n}" for n in range(8)]
CATALOGUE = [Item(name, "any", tags=(f"t{n % 3}",)) if n != 5 else None for n, name in enumerate(NAMES)]
RULES_DRAWN = st.lists(
    st.builds(
        Rule,
        rule_id=st.integers(0, 5).map(lambda n: f"r{n}"),
        action=st.sampled_from(["block", "filter"]),
        match=st.sampled_from([{"tags": "t0"}, {"tags": ("t1", "t2")}, {"item_ids": ("i1", "i2")}]),
        users=st.sampled_from([{}, {"plan": "free"}]),
    ),
    max_size=3,
    unique_by=lambda rule: rule.rule_id,
)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.lists(st.integers(-1, 9), max_size=5), max_size=6), RULES_DRAWN, st.lists(st.booleans(), min_size=8, max_size=8))
def test_verdicts(lists: list[list[int]], rules: list[Rule], open_: list[bool]) -> None:
    """The worst verdict on each list of a page is what judging its items one by one gives, in whatever pages they come."""
    matched = [(rule, Match.of(rule.match)) for rule in rules]
    compiled = compile_rules(rules)
    open_[5] = False  # removed
    verdicts = Verdicts(CATALOGUE, np.array(open_), matched)

    def judged(at: int) -> int:
        if at < 0:
            return OUT
        if at >= len(open_):
            return FINE  # it came since
        item = CATALOGUE[at]
        if item is None or not open_[at] or compiled.blocked(item, "home", {}, 0):
            return OUT
        return SOME if compiled.blocked(item, "home", {"plan": "free"}, 0) else FINE

    page = read_page([encode_listed(Listed(1, 2, tuple(at + 1 for at in places))) for places in lists])
    found = np.array([at for places in lists for at in places], np.int64)
    verdicts.judge(verdicts.unjudged(found).tolist())
    assert not len(verdicts.unjudged(found))
    assert verdicts.worst(found, page.starts).tolist() == [max(map(judged, places), default=FINE) for places in lists]
    assert [page.of(n) for n in range(len(lists))] == [[at + 1 for at in places] for places in lists]
