"""What the demo says: lists with titles and reasons in words, the summary, and how to go on. It measures nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
from rich.console import Console
from rich.table import Table

from engine.records import Item
from streams import snippets

SHOWN = 2
"""Reasons said for an item: further ones add little to the score."""
WIDTH = 120
"""Columns where the output is no terminal."""
PLAIN = {
    "popular": "popular",
    "new": "new",
    "history": "fits what you played before",
    "often_together": "often played with others of yours",
    "similar_text": "reads like others of yours",
    "query": "fits the search",
    "unknown_item": "an item not known yet",
}
NAMED = {"often_together": "often played with {}", "similar_text": "reads like {}"}


class Reason(msgspec.Struct):
    """A part of a score, as the contract has it."""

    kind: str
    weight: float
    item_id: str | None = None


class Listed(msgspec.Struct):
    """A place of a list."""

    item_id: str
    rank: int
    score: float
    reasons: list[Reason]


class Made(msgspec.Struct):
    """A list."""

    list_id: str
    generation: str
    items: list[Listed]


def read_list(value: bytes) -> Made:
    """A list from its record."""
    return msgspec.json.decode(value, type=Made)


def console() -> Console:
    """Where the demo speaks; wide enough for its tables also when it is no terminal."""
    out = Console(highlight=False)
    return out if out.is_terminal else Console(highlight=False, width=WIDTH)


def in_words(reasons: Sequence[Reason], items: Mapping[str, Item]) -> str:
    """The strongest reasons for an item as a phrase.

    >>> items = {"a": Item(item_id="a", title="Anchorhead")}
    >>> in_words([Reason("similar_text", 0.6, "a"), Reason("popular", 0.2), Reason("new", -0.1)], items)
    'reads like “Anchorhead”, popular'
    """
    said: dict[str, list[str]] = {}
    for reason in sorted(reasons, key=lambda r: -r.weight)[:SHOWN]:
        if reason.weight > 0:
            named = said.setdefault(reason.kind, [])
            if reason.item_id is not None and reason.kind in NAMED:
                named.append(f"“{title(reason.item_id, items)}”")
    phrases = (
        NAMED[kind].format(" and ".join(named)) if named else PLAIN.get(kind, kind.replace("_", " ")) for kind, named in said.items()
    )
    return ", ".join(phrases) or "nothing in particular"


def title(item_id: str, items: Mapping[str, Item]) -> str:
    """An item's title, or its id where the catalogue does not have it."""
    return items[item_id].title if item_id in items else item_id


def list_table(heading: str, made: Made, items: Mapping[str, Item], before: Made | None = None) -> Table:
    """A list for people; with `before`, also where each item stood in that one."""
    table = Table(title=heading, title_justify="left", title_style="bold", expand=True)
    table.add_column("", justify="right", no_wrap=True)
    if before is not None:
        table.add_column("was", justify="right", no_wrap=True)
    table.add_column("title", ratio=2, no_wrap=True, overflow="ellipsis")
    table.add_column("why", ratio=3, no_wrap=True, overflow="ellipsis")
    was = {one.item_id: str(one.rank + 1) for one in before.items} if before is not None else {}
    for one in made.items:
        cells = [str(one.rank + 1), title(one.item_id, items), in_words(one.reasons, items)]
        if before is not None:
            cells.insert(1, was.get(one.item_id, "new"))
        table.add_row(*cells, style="bold" if before is not None and one.item_id not in was else None)
    return table


def summary_table(report: Mapping[str, Any]) -> Table:
    """The report for people."""
    table = Table(title="Summary", title_justify="left", title_style="bold", show_header=False)
    table.add_column(no_wrap=True)
    table.add_column()
    fresh, quality, generation = report["freshness_ms"], report["ndcg_at_10"], report["generation"]
    popular = quality["popularity"]
    rows = (
        ("events sent", f"{report['events']:,}"),
        ("lists read", f"{report['lists']:,}"),
        ("dead letters", f"{report['dead_letters']:,}"),
        (
            "freshness, send() to list",
            f"p50 {_ms(fresh['p50'])}, p99 {_ms(fresh['p99'])}  ({fresh['events']:,} events at {fresh['events_per_s']:g}/s)",
        ),
        (
            "NDCG@10 of the live lists",
            f"{quality['live']:.4f} ± {quality['se']:.4f}  (popular items: {popular:.4f}; {quality['cases']:,} cases)",
        ),
        ("first generation", f"{generation['id']}, {generation['verdict']}"),
        *(("training" if not n else "", line) for n, line in enumerate(verdict_lines(report["training"]))),
        ("took", f"{report['seconds']:.0f} s without the installation"),
    )
    for row in rows:
        table.add_row(*row)
    return table


def verdict_lines(outcome: Mapping[str, Any]) -> list[str]:
    """What came of a training cycle.

    >>> lists = {"text": {"active": 0.05, "candidate": 0.06, "low": 0.005, "high": 0.015, "cases": 700}}
    >>> outcome = {"published": "g-000002", "active": True, "why": "", "swap_s": 0.8, "gate": {"lists": lists}, "freshness_ms": {}}
    >>> verdict_lines(outcome)
    ['NDCG@10 of lists from text alone .0500 -> .0600 (difference .0050 to .0150, 700 cases)', 'g-000002 serves, swapped in within 0.8 s']
    """
    lines = []
    for kind, name in (("text", "lists from text alone"), ("list", "lists as served")):
        one = ((outcome["gate"] or {}).get("lists") or {}).get(kind)
        if one is not None:
            short = [f"{one[part]:.4f}".replace("0.", ".", 1) for part in ("active", "candidate", "low", "high")]
            lines.append(f"NDCG@10 of {name} {short[0]} -> {short[1]} (difference {short[2]} to {short[3]}, {one['cases']:,} cases)")
    fresh = outcome["freshness_ms"]
    if fresh.get("p99") is not None:
        lines.append(f"lists meanwhile: p50 {_ms(fresh['p50'])}, p99 {_ms(fresh['p99'])}")
    if outcome["active"]:
        lines.append(f"{outcome['published']} serves" + (f", swapped in within {outcome['swap_s']:.1f} s" if "swap_s" in outcome else ""))
    else:
        lines.append(f"{outcome['published'] or 'nothing'} is kept and does not serve: {outcome['why']}")
    return lines


def _ms(value: float | None) -> str:
    return "none" if value is None else f"{value:.1f} ms"


def how_to_go_on(address: str, prefix: str, web: str, item_id: str) -> str:
    """What to type while the demo's broker and worker run; without frames, so that it can be copied."""
    producer = snippets.filled(snippets.PRODUCER, address, prefix=prefix, item_id=item_id, mock=True)
    consumer = snippets.filled(snippets.CONSUMER, address, prefix=prefix, mock=True)
    return f"""
Broker and worker are running; Ctrl-C stops them. In a second terminal, from this folder, to see lists,
those of the replay and then each new one:

cat > var/demo/consume.py <<'END'
{consumer}END
.venv/bin/python var/demo/consume.py

In a third one, to let user u1 click on an item:

cat > var/demo/produce.py <<'END'
{producer}END
.venv/bin/python var/demo/produce.py

Also: curl {web}/metrics
and:  HEADWATER_BROKER=kafka://{address} HEADWATER_PREFIX={prefix} .venv/bin/headwater topics check
"""
