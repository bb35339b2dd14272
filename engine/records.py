"""What users' systems send, as checked values. Not how bytes become these (see `engine.decode`), and never what is sent back."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec

ID_CHARS = 256
"""Longest user, item, rule or request id, in characters."""
EVENT_ID_CHARS = 128
"""Longest event id, in characters: 1,000 of them are kept per user."""
INTEGER_MAX = 2**53 - 1
"""Largest integer of a field: what every JSON reader keeps exactly (RFC 8259, section 6)."""
K_MAX = 1000
"""Most items that a request may ask for."""
TIME_MIN_MS = 10**11
"""Smallest time given as an integer (3 March 1973): a smaller one is seconds."""
TIME_MAX_MS = 253_402_300_799_999
"""Largest time: 9999-12-31T23:59:59.999Z, the last one that RFC 3339 can write."""
SURFACE_PATTERN = r"\A[a-z0-9_-]{1,32}\Z"
DEFAULT_SURFACE = "home"
EVENT_TYPES = frozenset({"view", "click", "cart", "purchase", "like", "dislike", "rating", "dwell", "skip", "impression", "search"})
"""The contract's event types; an installation may add more with a weight."""
ITEMLESS_TYPES = frozenset({"impression", "search"})
"""The event types that need no `item_id`: an impression has `items`, a search has `query`."""
ACTIONS = ("block", "pin", "boost", "bury", "filter", "cap")

Id = Annotated[str, msgspec.Meta(min_length=1, max_length=ID_CHARS)]
EventId = Annotated[str, msgspec.Meta(min_length=1, max_length=EVENT_ID_CHARS)]
Name = Annotated[str, msgspec.Meta(min_length=1)]
Surface = Annotated[str, msgspec.Meta(pattern=SURFACE_PATTERN)]
Millis = Annotated[int, msgspec.Meta(ge=TIME_MIN_MS, le=TIME_MAX_MS)]
Count = Annotated[int, msgspec.Meta(ge=0, le=INTEGER_MAX)]
Factor = Annotated[float, msgspec.Meta(gt=0)]
Scalar = str | int | float | bool
Conditions = dict[str, Scalar | tuple[Scalar, ...]]
"""field -> value, or any of [values]."""
Action = Literal["block", "pin", "boost", "bury", "filter", "cap"]

# gc=False: a record decoded from JSON holds no cycle, and a batch of thousands of them need not be walked by the collector.


class Event(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """What a user did. ``timestamp`` is the event time in ms UTC; ``items`` is what an impression really showed, in order."""

    event_id: EventId
    type: str
    user_id: Id
    timestamp: Millis
    item_id: Id | None = None
    session_id: str | None = None
    value: float | None = None
    list_id: str | None = None
    position: Count | None = None
    items: tuple[Id, ...] = ()
    query: str | None = None
    surface: Surface = DEFAULT_SURFACE
    context: dict[str, Any] = {}


class Item(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """One entry of the catalogue. Times in ms UTC, before 1970 negative; ``vectors`` are made elsewhere, any length per name."""

    item_id: Id
    title: Name
    description: str = ""
    categories: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()
    creator: str = ""
    price: float | None = None
    published_at: Millis | None = None
    available_from: Millis | None = None
    available: bool = True
    domain: str = ""
    language: str = ""
    attributes: dict[str, Any] = {}
    vectors: dict[str, list[float]] = {}


class User(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """What is said about a user. ``alias_of``: this id becomes that one; ``erase``: the user is erased everywhere."""

    user_id: Id
    attributes: dict[str, Any] = {}
    alias_of: Id | None = None
    personalise: bool = True
    erase: bool = False
    timestamp: Millis | None = None


class Request(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """A list asked for now. ``candidates`` None: from the catalogue; a tuple: these and only these are ranked."""

    request_id: Id
    user_id: Id
    timestamp: Millis
    k: Annotated[int, msgspec.Meta(ge=1, le=K_MAX)] = 10
    surface: Surface = DEFAULT_SURFACE
    candidates: tuple[Id, ...] | None = None
    query: str | None = None
    seed_item_id: Id | None = None
    exclude: tuple[Id, ...] = ()
    filters: Conditions = {}
    after_event_id: EventId | None = None


class Rule(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """A person's decision about items.

    ``match``: `item_ids` or fields of the item; no ``surfaces``: all of them; in force from ``starts_at`` until before ``ends_at``, in ms.
    """

    rule_id: Id
    action: Action
    match: Conditions
    rank: Count | None = None
    factor: Factor | None = None
    max: Count | None = None
    surfaces: tuple[Surface, ...] = ()
    users: Conditions = {}
    starts_at: Millis | None = None
    ends_at: Millis | None = None
    note: str = ""
