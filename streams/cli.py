"""The command `headwater`: arguments and settings, handed on. No work is done here; nothing heavy is imported before its command."""

from __future__ import annotations

import os
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Annotated

import typer

from engine.errors import BadSettings, HeadwaterError, Problem, of_system
from streams import cli_gateway, cli_generations, cli_rules, cli_train
from streams.arguments import Broker, DataSet, Types, bar, folder_of, late, mapping_of, settings_of
from streams.cli_backfill import backfill
from streams.cli_compare import compare
from streams.cli_explain import explain
from streams.cli_load import events_app, items_app
from streams.cli_up import lists, up
from streams.settings import Settings, shown, unit_of

app = typer.Typer(help="Streaming personalization on Kafka.", no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)
topics_app = typer.Typer(help="The installation's topics.", no_args_is_help=True)
app.add_typer(topics_app, name="topics")
app.add_typer(cli_generations.app, name="generations")
app.add_typer(cli_rules.app, name="rules")
app.command()(backfill)
app.command()(up)
app.command()(lists)
app.command()(explain)
app.add_typer(items_app, name="items")
app.add_typer(events_app, name="events")
app.command("gateway")(cli_gateway.gateway)


def _version(wanted: bool) -> None:
    if wanted:
        print(version("headwater"))
        raise typer.Exit


@app.callback()
def headwater(
    context: typer.Context,
    config: Annotated[Path | None, typer.Option(help="TOML file of settings; else HEADWATER_CONFIG")] = None,
    _: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="print the version")] = False,
) -> None:
    """Streaming personalization: events in on Kafka, each user's next list out."""
    context.obj = config


@app.command()
def config(
    context: typer.Context, markdown: Annotated[bool, typer.Option("--markdown", help="print docs/settings.md instead")] = False
) -> None:
    """Print every setting with its value, unit, source and meaning; secrets are masked."""
    if markdown:
        print(late("streams.settings_page").page(), end="")
        return
    settings = settings_of(context)
    rows = [
        (name, shown(getattr(settings, name)), unit_of(name), settings.sources[name], field.description or "")
        for name, field in Settings.model_fields.items()
    ]
    rows.insert(0, ("setting", "value", "unit", "source", "meaning"))
    widths = [min(40, max(len(row[n]) for row in rows)) for n in range(4)]
    for row in rows:
        print("  ".join([*(cell.ljust(width) for cell, width in zip(row[:4], widths, strict=True)), row[4]]))


@topics_app.command("create")
def create_topics(context: typer.Context, broker: Broker = None) -> None:
    """Make the topics that are missing."""
    from streams import topics

    settings = settings_of(context, broker)
    client = topics.admin(settings)
    made = topics.create(client, topics.topics(settings))
    print(f"made {len(made)} topics" + (": " + ", ".join(made) if made else ""))


@topics_app.command("check")
def check_topics(context: typer.Context, broker: Broker = None) -> None:
    """Say what is wrong with the topics, and exit with 1 if something is."""
    from streams import topics

    settings = settings_of(context, broker)
    client = topics.admin(settings)
    problems = topics.check(client, topics.topics(settings))
    for problem in problems:
        print(problem, file=sys.stderr)
    if problems:
        raise typer.Exit(1)
    print(f"all topics are there, N = {topics.count(client, settings)}")


@app.command("replay")
def replay_data_set(
    context: typer.Context,
    dataset: DataSet,
    speed: Annotated[str, typer.Option(help="10x: ten times as fast as it happened; max: as fast as it goes")] = "max",
    start: Annotated[str | None, typer.Option("--from", help="first event time, a date or RFC 3339")] = None,
    stop: Annotated[str | None, typer.Option("--to", help="event time to stop before")] = None,
    broker: Broker = None,
    types: Types = None,
    items: Annotated[bool, typer.Option(help="send the catalogue first")] = True,
    events: Annotated[bool, typer.Option(help="send the events")] = True,
) -> None:
    """Send a recorded data set to the topics items and events."""
    from engine.dataset import read
    from streams import replay, topics

    settings = settings_of(context, broker)
    pace = replay.speed_of(speed)
    low, high = (None if text is None else replay.instant(text) for text in (start, stop))
    data = read(folder_of(dataset), types=mapping_of(types))
    client = topics.admin(settings)
    if topics.look(client).is_mock:
        topics.create(client, topics.topics(settings))
    topics.count(client, settings)  # before a broker makes topics by use, with a number of partitions of its own
    names = topics.Names.under(settings.prefix)
    sent = []
    producer = replay.producer_of(settings)
    try:
        if items:
            with bar("items") as progress:
                sent.append(("items", replay.replay_items(data, producer, progress, topic=names.items)))
        if events:
            with bar("events") as progress:
                sent.append(("events", replay.replay_events(data, producer, low, high, pace, progress, topic=names.events)))
    finally:
        producer.close(timeout=replay.LATE_S if sys.exc_info()[0] is None else 1)
    print(replay.summary(data.name, sent))


