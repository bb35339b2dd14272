"""One training cycle: what happened since the active generation becomes a new one, is proven, and serves if it is better.

1. Take the lease: one trainer at a time works on a registry.
2. Read: the events after the parent's offsets, the catalogue, and who does not want to be learned from. Kept in the work folder.
3. Tune the parent's checkpoint on all but the newest events. The tuned checkpoint is kept in the work folder.
4. Export to ONNX, quantize, compare with fp32 and encode the catalogue (`export.build`).
5. Judge: test-then-train on the newest events against the parent (`export.gate`), which also gives the weights that lists begin with.
6. Publish to the registry, with the verdict: a worse one too is kept.
7. Announce its manifest on `generations`.
8. Activate it, if its gate let it through and the parent is still active and not held.

What a crash leaves behind, by the last step done:

* 1: a lease that runs out by itself.
* 2, 3: what was read or tuned, with which the next cycle of the same parent and settings goes on: if its sums are right, and without
  those users who have since said that they do not want to be learned from. If any of the events were theirs, it is tuned anew.
* 4, 5: a draft in the work folder, removed by the next cycle, and perhaps an id that is claimed and never used.
* 6: a published generation that nobody was told of. The next cycle finds it by its key (parent, offsets, settings) and goes on with 7.
* 7: an announced one; as above, with 8.

The active generation is touched by nothing but 8, which is one record.
"""

from __future__ import annotations

import os
import resource
import shutil
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path
from typing import Any, Literal, Protocol

import msgspec
import numpy as np

from engine.errors import ArtefactError
from engine.generation import Generation, check_sums, sha256_of
from engine.manifest import CHECKPOINT, Gate, Manifest
from engine.objective import Objective
from engine.ranker import Ranker
from engine.records import Item
from engine.registry import Registry, number_of
from engine.text import item_text
from engine.user import Limits
from engine.vectors import catalogue_vectors
from export.archive import contents_of, unpack
from export.build import Built, build
from export.checkpoint import Checkpoint, plain_name, read_checkpoint
from export.feed import EVENTS, Feed, Span
from export.gate import judge
from export.lease import Lease, alone_in
from export.slice import Collector, Dropped, Slice, cut, dataset_of, windows
from export.tune import Tuned, Tuning, tune

JOURNAL, SLICE, TUNED, PARENT, MADE = "journal.json", "slice.npz", "tuned", "parent", "vectors"
COLUMNS = ("users", "items", "times", "sessions", "ids", "kinds")
MOST_JUDGED = 60_000
"""The newest events that both generations go through for the verdict: some 30 s each."""
Watch = Callable[[str, int, int], None]


class Outcome(msgspec.Struct, frozen=True):
    """How a cycle ended: `published`, None when there was nothing to do; `active`: whether it serves now, and `why` not."""

    published: str | None
    active: bool
    why: str
    parent: str
    seconds: dict[str, float]
    peak_bytes: int
    events: int = 0
    gate: Gate | None = None


class Bulletin(Protocol):
    """What a cycle asks of the topic `generations`, and says on it."""

    def active(self) -> str | None:
        """The id of the active generation."""
        ...

    def announce(self, manifest: Manifest) -> None:
        """Say that it is published."""
        ...

    def activate(self, generation_id: str, parent: str, reason: str) -> None:
        """Make it serve in its parent's place.

        Raises:
            ArtefactError: the parent is not active any more, or is held.
        """
        ...


