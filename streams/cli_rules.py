"""The commands `headwater rules …`: what stands, whether a rule is as it should be, putting and ending it. The work: `engine.rulecheck`,
`streams.rulebook`.
"""

from __future__ import annotations

import difflib
import sys
from time import time_ns
from typing import TYPE_CHECKING, Annotated, Any

import typer

from streams.arguments import Broker, late, settings_of

if TYPE_CHECKING:
    from engine.records import Rule
    from engine.rulecheck import Written
    from streams.rulebook import Book, Rulebook
    from streams.settings import Settings

app = typer.Typer(help="People's decisions about lists: block, pin, boost, bury, filter, cap.", no_args_is_help=True)
File = Annotated[str, typer.Argument(help="a rule as JSON, or one a line; - for standard input")]
TITLE_CHARS = 32


@app.command("list")
def list_rules(
    context: typer.Context,
    as_json: Annotated[bool, typer.Option("--json", help="one JSON object a line")] = False,
    broker: Broker = None,
) -> None:
    """Print every rule as workers have it: whether it holds now, where and for whom, and what it matches."""
    import msgspec

    from engine.rulecheck import effect, state_of, told
    from engine.timestamps import ms_rfc3339

    book: Book = _book(settings_of(context, broker)).read()
    for line in book.unread:
        typer.echo(line, err=True)
    states = {rule_id: state_of(rule, book.now_ms) for rule_id, rule in book.rules.items()}
    order = {state: n for n, state in enumerate(("active", "scheduled", "ended"))}
    for rule in sorted(book.rules.values(), key=lambda rule: (order[states[rule.rule_id]], rule.rule_id)):
        found = effect(rule, book.items)
        if as_json:
            matched = {"count": found.matched, "of": found.total, "examples": [item.item_id for item in found.examples]}
            print(msgspec.json.encode({"state": states[rule.rule_id], "matches": matched, "rule": rule}).decode())
            continue
        print(f"{rule.rule_id}  {_verb(rule)}  {states[rule.rule_id]}{_window(rule, ms_rfc3339)}")
        print(f"    match     {told(rule.match)}")
        examples = [f"{item.item_id} ({_short(item.title)})" for item in found.examples]
        named = ": " + ", ".join(examples + ["…"] * (found.matched > len(examples))) if examples else ""
        print(f"    items     {found.matched:,} of {found.total:,}{named}")
        print(f"    surfaces  {', '.join(rule.surfaces) or 'all'}")
        print(f"    users     {told(rule.users) or 'all'}")
        if rule.note:
            print(f"    note      {rule.note}")
    counts = ", ".join(f"{list(states.values()).count(state)} {state}" for state in order)
    now = ms_rfc3339(book.now_ms)
    typer.echo(f"{len(states)} rules: {counts}; workers' time is {now}, that of the newest event or of the clock", err=True)


@app.command("check")
def check_rules(context: typer.Context, file: File, broker: Broker = None) -> None:
    """Say what is wrong with rules before they are sent, given the catalogue and the rules that stand; exit with 1 if something is."""
    settings = settings_of(context, broker)
    written = _written(file)
    problems = _problems(written, _book(settings).read(), settings)
    if problems:
        raise typer.Exit(1)
    print(f"{_counted(written)}: nothing is wrong")


@app.command("put")
def put_rules(
    context: typer.Context,
    file: File,
    force: Annotated[bool, typer.Option(help="also what can be read and is said to be wrong")] = False,
    broker: Broker = None,
) -> None:
    """Check rules and send them; a rule with the id of one that stands takes its place. Workers have them within a second."""
    settings = settings_of(context, broker)
    written, book = _written(file), _book(settings)
    problems = _problems(written, book.read(), settings)
    if any(one.rule is None for one in written) or (problems and not force):
        typer.echo("nothing was sent" + ("" if any(one.rule is None for one in written) else " (--force sends it all the same)"), err=True)
        raise typer.Exit(1)
    book.put([(one.key, one.value) for one in written])
    print(f"put {_counted(written)}")


@app.command("end")
def end_rules(
    context: typer.Context,
    rule_id: Annotated[list[str], typer.Argument(help="ids of rules that stand")],
    broker: Broker = None,
) -> None:
    """End rules by taking them off the topic, now."""
    from engine.errors import HeadwaterError

    book = _book(settings_of(context, broker))
    known = book.read().rules
    for name in rule_id:
        if name not in known:
            near = difflib.get_close_matches(name, known, 1)
            remedy = f"end {near[0]}?" if near else "see `headwater rules list`"
            raise HeadwaterError("no_rule", f"no rule {name}; nothing was ended", "ids of rules that stand", remedy)
    book.put([(name.encode(), None) for name in dict.fromkeys(rule_id)])
    print(f"ended {', '.join(dict.fromkeys(rule_id))}")


def _book(settings: Settings) -> Rulebook:
    found: Rulebook = late("streams.rulebook").Rulebook(settings, time_ns() // 1_000_000)
    return found


def _written(file: str) -> list[Written]:
    """The rules of a file.

    Raises:
        DatasetError: it can't be read, or has none.
    """
    from engine.errors import DatasetError
    from engine.rulecheck import read_rules

    with late("streams.loading").opened(file) as (stream, name):
        written = read_rules(stream.read())
    if not written:
        raise DatasetError("no_rows", f"{name}: no line", "a rule as JSON, or one a line", "check what wrote the file")
    return written


def _problems(written: list[Written], book: Book, settings: Settings) -> list[Any]:
    """What is wrong, said on standard error."""
    from engine.rulecheck import check

    found = check(written, book.rules.values(), book.items, book.now_ms, settings.list_size, settings.surfaces)
    for one in found:
        print(f"line {one.line}, {one.rule_id}: {one.problem}", file=sys.stderr)
    return found


def _counted(written: list[Written]) -> str:
    return f"{len(written)} rule{'' if len(written) == 1 else 's'}: {', '.join(one.key.decode() for one in written[:10])}" + (
        " …" if len(written) > 10 else ""  # noqa: PLR2004 - as many as a line bears
    )


def _verb(rule: Rule) -> str:
    """What a rule does, with its number."""
    number = {"pin": rule.rank, "boost": rule.factor, "bury": rule.factor, "cap": rule.max}.get(rule.action)
    unit = {"pin": "at rank", "boost": "by", "bury": "by", "cap": "at"}.get(rule.action)
    return rule.action if number is None else f"{rule.action} {unit} {number:g}"


def _window(rule: Rule, written: Any) -> str:
    starts = f", from {written(rule.starts_at)}" if rule.starts_at is not None else ""
    return starts + (f", until {written(rule.ends_at)}" if rule.ends_at is not None else "")


def _short(title: str) -> str:
    return title if len(title) <= TITLE_CHARS else title[: TITLE_CHARS - 1] + "…"