@app.command()
def worker(
    context: typer.Context,
    accept_new_logs: Annotated[
        bool, typer.Option(help="go on although a source topic was made anew: its old offsets mean nothing")
    ] = False,
    lists: Annotated[bool, typer.Option(help="make lists; --no-lists keeps state only")] = True,
) -> None:
    """Run a worker until it is told to stop."""
    run = late("streams.worker").main
    raise typer.Exit(run(settings_of(context), accept_new_logs=accept_new_logs, lists=lists))


@app.command()
def demo(
    keep: Annotated[bool, typer.Option(help="leave broker and worker running, and say how to use them")] = False,
    report: Annotated[Path, typer.Option(help="where the summary goes, as JSON")] = Path("demo-report.json"),
) -> None:
    """Start broker and worker, replay real events, and show a list before and after a click."""
    raise typer.Exit(late("streams.demo").main(keep=keep, report=report))


@app.command()
def evaluate(
    dataset: DataSet,
    context: typer.Context,
    wanted: Annotated[int, typer.Option("--evaluate", help="cases per table, about; a large number asks them all", min=1)] = 6000,
    table: Annotated[str, typer.Option(help="next, session or both")] = "both",
    predictions: Annotated[Path | None, typer.Option(help="file for each list (top 100), one JSON object a line")] = None,
    json: Annotated[Path | None, typer.Option(help="file for the figures")] = None,
    registry: Annotated[str | None, typer.Option(help="where generations are, instead of the setting")] = None,
    generation: Annotated[str | None, typer.Option(help="a generation's id; the newest if none")] = None,
    types: Types = None,
    repeats: Annotated[bool, typer.Option("--repeats", help="items that a user had before are targets and candidates too")] = False,
    calibrated: Annotated[
        bool, typer.Option("--calibrated/--uncalibrated", help="probabilities of listed items as calibrated, or as the softmax gives them")
    ] = True,
    objective: Annotated[
        list[str] | None, typer.Option(help="event type=weight of its examples, instead of the setting; may be given again")
    ] = None,
    objective_value: Annotated[
        list[str] | None, typer.Option(help="event type=value that counts once, instead of the setting; may be given again")
    ] = None,
    lists: Annotated[Path | None, typer.Option(help="judge the lists of this file (as --predictions writes them), make none")] = None,
    against: Annotated[Path | None, typer.Option(help="lists of the same cases to compare with, paired by user")] = None,
    report: Annotated[Path | None, typer.Option(help="Markdown file for all figures; quality along the stream as PNG beside it")] = None,
    learning_delay: Annotated[
        str,
        typer.Option(help="how late lists know what others learned: in s of the stream, or 300events; COUNTS,WEIGHTS if they differ"),
    ] = "0",
) -> None:
    """Test-then-train over a data set: figures per channel and for the list."""
    from engine.learning import Delays
    from engine.protocol import TABLES

    delays = Delays.of(learning_delay)

    tables = [t for t in TABLES if table in (t, "both")]
    if not tables:
        raise BadSettings([Problem("table", "bad_choice", repr(table), "next, session or both", "choose one of them")])
    given = {"objective_weights": ",".join(objective or ()), "objective_values": ",".join(objective_value or ())}
    settings = settings_of(context, **given)
    late("streams.evaluation").main(
        folder_of(dataset),
        registry=registry or settings.registry,
        cache=settings.registry_cache,
        tables=tables,
        wanted=wanted,
        predictions=predictions,
        json_file=json,
        types=mapping_of(types),
        generation=generation,
        repeats=repeats,
        calibrated=calibrated,
        objective=settings.objective,
        lists=lists,
        against=against,
        report=report,
        delays=delays,
    )


@app.command(add_help_option=False, context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def export(context: typer.Context) -> None:
    """Make a generation of a BERT checkpoint: ONNX, quantized, proven, published (--help says more)."""
    command = late("export.cli").export_command
    command(context.args, prog_name="headwater export", default_map={"registry": settings_of(context).registry})


app.command()(compare)
app.command("train")(cli_train.train)
app.command("trainer")(cli_train.trainer)


def main() -> None:
    """Run the command; what went wrong is said on standard error in words, with 2 for wrong settings and 1 for the rest."""
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # before numpy is imported: its threads would wait for each other on a busy machine
    try:
        app()
    except BadSettings as error:
        for problem in error.problems:
            print(problem, file=sys.stderr)
        sys.exit(2)
    except HeadwaterError as error:
        print(error, file=sys.stderr)
        sys.exit(1)
    except OSError as error:
        known = of_system(error)
        if known is None:
            raise
        print(known, file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()
