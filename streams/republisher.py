"""Finds standing lists that hold what may not be listed any more, or that were made when little was known, and has them made again.

What stands in each list is noted beside its user's row (`engine.listed`). The notes of the partitions that this worker owns are gone
through page by page, at low priority, when

* a record has taken an item out: a tombstone, an entry (unavailable, or with fields that a rule is about), a `block` or `filter` rule;
* such a rule starts;
* a partition has come to this worker: whatever was taken out while nobody looked, or while a worker died half way, is found then.

A list is judged by what its items are now, not by which record came: so nothing has to be remembered over a crash, and a list that was
made again already is left as it is. Times: a change is looked for every `LOOK_S`, but lists are gone through every `REST_S` at most; a
million of them take 2 s of work, a tenth of the time at first, and half of it once a change is `HURRY_S` old. They are made again while
nobody else waits for one (`ListMaker`), with `valid_until` as it was. Lists whose time is over are forgotten on the way.

Lists of a young installation: one is made again when what is known, counted in uses of items, has grown by `GROWTH` since, `renew_per_s` of
them at most, and only while no event waits for its list and the making of lists takes less than `IDLE` of the time.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from time import monotonic, perf_counter, time
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from engine.listed import PREFIX, SOME, Page, Verdicts, by_surface, read_name, read_page, readable
from engine.lists import Trigger
from engine.model import Model
from engine.partition import hash64
from engine.records import Item, Rule
from engine.rules import RuleSet
from engine.user import Position, UserState, user_key
from streams.jobs import RENEWAL, Again
from streams.listmaker import ListMaker
from streams.metrics import Metrics
from streams.origins import through
from streams.table import CheckpointTable, NotOwnedError, Rows
from streams.withdrawals import Withdrawals

LOOK_S = 0.5
REST_S = 5.0
"""Between two goes through one partition's lists: what is taken out meanwhile is found in one."""
PAGE = 256
"""Notes read and looked up at once: at 2 µs each half a millisecond, the longest that a live list waits for it."""
JUDGED = 64
"""Items judged at once by all rules: at 1 µs a rule some 0.1 to 1 ms."""
ASKED = 32
"""Lists asked for at once: at 20 µs each."""
SHARE, HURRY_SHARE = 0.1, 0.5
HURRY_S = 15.0
LONGEST_PAUSE_S = 0.02
MOST_WAITING = 1_000
"""Lists waiting to be made again from which on no further page is read."""
GROWTH, LEAST = 0.1, 100
"""By how much, as a share and in uses of items, what is known must have grown before lists are made again for it."""
BUSY_S = 0.05
IDLE = 0.3
"""Share of the time that lists for events may take while others are renewed: beyond it these would make events wait."""

Found = Sequence[tuple[bytes, bytes]]


class _Seen(NamedTuple):
    """Of a partition: the rows object that was gone through, what was known of changes when that began, and when (s, monotonic)."""

    rows: Rows[UserState]
    version: int
    now_ms: int
    at: float


