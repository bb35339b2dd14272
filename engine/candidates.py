"""Which items a list in a large catalogue is made from: what `engine.retrieval` finds for the user, and what a search, a filter, or the
length of the list asks for beside. Not how they are ordered.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from engine.catalogue import Catalogue
from engine.leaders import Places, distinct, largest
from engine.lexical import Fit
from engine.partition import item_key
from engine.retrieval import Retrieval
from engine.rules import Match
from engine.space import Floats
from engine.stats import ItemStats
from engine.textindex import TextIndex

Bools = NDArray[np.bool_]
WORDED, MEANT = 500, 300
"""Items that fit a search best by words, and nearest to its vector, that are candidates."""
FILTERED, LOOKED_AT = 1_000, 5_000
"""Items that a filter leaves that are candidates, the most popular, and how many of those in question it is asked about at most."""
FETCHED = 100
"""Items that a pin or a boost matches that are candidates, the most popular."""
POPULAR = 1_000
"""Popular items that are candidates where too few others may be listed."""


class Query(NamedTuple):
    """A search: how well items fit by words, and its vector (D,) where there is one."""

    fit: Fit
    vector: Floats | None


class Candidates:
    """Of one catalogue. What it follows of it is made when a list is first asked for: a small catalogue pays nothing."""

    def __init__(self, catalogue: Catalogue, stats: ItemStats) -> None:
        self._catalogue, self._stats = catalogue, stats
        self._retrieval: Retrieval | None = None
        self._text: TextIndex | None = None

    def use(self, text: TextIndex | None) -> None:
        """Switch to the catalogue's space of now; `text`: its index, None to begin one."""
        self._text = text
        if self._retrieval is not None:
            self._retrieval.use(self._index())

    @property
    def retrieval(self) -> Retrieval:
        """The channels."""
        if self._retrieval is None:
            self._retrieval = Retrieval(self._catalogue, self._stats, self._index())
        return self._retrieval

    def open_at(self, items: Places, now: int) -> Bools:
        """(n,) which of some items may be listed at `now`, as `Model.open_to` says of all."""
        since, first = self._catalogue.since[items], self._stats.first_time[items]
        open_: Bools = self._catalogue.listable[items] & ((since <= now) | (first > 0))
        return open_

    def of(
        self,
        recent: Places,
        now: int,
        k: int,
        hidden: Places,
        allowed: Callable[[Places | None], Bools | None],
        filters: Sequence[Match] = (),
        query: Query | None = None,
        fetched: Sequence[Match] = (),
    ) -> tuple[Places, Bools]:
        """The candidates (M,), ascending, and which of them may be listed.

        Args:
            recent: the user's recent items (R,), newest first; they are among the candidates.
            now: ms.
            k: wanted: where fewer of the candidates may be listed, more are looked for.
            hidden: what may not be listed for this user, (H,).
            allowed: what rules and filters leave of some items, or of all, None where there are none.
            filters: what items must all match.
            query: what is searched for.
            fetched: what rules pin or boost: the most popular of what each matches are candidates, as far as a field is indexed.
        """
        found = [self.retrieval.pool(recent, now)]
        if query is not None:
            found += self._searched(query)

        def may(items: Places) -> Bools:
            open_, left = self.open_at(items, now) & ~self._among(items, hidden), allowed(items)
            return open_ if left is None else open_ & left

        fields = min((one for match in filters if (one := self._matching(match)) is not None), key=len, default=None)
        hashes = self._catalogue.hashes
        if fields is not None:
            found.append(self._most_popular(fields, may, FILTERED))
            if query is not None:
                fitting = fields[query.fit.scores[fields] > 0]
                found.append(largest(fitting, query.fit.scores[fitting], hashes, WORDED))
        wanted = [those for match in fetched if (those := self._matching(match)) is not None]
        found += [self._most_popular(those, may, FETCHED) for those in wanted]
        items = distinct(found)
        usable = may(items)
        if fields is None and usable.sum() < k:
            items = distinct([items, self.retrieval.popular(POPULAR)])
            usable = may(items)
        if fields is None and usable.sum() < k:
            items = distinct([items, self._whole(now, k, hidden, allowed)])
            usable = may(items)
        return items, usable

    def _most_popular(self, items: Places, may: Callable[[Places], Bools], most: int) -> Places:
        """Of some items that may be listed the most popular; the LOOKED_AT most popular are asked."""
        asked = largest(items, self._popularity(items), self._catalogue.hashes, LOOKED_AT)
        asked = asked[may(asked)]
        return largest(asked, self._popularity(asked), self._catalogue.hashes, most)

    def _among(self, items: Places, others: Places) -> Bools:
        """(n,) which of some items are among others."""
        place = self.retrieval.scratch.items
        place[others] = 0
        found: Bools = place[items] >= 0
        place[others] = -1
        return found

    def _searched(self, query: Query) -> Iterable[Places]:
        fitting = np.flatnonzero(query.fit.scores)
        yield largest(fitting, query.fit.scores[fitting], self._catalogue.hashes, WORDED)
        if query.vector is not None:
            yield self.retrieval.near(query.vector, MEANT)

    def _matching(self, match: Match) -> Places | None:
        """Items among which are all that match; None where no condition is on a field that is indexed."""
        sets = []
        if match.item_ids is not None:
            sets.append(self._catalogue.known([item_key(name) for name in match.item_ids]))
        for field, wanted in match.fields:
            members = [self.retrieval.members(field, value) for _, value in wanted if isinstance(value, str)]
            known = [one for one in members if one is not None]
            if len(known) == len(members) and self.retrieval.members(field, "") is not None:
                own = np.array(sorted(self._catalogue.own_named), np.int64)  # whose attribute of that name counts in place of the lists
                sets.append(distinct([*known, own] if field in ("category", "tag") else known))
        return min(sets, key=len, default=None)

    def _whole(self, now: int, k: int, hidden: Places, allowed: Callable[[Places | None], Bools | None]) -> Places:
        """The most popular of the whole catalogue that may be listed: some 20 ms for a million, and a second where rules are looked at."""
        usable, left = self.open_at(np.arange(len(self._catalogue)), now), allowed(None)
        if left is not None:
            usable &= left
        usable[hidden] = False
        items = np.flatnonzero(usable)
        return largest(items, self._popularity(items), self._catalogue.hashes, k)

    def _popularity(self, items: Places) -> NDArray[np.float64]:
        popularity: NDArray[np.float64] = self._stats.scaled[1, items]
        return popularity

    def _index(self) -> TextIndex | None:
        space = self._catalogue.space
        if self._text is None and space.dims:
            self._text = TextIndex(space)
        return self._text
