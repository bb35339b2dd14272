"""The commands `headwater train` and `headwater trainer`: settings in, an outcome out. The work is in `export`, which is imported late."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from engine.errors import BadSettings, Problem
from streams.arguments import Broker, folder_of, late, settings_of
from streams.settings import Settings

if TYPE_CHECKING:
    from engine.registry import Registry


def train(
    context: typer.Context,
    checkpoint: Annotated[Path | None, typer.Option(help="begin with this checkpoint folder instead of the active generation's")] = None,
    as_it_is: Annotated[bool, typer.Option(help="do not tune: only judge, publish and activate the checkpoint if it is better")] = False,
    activate: Annotated[bool, typer.Option(help="activate it if its gate lets it through")] = True,
    report: Annotated[Path | None, typer.Option(help="file for the outcome, as JSON")] = None,
    dataset: Annotated[str | None, typer.Option(help="learn from a recorded data set, without a broker; nothing is announced")] = None,
    share: Annotated[float, typer.Option(help="with --dataset: the first share of its events", min=0.0, max=1.0)] = 1.0,
    most: Annotated[int | None, typer.Option(help="with --dataset: so many of these, the first", min=1)] = None,
    registry: Annotated[str | None, typer.Option(help="where generations are, instead of the setting")] = None,
    broker: Broker = None,
) -> None:
    """One training cycle: read new events, tune, export, compare with the active generation, publish, activate if better."""
    settings = settings_of(context, broker)
    if as_it_is and checkpoint is None:
        found = "--as-it-is without --checkpoint"
        raise BadSettings([Problem("checkpoint", "missing", found, "a checkpoint to judge", "name one with --checkpoint")])
    late("export.train_cli").main(
        plan=plan_of(settings, checkpoint, as_it_is=as_it_is, activate=activate),
        registry=registry or settings.registry,
        registry_cache=settings.registry_cache,
        work=settings.train_dir,
        report=report,
        source=_recorded(dataset, share, most) if dataset else _live(settings),
    )


def trainer(context: typer.Context, broker: Broker = None) -> None:
    """Run training cycles by time and by the number of new events, until told to stop."""
    settings = settings_of(context, broker)
    source = _live(settings)
    arguments = ["--config", str(context.obj)] if context.obj else []
    command = [sys.executable, "-m", "streams.cli", *arguments, "train"]
    environ = {**os.environ, **({"HEADWATER_BROKER": broker} if broker else {})}
    raise typer.Exit(
        late("export.trainer").main(
            source=source,
            registry=settings.registry,
            registry_cache=settings.registry_cache,
            command=command,
            environ=environ,
            host=settings.web_host,
            port=settings.trainer_port,
            every_s=settings.train_every_s,
            after_events=settings.train_after_events,
            least_events=settings.train_least_events,
            work=settings.train_dir,
        )
    )


def plan_of(settings: Settings, checkpoint: Path | None, *, as_it_is: bool, activate: bool) -> Any:
    """A cycle's plan, as the settings have it."""
    threads = settings.train_threads or os.cpu_count() or 1
    tuning = late("export.tune").Tuning(
        method=settings.train_method,
        layers=settings.train_layers,
        epochs=settings.train_epochs,
        rate=settings.train_rate,
        most_steps=settings.train_steps,
        threads=threads,
    )
    return late("export.cycle").Plan(
        tuning=tuning,
        events=settings.train_events,
        fewest=settings.train_least_events,
        held_out=settings.train_held_out,
        robot_events_per_day=settings.robot_events_per_day,
        weights=settings.event_weights,
        objective=settings.objective_weights,
        threads=threads,
        checkpoint=None if checkpoint is None else str(checkpoint),
        precision=settings.train_precision,
        as_it_is=as_it_is,
        activate=activate,
    )


def _live(settings: Settings) -> Any:
    """What a cycle needs of the cluster: the feed, and the board for a registry."""
    from streams import security, topics
    from streams.generations import Board, Bulletin

    client = topics.admin(settings)
    found, names = topics.look(client), topics.Names.under(settings.prefix)
    topics.count(client, settings)  # says so when the topics are missing
    feed = late("export.feed").Topics(
        client=security.kafka_python(settings) | ({"api_version": security.MOCK_API_VERSION} if found.is_mock else {}),
        events=names.events,
        catalogue=names.items,
        users=names.users,
        log=lambda: topics.epochs(client, [names.events])[names.events],
        types=settings.event_weights,
        max_bytes=settings.max_record_bytes,
    )
    return feed, lambda _: Bulletin(Board(settings))


def _recorded(name: str, share: float, most: int | None) -> Any:
    def silent(registry: Registry) -> Any:
        return late("export.cycle").Silent(registry)

    return late("export.feed").Recorded.open(folder_of(name), share, most), silent