class Republisher:
    """The lists of the partitions of one worker. `known`: uses of items that lists are made from now; `rules`: all rules."""

    def __init__(
        self,
        users: CheckpointTable[UserState],
        maker: ListMaker,
        model: Model,
        withdrawals: Withdrawals,
        metrics: Metrics,
        *,
        rules: Callable[[], RuleSet],
        known: Callable[[], int],
        renew_per_s: float,
        clock: Callable[[], float] = time,
    ) -> None:
        self._users, self._maker, self._model, self._withdrawals, self._metrics = users, maker, model, withdrawals, metrics
        self._rules, self._known, self._renew_per_s, self._clock = rules, known, renew_per_s, clock
        self._seen: dict[int, _Seen] = {}
        self._renewed: dict[int, tuple[Rows[UserState], int]] = {}  # partition -> rows gone through, what was known then
        self._counts: dict[int, int] = {}  # partition -> its lists
        self._noticed = 0.0  # monotonic: when what is being looked for was noticed

    async def run(self) -> None:
        """Look until cancelled."""
        while True:
            await asyncio.sleep(LOOK_S)
            await self.look()

    async def look(self) -> None:
        """Go through the lists that may hold what was taken out, then through those that may be renewed."""
        self._maker.keep_time(self._rules())
        owned = self._users.owned
        self._noticed = monotonic()
        due = [rows for rows in owned if self._due(rows)]
        for rows in due:
            try:
                await self._take_out(rows)
            except NotOwnedError:  # whoever owns it now goes through all of it
                continue
        if due:
            self._counts = {rows.partition: self._counts.get(rows.partition, 0) for rows in owned}
            self._metrics.standing.set(sum(self._counts.values()))
            self._metrics.standing_scan.set(monotonic() - self._noticed)
        for rows in owned if self._renew_per_s else ():
            try:
                if self._may_renew(rows) and not await self._renew(rows):
                    return
            except NotOwnedError:
                continue

    def _due(self, rows: Rows[UserState]) -> bool:
        seen = self._seen.get(rows.partition)
        if seen is None or seen.rows is not rows:
            return True
        now, starts = self._maker.stream_time(), self._rules().next_exclusion_ms(seen.now_ms)
        changed = seen.version != self._withdrawals.version or (starts is not None and starts <= now)
        changed = changed or now < seen.now_ms  # the first event is old, and with it is now: rules that held a moment ago may yet begin
        return changed and monotonic() - seen.at > REST_S

    # -- what was taken out

    async def _take_out(self, rows: Rows[UserState]) -> None:
        seen = _Seen(rows, self._withdrawals.version, self._maker.stream_time(), monotonic())
        verdicts: dict[str, Verdicts] = {}
        count = 0
        async with aclosing(self._pages(rows)) as pages:
            async for found in pages:
                count += len(found)
                await self._judge(rows, found, verdicts, seen.now_ms)
                while self._maker.waiting_again >= MOST_WAITING:  # noqa: ASYNC110 - the maker does not tell
                    await asyncio.sleep(BUSY_S)
        self._seen[rows.partition] = seen
        self._counts[rows.partition] = count

    async def _judge(self, rows: Rows[UserState], found: Found, verdicts: dict[str, Verdicts], now_ms: int) -> None:
        """Judge a page of lists by the verdicts of each surface, and have those made again that hold what may not be listed."""
        names, values = zip(*found, strict=True)
        page, clock_ms = read_page(values), round(self._clock() * 1000)
        for n in np.flatnonzero(page.valid_until <= clock_ms).tolist():
            rows.set_note(names[n], None)
        for surface, start, end in by_surface(names):
            if surface not in verdicts:
                rules = self._rules().excluding(surface, now_ms)
                verdicts[surface] = Verdicts(self._model.catalogue.items, self._model.open_to(now_ms), rules)
            worst = await self._worst(verdicts[surface], page)
            doubtful = (worst[start:end] >= SOME) & (page.valid_until[start:end] > clock_ms)
            for count, n in enumerate((start + np.flatnonzero(doubtful)).tolist()):
                if count % ASKED == ASKED - 1:
                    await asyncio.sleep(0)
                user_id = read_name(names[n])[1]
                why = self._why(rows, surface, user_id, page.of(n), verdicts[surface], now_ms)
                if why is not None:
                    self._again(rows, surface, user_id, values[n], why, why.kind, int(page.valid_until[n]))

    async def _worst(self, judged: Verdicts, page: Page) -> NDArray[np.int8]:
        """(L,) the worst verdict on an item of each list of a page; items that were not met before are judged first."""
        found = self._model.catalogue.places.of(page.items)
        unjudged = judged.unjudged(found)
        for start in range(0, len(unjudged), JUDGED):
            if start:
                await asyncio.sleep(0)
            judged.judge(unjudged[start : start + JUDGED].tolist())
        return judged.worst(found, page.starts)

    def _why(self, rows: Rows[UserState], surface: str, user_id: str, items: list[int], judged: Verdicts, now_ms: int) -> Trigger | None:
        """What a list is to be made again for; None where its user may have it after all."""
        all_rules = self._rules()

        def rules(item: Item) -> Sequence[Rule]:
            row = rows.get(user_key(user_id.encode())) if judged.rules else None
            return () if row is None else all_rules.keeping_out(item, surface, row.attributes, max(now_ms, row.last_time))

        return self._withdrawals.why(items, round(self._clock() * 1000), open_=judged.open_at, rules=rules)

    def _again(self, rows: Rows[UserState], surface: str, user_id: str, note: bytes, why: Trigger, reason: str, valid_until: int) -> None:
        trigger = Trigger(why.kind, why.id, why.timestamp, through(why.position, hash64(user_id)))  # one record, lists of many users
        self._maker.again(Again(rows.partition, user_id, surface, trigger, reason, why.timestamp / 1000.0, valid_until, note))

    # -- what was learned since

    def _may_renew(self, rows: Rows[UserState]) -> bool:
        seen = self._renewed.get(rows.partition)
        return seen is None or seen[0] is not rows or grown(seen[1], self._known())

    def _busy(self, backlog: int) -> bool:
        return self._maker.waiting > 0 or self._maker.waiting_again >= backlog or self._maker.load() > IDLE

    async def _renew(self, rows: Rows[UserState]) -> bool:
        """Have a partition's lists made again that were made when less was known; False where something was taken out meanwhile."""
        began, known, asked = monotonic(), self._known(), 0
        backlog = 1 + int(self._renew_per_s * BUSY_S)
        async with aclosing(self._pages(rows)) as pages:
            async for found in pages:
                names, values = zip(*found, strict=True)
                page, clock_ms = read_page(values), round(self._clock() * 1000)
                worth = (known - page.known >= LEAST) & (known >= (1 + GROWTH) * page.known) & (page.valid_until > clock_ms)
                for n in np.flatnonzero(worth).tolist():
                    while self._busy(backlog) or asked > (monotonic() - began) * self._renew_per_s:
                        await asyncio.sleep(BUSY_S)
                        if any(self._due(other) for other in self._users.owned):
                            return False  # that comes first; lists renewed by now will not be asked for again
                    surface, user_id = read_name(names[n])
                    why = Trigger(RENEWAL, "", clock_ms, Position("known", 0, rows.partition, level(known)))
                    self._again(rows, surface, user_id, values[n], why, RENEWAL, int(page.valid_until[n]))
                    asked += 1
        self._renewed[rows.partition] = (rows, known)
        return True

    # -- pages

    async def _pages(self, rows: Rows[UserState]) -> AsyncGenerator[Found, None]:
        """The notes of all lists, those first that no checkpoint has stored yet; between two pages others have their turn."""
        unsaved = rows.unsaved_notes(PREFIX)
        for start in range(0, len(unsaved), PAGE):
            began = perf_counter()
            yield sorted(unsaved[start : start + PAGE])
            await self._pause(began)
        after: bytes | None = None
        while True:
            began = perf_counter()
            stored, after = rows.notes(PREFIX, after, PAGE)
            if found := [(name, value) for name, value in stored if readable(value)]:
                yield found
            if after is None:
                return
            await self._pause(began)

    async def _pause(self, began: float) -> None:
        share = HURRY_SHARE if monotonic() - self._noticed > HURRY_S else SHARE
        await asyncio.sleep(min(LONGEST_PAUSE_S, (perf_counter() - began) * (1.0 / share - 1.0)))


def grown(before: int, now: int) -> bool:
    """Whether so much more is known now that lists made before are worth making again.

    >>> grown(0, 99), grown(0, 100), grown(2_000, 2_199), grown(2_000, 2_200)
    (False, True, False, True)
    """
    return now - before >= LEAST and now >= (1 + GROWTH) * before


def level(known: int) -> int:
    """A number for how much is known, one more with each growth by `GROWTH`: a list made again at the same level has the same id.

    >>> level(0), level(100), level(110), level(1_000_000)
    (0, 48, 49, 144)
    """
    return math.floor(math.log1p(known) / math.log1p(GROWTH))