class Silent:
    """Says nothing to anybody: for cycles on recorded data. The newest generation counts as active."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry

    def active(self) -> str | None:
        """The newest one."""
        return self._registry.latest()

    def announce(self, manifest: Manifest) -> None:
        """Nobody listens."""

    def activate(self, generation_id: str, parent: str, reason: str) -> None:
        """Nothing serves."""


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """Settings of a cycle. `events`: the newest so many are read; `fewest`: with less new ones there is nothing to do; `held_out`: share of
    them that is not trained on; `weights`, `objective`: what event types say of a taste, and how much examples of them count for the ranker
    (a cycle's events have no values); `precision`: "fp32" for no quantized form; `as_it_is`: no tuning, the checkpoint is judged as it is.
    """

    tuning: Tuning = Tuning()
    events: int = 200_000
    fewest: int = 1_000
    held_out: float = 0.1
    robot_events_per_day: int = 2_000
    user_events: int = 500
    weights: dict[str, float]
    objective: dict[str, float] = {}
    threads: int = 1
    checkpoint: str | None = None
    precision: Literal["auto", "fp32"] = "auto"
    as_it_is: bool = False
    activate: bool = True


class Journal(msgspec.Struct):
    """What of a cycle is done, in the work folder. `key` names the cycle's parent, settings and checkpoint; `cut`: from this time (ms) on
    events are held out, whatever becomes of the others; `sums`: path in the folder -> sha256 of what is kept there.
    """

    key: str
    parent: str
    span: Span | None = None
    dropped: Dropped = Dropped()
    cut: int = 0
    tuned: dict[str, Any] | None = None
    sums: dict[str, str] = {}


@dataclass
class Cycle:
    """A cycle's surroundings; `run` goes through the steps."""

    registry: Registry
    feed: Feed
    bulletin: Bulletin
    plan: Plan
    work: Path
    watch: Watch
    lease: Callable[[Registry], Lease] = Lease
    clock: Callable[[], float] = time.time
    _seconds: dict[str, float] = field(default_factory=dict)

    def run(self) -> Outcome:
        """Go through the steps.

        Raises:
            ArtefactError: no generation is active, another cycle is at work (in the folder, or on the registry), or the checkpoint can't be
                tuned.
            BrokerError: events or items can't be read, or nothing can be announced.
        """
        with alone_in(self.work), self.lease(self.registry) as lease:  # 1
            parent_id = self.bulletin.active()
            if parent_id is None:
                remedy = "run `headwater export --catalogue …` and `headwater generations activate` first"
                raise ArtefactError("nothing_active", "no active generation", "one to begin with", remedy)
            parent = Generation.open(self.registry.fetch(parent_id))
            journal = self._journal(parent)
            items = self.feed.items()
            events = self._timed("read", lambda: self._read(journal, parent, items))  # 2
            span = journal.span or Span([], [])
            if len(events) < self.plan.fewest:
                why = f"{len(events)} events to learn from since {parent_id}, {self.plan.fewest} needed{_left_out(journal.dropped)}"
                self._forget()
                return self._outcome(None, why, parent_id, events)
            key = _hash(journal.key, span)
            manifest = self._published(key)
            if manifest is None:
                checkpoint = self._timed("tune", lambda: self._tuned(journal, parent, items, events))  # 3
                manifest = self._built(parent, items, events, checkpoint, journal, key, lease.check).manifest  # 4 - 6
            self.watch("announce", 0, 0)
            self.bulletin.announce(manifest)  # 7
            why = self._activated(manifest, parent_id)  # 8
            self._forget()
            return self._outcome(manifest, why, parent_id, events)

    def _journal(self, parent: Generation) -> Journal:
        """The journal of this cycle as far as it got before, else a new one in an empty work folder."""
        begin = contents_of(read_checkpoint(Path(self.plan.checkpoint))) if self.plan.checkpoint else []
        key = _hash(parent.id, sorted(parent.manifest.files.items()), self.plan, begin)
        try:
            found = msgspec.json.decode((self.work / JOURNAL).read_bytes(), type=Journal)
            check_sums(self.work, found.sums)
        except (OSError, msgspec.DecodeError, UnicodeDecodeError, ArtefactError):
            found = None
        if found is None or found.key != key:
            self._forget()
            found = Journal(key, parent.id)
        self.work.mkdir(parents=True, exist_ok=True)
        for left in (*self.work.glob("headwater-export-*"), self.work / MADE):
            shutil.rmtree(left, ignore_errors=True)
        return found

    def _read(self, journal: Journal, parent: Generation, items: list[Item]) -> Slice:
        people = self.feed.people()
        if SLICE in journal.sums:
            there = self._kept(items)
            allowed = people.allow(there)
            if allowed.all():
                return there
            gone = journal.dropped.silent_user + int(len(there) - allowed.sum())
            journal.dropped = msgspec.structs.replace(journal.dropped, silent_user=gone)
            return self._keep(journal, there.take(allowed), items)
        offsets = parent.manifest.offsets.get(EVENTS, [])
        span = self.feed.span(offsets, str(parent.manifest.metrics.get("cycle", {}).get("log", "")), self.plan.events)
        into = Collector(self.plan.weights, {item.item_id: at for at, item in enumerate(items)}, people)
        self.feed.read(span, into, lambda done, total: self.watch("read", done, total))
        events, journal.dropped = into.finish(self.plan.robot_events_per_day)
        journal.span, journal.cut = span, cut(events, self.plan.held_out)
        return self._keep(journal, events, items)

    def _kept(self, items: list[Item]) -> Slice:
        """What was read before, of the items that are still there."""
        with np.load(self.work / SLICE, allow_pickle=False) as kept:
            known = msgspec.json.decode(kept["known"].tobytes(), type=list[str])
            columns = {name: kept[name] for name in COLUMNS}
            names = tuple(kept["names"].tolist())
        place = {item.item_id: at for at, item in enumerate(items)}
        moved = np.array([place.get(item_id, -1) for item_id in known], np.int32)
        there = Slice(**columns | {"items": moved[columns["items"]]}, names=names)
        return there.take(there.items >= 0)

    def _keep(self, journal: Journal, events: Slice, items: list[Item]) -> Slice:
        """Keep what is learned from; what was tuned on anything else does not count any more."""
        part = self.work / "slice.part.npz"
        known = np.frombuffer(msgspec.json.encode([item.item_id for item in items]), np.uint8)
        np.savez(part, names=np.array(events.names), known=known, **{name: getattr(events, name) for name in COLUMNS})
        journal.sums, journal.tuned = {SLICE: sha256_of(part)}, None
        _place(part, self.work / SLICE)
        self._note(journal)
        return events

    def _tuned(self, journal: Journal, parent: Generation, items: list[Item], events: Slice) -> Checkpoint:
        begin = Path(self.plan.checkpoint) if self.plan.checkpoint else self._parents_checkpoint(parent)
        if self.plan.as_it_is:
            return read_checkpoint(begin)
        start = read_checkpoint(begin)
        target = self.work / TUNED / start.name
        if journal.tuned is None:
            shutil.rmtree(self.work / TUNED, ignore_errors=True)
            (self.work / TUNED).mkdir()
            learned = events.before(journal.cut)
            taken = windows(learned, self.plan.tuning.window, self.plan.user_events, self.plan.tuning.seed)
            texts = [item_text(item, parent.template) for item in items]
            counts = np.bincount(learned.items, minlength=len(items))
            tuned = tune(start, texts, taken, counts, self.plan.tuning, target, self.watch)
            journal.tuned = {"windows": len(taken), **_plain(tuned)}
            journal.sums |= {str(path.relative_to(self.work)): sha256_of(path) for path in target.rglob("*") if path.is_file()}
            self._note(journal)
        return read_checkpoint(target)

    def _parents_checkpoint(self, parent: Generation) -> Path:
        shutil.rmtree(self.work / PARENT, ignore_errors=True)
        called = str(parent.manifest.encoder.get("name") or "encoder")
        if not (name := plain_name(called)):
            raise ArtefactError("bad_manifest", f"encoder {called!r} of {parent.id}", "a plain name", "publish the generation again")
        folder = self.work / PARENT / name
        folder.mkdir(parents=True)
        return unpack(self.registry.fetch_training(parent.id, CHECKPOINT, self.work), folder)

    def _built(
        self,
        parent: Generation,
        items: list[Item],
        events: Slice,
        checkpoint: Checkpoint,
        journal: Journal,
        key: str,
        check: Callable[[], None],
    ) -> Built:
        began = self.clock()
        span = journal.span or Span([], [])
        dropped = msgspec.to_builtins(journal.dropped)
        about = {"key": key, "log": span.log, "events": len(events), "skipped": span.skipped, "dropped": dropped, "tuned": journal.tuned}

        def prove(draft: Generation) -> tuple[Gate, Ranker]:
            judged = judge(
                dataset_of(events.take(np.arange(max(0, len(events) - MOST_JUDGED), len(events))), items, "cycle"),
                catalogue_vectors(parent, items, self.work / MADE, threads=self.plan.threads),
                catalogue_vectors(draft, items, self.work / MADE, threads=self.plan.threads),
                against=parent.id,
                start_ms=journal.cut,
                ranker=parent.ranker(),
                limits=Limits(weights=self.plan.weights),
                watch=self.watch,
                objective=Objective(self.plan.objective),
            )
            return judged.gate, judged.ranker

        built = build(
            checkpoint.folder,
            items,
            self.registry,
            max_tokens=parent.manifest.max_tokens,
            threads=self.plan.threads,
            tried=None if self.plan.precision == "auto" else (),
            template=parent.template,
            parent=parent.id,
            offsets={EVENTS: span.ends},
            metrics={"cycle": about},
            prove=prove,
            before_publishing=check,
            scratch_in=self.work,
            watch=self.watch,
        )
        self._seconds |= {**built.seconds, "build": round(self.clock() - began, 2)}
        return built

    def _published(self, key: str) -> Manifest | None:
        """The generation that this very cycle published before it ended too early."""
        for generation_id in sorted(self.registry.ids(), key=number_of, reverse=True):
            try:
                manifest = self.registry.manifest(generation_id)
            except ArtefactError as error:
                if error.retryable:
                    raise
                continue  # removed meanwhile, damaged, or another release's: not this cycle's
            if manifest.metrics.get("cycle", {}).get("key") == key:
                return manifest
        return None

    def _activated(self, manifest: Manifest, parent: str) -> str:
        """Activate it; why not, "" when it serves."""
        if manifest.gate is None or not manifest.gate.passed:
            return manifest.verdict
        if not self.plan.activate:
            return "activation was not asked for"
        self.watch("activate", 0, 0)
        try:
            self.bulletin.activate(manifest.id, parent, f"better than {parent}")
        except ArtefactError as error:
            if error.code in ("superseded", "on_hold"):
                return str(error)
            raise
        return ""

    def _timed(self, name: str, step: Callable[[], Any]) -> Any:
        began = self.clock()
        found = step()
        self._seconds[name] = round(self.clock() - began, 2)
        return found

    def _note(self, journal: Journal) -> None:
        part = self.work / f"{JOURNAL}.part"
        part.write_bytes(msgspec.json.encode(journal))
        _place(part, self.work / JOURNAL)

    def _forget(self) -> None:
        shutil.rmtree(self.work, ignore_errors=True)

    def _outcome(self, manifest: Manifest | None, why: str, parent: str, events: Slice) -> Outcome:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
        gate = None if manifest is None else manifest.gate
        return Outcome(None if manifest is None else manifest.id, not why, why, parent, self._seconds, peak, len(events), gate)


def _plain(tuned: Tuned) -> Mapping[str, Any]:
    return {"steps": tuned.steps, "texts": tuned.texts, "parameters": tuned.learned, "losses": tuned.losses, "seconds": tuned.seconds}


def _place(part: Path, path: Path) -> None:
    """Give a file its name once it is on the disk."""
    with part.open("rb") as file:
        os.fsync(file.fileno())
    part.replace(path)


def _left_out(dropped: Dropped) -> str:
    """How many events are not learned from, and why; "" without any.

    >>> _left_out(Dropped(unknown_item=3, robot=1))
    '; left out: 3 of an item that is not in the catalogue, 1 of a robot'
    """
    told = {
        "unreadable": "unreadable",
        "without_interest": "of a type without weight",
        "unknown_item": "of an item that is not in the catalogue",
        "silent_user": "of a user who is erased or wants no lists",
        "duplicate": "doubled",
        "robot": "of a robot",
        "missing": "not in the log any more",
    }
    counted = msgspec.to_builtins(dropped)
    parts = ", ".join(f"{counted[name]} {words}" for name, words in told.items() if counted[name])
    return f"; left out: {parts}" if parts else ""


def _hash(*parts: Any) -> str:
    return blake2b(msgspec.json.encode(parts), digest_size=12).hexdigest()
