"""A cycle on a recorded shop: what it publishes and says, and that whatever step it dies at, the next one ends it. No broker."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from engine.errors import ArtefactError
from engine.generation import Generation
from engine.manifest import CHECKPOINT, RANKER, Manifest
from engine.partition import hash64
from engine.records import Item
from engine.registry import Registry
from engine.user import DEFAULT_WEIGHTS
from export.build import build
from export.cycle import Cycle, Outcome, Plan
from export.feed import Recorded
from export.lease import Lease
from export.slice import People
from export.tune import Tuning
from tests import tiny_bert
from tests.training_shop import shop

EVENTS = 2_000
DATA = shop(EVENTS)
PLAN = Plan(
    weights=dict(DEFAULT_WEIGHTS),
    tuning=Tuning(layers=2, epochs=4, rate=3e-3, most_tokens=24, threads=1),
    fewest=100,
    held_out=0.3,
    precision="fp32",
)


@dataclass
class Board:
    """`generations` in memory."""

    serving: str | None = None
    announced: list[str] = field(default_factory=list)
    held: bool = False

    def active(self) -> str | None:
        return self.serving

    def announce(self, manifest: Manifest) -> None:
        self.announced.append(manifest.id)

    def activate(self, generation_id: str, parent: str, reason: str) -> None:
        if self.serving != parent or self.held:
            raise ArtefactError("on_hold" if self.held else "superseded", str(self.serving), parent, "train again")
        self.serving = generation_id


@dataclass
class World:
    """A registry with a first generation, a board on which it serves, and a work folder."""

    folder: Path
    registry: Registry
    board: Board

    def cycle(self, plan: Plan = PLAN, feed: Recorded | None = None, watch: Any = lambda *_: None) -> Outcome:
        """Run one."""
        return Cycle(self.registry, feed or Recorded(DATA), self.board, plan, self.folder / "work", watch).run()


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A registry folder with the generation of an untrained checkpoint."""
    folder = tmp_path_factory.mktemp("cycle")
    checkpoint = tiny_bert.write_checkpoint(folder / "tiny-bert")
    build(checkpoint, DATA.items, Registry(str(folder / "registry")), max_tokens=24, tried=())
    return folder


@pytest.fixture
def world(first: Path, tmp_path: Path) -> Iterator[World]:
    """A copy of it for one test, which leaves no lease behind."""
    import shutil

    shutil.copytree(first / "registry", tmp_path / "registry")
    registry = Registry(str(tmp_path / "registry"))
    yield World(tmp_path, registry, Board("g-000001"))
    assert not (tmp_path / "registry" / "trainer.lease").exists()


def test_a_cycle(world: World) -> None:
    """Rule: a better generation is published with parent, offsets, verdict, weights and what to train from, announced and activated."""
    outcome = world.cycle()
    assert outcome.active, outcome.why
    assert (outcome.published, world.board.announced, world.board.serving) == ("g-000002", ["g-000002"], "g-000002")
    manifest = world.registry.manifest("g-000002")
    assert manifest.parent == "g-000001"
    assert manifest.offsets == {"events": [EVENTS]}
    assert manifest.gate is not None
    assert manifest.gate.passed
    assert manifest.verdict == "accepted"
    assert manifest.encoder["name"] == world.registry.manifest("g-000001").encoder["name"]
    assert manifest.encoder["weights_sha256"] != world.registry.manifest("g-000001").encoder["weights_sha256"]
    assert set(manifest.training) == {CHECKPOINT}
    opened = Generation.open(world.registry.fetch("g-000002"))
    ranker = opened.ranker()
    assert ranker is not None
    assert ranker.version > 0
    assert ranker.generation == "g-000002"
    assert RANKER in manifest.files
    assert not (world.folder / "work").exists(), "what is done is tidied up"


def test_the_next_cycle_begins_where_this_one_ended(world: World) -> None:
    """Rule: a child's events are those after its parent's offsets; with too few of them nothing is trained."""
    world.board.serving = world.cycle(feed=Recorded(DATA, most=EVENTS - 500)).published
    late = world.cycle(plan=msgspec.structs.replace(PLAN, fewest=1_000))
    assert late.published is None
    assert "500 events to learn from since g-000002, 1000 needed" in late.why
    again = world.cycle()
    manifest = world.registry.manifest(again.published or "")
    assert manifest.parent == "g-000002"
    assert manifest.metrics["cycle"]["events"] <= 500
    assert manifest.offsets == {"events": [EVENTS]}


def test_a_worse_one_is_kept_and_does_not_serve(world: World, tmp_path: Path) -> None:
    """Rule: random weights are published with the verdict, told of, and not activated; they do not pass by being tried again."""
    import torch
    from transformers import BertConfig, BertModel

    world.cycle()
    folder = tiny_bert.write_checkpoint(tmp_path / "random")
    torch.manual_seed(99)
    BertModel(BertConfig.from_pretrained(str(folder))).save_pretrained(str(folder))
    plan = msgspec.structs.replace(PLAN, checkpoint=str(folder), as_it_is=True)
    world.board.serving = "g-000002"
    feed = Recorded(shop(2 * EVENTS))
    outcome = world.cycle(plan, feed)
    assert outcome.published == "g-000003"
    assert not outcome.active
    assert outcome.why.startswith("refused: lists from text alone are not better for certain")
    assert world.board.serving == "g-000002"
    assert "g-000003" in world.board.announced
    again = world.cycle(plan, feed)
    assert (again.published, again.active) == ("g-000003", False)
    assert world.registry.ids() == ["g-000001", "g-000002", "g-000003"]


class Killed(BaseException):
    """The process is gone: nothing catches it."""


STEPS = ["read", "prepare", "tune", "export to ONNX", "encode the catalogue", "judge the candidate", "publish", "announce", "activate"]


@pytest.mark.parametrize("step", STEPS)
def test_killed_at_each_step(world: World, step: str) -> None:
    """Rule: a cycle that ends at any step leaves the active generation and whole generations; the next one comes to the same end,
    with no generation published twice for the same events.
    """

    def watch(stage: str, *_: int) -> None:
        if stage == step:
            raise Killed

    with pytest.raises(Killed):
        world.cycle(watch=watch)
    assert world.board.serving == "g-000001"
    for generation_id in world.registry.ids():
        Generation.open(world.registry.fetch(generation_id))
    outcome = world.cycle()
    assert outcome.active, outcome.why
    assert world.board.serving == outcome.published
    assert len(world.registry.ids()) == 2
    assert not (world.folder / "work").exists()


def test_what_was_read_and_tuned_is_not_done_again(world: World) -> None:
    """Rule: a cycle killed after tuning goes on with the tuned weights, also when events and items have come meanwhile."""
    seen: list[str] = []

    def kill(stage: str, *_: int) -> None:
        if stage == "export to ONNX":
            raise Killed

    with pytest.raises(Killed):
        world.cycle(watch=kill, feed=Recorded(DATA, most=EVENTS - 500))
    outcome = world.cycle(watch=lambda stage, *_: seen.append(stage))
    assert outcome.published == "g-000002"
    assert not {"read", "prepare", "tune"} & set(seen)
    assert world.registry.manifest(outcome.published or "").offsets == {"events": [EVENTS - 500]}, "the rest is the next cycle's"


def test_other_settings_begin_anew(world: World) -> None:
    """Rule: what was tuned with other settings is not taken for this cycle's."""

    def kill(stage: str, *_: int) -> None:
        if stage == "export to ONNX":
            raise Killed

    with pytest.raises(Killed):
        world.cycle(watch=kill)
    seen: list[str] = []
    other = msgspec.structs.replace(PLAN, tuning=msgspec.structs.replace(PLAN.tuning, epochs=5))
    world.cycle(other, watch=lambda stage, *_: seen.append(stage))
    assert "tune" in seen


def test_a_journal_that_was_half_written(world: World) -> None:
    """Rule: a damaged journal costs the work that it told of, nothing else."""
    (world.folder / "work").mkdir()
    (world.folder / "work" / "journal.json").write_text('{"key":')
    assert world.cycle().active


def killed_at(step: str) -> Any:
    """What ends a cycle there."""

    def watch(stage: str, *_: int) -> None:
        if stage == step:
            raise Killed

    return watch


@dataclass
class Asked(Recorded):
    """A recorded shop whose users have said something."""

    said: People = field(default_factory=People)

    def people(self) -> People:
        """What they said."""
        return self.said


USERS = sorted({hash64(row.user) for row in DATA.rows})


@pytest.mark.parametrize("step", ["prepare", "export to ONNX", "judge the candidate"])
def test_who_has_meanwhile_opted_out_is_not_learned_from(world: World, step: str) -> None:
    """Rule: a cycle that goes on asks anew who wants to be learned from; the events of those who do not go, and what was tuned on them."""
    feed, seen = Asked(DATA), set[str]()
    with pytest.raises(Killed):
        world.cycle(feed=feed, watch=killed_at(step))
    feed.said = People(frozenset(USERS[:20]), {USERS[20]: USERS[21]}, {USERS[20]: 1 << 52, USERS[22]: 1 << 52})
    gone = {*USERS[:23]}
    outcome = world.cycle(feed=feed, watch=lambda stage, *_: seen.add(stage))
    manifest = world.registry.manifest(outcome.published or "")
    left = sum(hash64(row.user) not in gone for row in DATA.rows)
    assert "tune" in seen
    assert manifest.metrics["cycle"]["dropped"]["silent_user"] == sum(hash64(row.user) in gone for row in DATA.rows)
    assert manifest.metrics["cycle"]["events"] <= left
    assert manifest.gate is not None
    assert manifest.gate.lists["text"].users <= len(USERS) - len(gone)


def test_nobody_is_left_to_learn_from(world: World) -> None:
    """Rule: where all whose events were read have opted out, the cycle ends with nothing, however far it was."""
    feed = Asked(DATA)
    with pytest.raises(Killed):
        world.cycle(feed=feed, watch=killed_at("export to ONNX"))
    feed.said = People(frozenset(USERS))
    outcome = world.cycle(feed=feed)
    assert outcome.published is None
    assert "of a user who is erased or wants no lists" in outcome.why


def test_who_opted_out_is_left_out_once(world: World) -> None:
    """Rule: what was tuned without them is kept when the cycle is killed once more."""
    feed = Asked(DATA)
    with pytest.raises(Killed):
        world.cycle(feed=feed, watch=killed_at("export to ONNX"))
    feed.said = People(frozenset(USERS[:20]))
    with pytest.raises(Killed):
        world.cycle(feed=feed, watch=killed_at("export to ONNX"))
    seen: list[str] = []
    assert world.cycle(feed=feed, watch=lambda stage, *_: seen.append(stage)).published
    assert not {"read", "prepare", "tune"} & set(seen)


@pytest.mark.parametrize("name", ["slice.npz", "model.safetensors", "vectors-*.npy", "journal.json"])
def test_a_damaged_file_in_the_work_folder(world: World, name: str) -> None:
    """Rule: a file that a crash has left half written, or that is another one, costs the work that it held, nothing else."""
    feed = Recorded(replace(DATA, items=(*DATA.items, Item("new", "one more"))))  # its vector for the parent is made and kept
    with pytest.raises(Killed):
        world.cycle(feed=feed, watch=killed_at("judge the candidate"))
    found = list((world.folder / "work").rglob(name))
    assert found
    for path in found:
        path.write_bytes(b'{"key":"\xff"}' if name == "journal.json" else path.read_bytes()[: path.stat().st_size // 2])
    assert world.cycle(feed=feed).active


def test_the_held_out_events_stay_held_out(world: World) -> None:
    """Rule: a cycle that goes on judges on no event that it has trained on, also when items have gone meanwhile."""
    with pytest.raises(Killed):
        world.cycle(watch=killed_at("export to ONNX"))
    cut_ms = json.loads((world.folder / "work" / "journal.json").read_text())["cut"]
    held_out = Counter(row.item_id for row in DATA.rows if row.time * 1000 >= cut_ms)
    late = Counter({item_id: n / sum(row.item_id == item_id for row in DATA.rows) for item_id, n in held_out.items()})
    gone = {item_id for item_id, _ in late.most_common(20)}
    outcome = world.cycle(feed=Recorded(replace(DATA, items=tuple(one for one in DATA.items if one.item_id not in gone))))
    manifest = world.registry.manifest(outcome.published or "")
    assert manifest.gate is not None
    assert 0 < manifest.gate.held_out <= sum(n for item_id, n in held_out.items() if item_id not in gone)


def test_other_weights_in_the_same_folder_are_another_checkpoint(world: World, tmp_path: Path) -> None:
    """Rule: a verdict is that of a checkpoint's files, not of the folder that they lie in."""
    import torch
    from transformers import BertConfig, BertModel

    folder = tiny_bert.write_checkpoint(tmp_path / "own")
    plan = msgspec.structs.replace(PLAN, checkpoint=str(folder), as_it_is=True)
    published = []
    for seed in (98, 99, 99):
        torch.manual_seed(seed)
        BertModel(BertConfig.from_pretrained(str(folder))).save_pretrained(str(folder))
        published.append(world.cycle(plan).published)
    assert published == ["g-000002", "g-000003", "g-000003"]


@pytest.mark.parametrize("manifest", ['{"format": 99}', "no manifest", '{"format": 1, "id": "\\ud800'])
def test_a_manifest_of_another_generation_that_can_t_be_read(world: World, manifest: str) -> None:
    """Rule: what another release published, or somebody damaged, does not keep this one from training."""
    (world.folder / "registry" / "g-000007").mkdir()
    (world.folder / "registry" / "g-000007" / "manifest.json").write_text(manifest)
    assert world.cycle().published == "g-000008"


@pytest.mark.parametrize("name, made", [("../../outside", True), ("..", False), ("a/..", False), ("/", False), ("a\0b", False)])
def test_a_registry_does_not_choose_where_the_trainer_writes(world: World, name: str, made: bool) -> None:
    """Rule: the name of an encoder that stands in a manifest leads to no place outside the work folder."""
    path = world.folder / "registry" / "g-000001" / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["encoder"]["name"] = name
    path.write_text(json.dumps(manifest))
    before = sorted(world.folder.rglob("*"))
    with pytest.raises(BaseException) as caught:  # noqa: PT011 - Killed is none of Exception
        world.cycle(watch=killed_at("prepare"))
    assert isinstance(caught.value, Killed if made else ArtefactError)
    assert [path for path in sorted(world.folder.rglob("*")) if path not in before and "work" not in str(path)] == []


def test_two_registries_and_one_work_folder(world: World) -> None:
    """Rule: a cycle that finds another one in its work folder says so, and touches nothing there."""
    busy: list[str] = []

    def watch(stage: str, *_: int) -> None:
        if stage == "judge the candidate" and not busy:
            other = Cycle(Registry(str(world.folder / "empty")), Recorded(DATA), Board("g-000001"), PLAN, world.folder / "work", watch)
            with pytest.raises(ArtefactError) as caught:
                other.run()
            assert caught.value.retryable
            assert "HEADWATER_TRAIN_DIR" in caught.value.remedy
            busy.append(caught.value.code)

    assert world.cycle(watch=watch).active
    assert busy == ["train_dir_busy"]


def test_held_after_a_rollback(world: World) -> None:
    """Rule: where a person has said to wait, a better generation is published and announced, and not activated."""
    world.board.held = True
    outcome = world.cycle()
    assert outcome.published == "g-000002"
    assert "on_hold" in outcome.why
    assert world.board.serving == "g-000001"


def test_another_one_was_activated_meanwhile(world: World) -> None:
    """Rule: a candidate takes only its own parent's place."""

    def watch(stage: str, *_: int) -> None:
        if stage == "announce":
            world.board.serving = "g-000009"

    outcome = world.cycle(watch=watch)
    assert "superseded" in outcome.why
    assert world.board.serving == "g-000009"


def test_a_trainer_that_was_frozen_does_not_publish(world: World) -> None:
    """Rule: a cycle whose lease another one took over ends before it publishes."""

    def watch(stage: str, *_: int) -> None:
        if stage == "publish":
            world.registry.write_mark("trainer.lease", json.dumps({"holder": "other:1:ab", "until": 0.0}).encode())

    with pytest.raises(ArtefactError) as caught:
        world.cycle(watch=watch)
    assert caught.value.code == "lease_lost"
    assert world.registry.ids() == ["g-000001"]
    world.registry.remove_mark("trainer.lease")


def test_two_at_once_publish_one(world: World) -> None:
    """Rule: while a cycle runs, a second one does not begin."""
    busy: list[str] = []

    def watch(stage: str, *_: int) -> None:
        if stage == "tune" and not busy:
            other = Cycle(
                world.registry, Recorded(DATA), world.board, PLAN, world.folder / "other", lambda *_: None, lambda r: Lease(r, wait_s=0)
            )
            with pytest.raises(ArtefactError) as caught:
                other.run()
            busy.append(caught.value.code)

    assert world.cycle(watch=watch).active
    assert busy == ["trainer_busy"]
    assert world.registry.ids() == ["g-000001", "g-000002"]


def test_events_of_no_known_item(world: World) -> None:
    """Rule: where the catalogue is empty nothing is trained, and the outcome says where all the events went."""
    outcome = world.cycle(feed=Recorded(replace(DATA, items=())))
    assert outcome.published is None
    assert f"0 events to learn from since g-000001, 100 needed; left out: {EVENTS} of an item that is not in" in outcome.why


def test_nothing_is_active(world: World) -> None:
    """Rule: without a generation to begin with, the error says how to make one."""
    world.board.serving = None
    with pytest.raises(ArtefactError) as caught:
        world.cycle()
    assert "headwater export" in caught.value.remedy


def test_a_parent_of_an_older_release(world: World) -> None:
    """Rule: a generation that keeps nothing to train from says so, and what to do; with a checkpoint named the cycle runs."""
    path = world.folder / "registry" / "g-000001" / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["training"] = {}
    path.write_text(json.dumps(manifest))
    with pytest.raises(ArtefactError) as caught:
        world.cycle()
    assert caught.value.code == "no_training_file"
    checkpoint = tiny_bert.write_checkpoint(world.folder / "named")
    assert world.cycle(msgspec.structs.replace(PLAN, checkpoint=str(checkpoint))).active


def test_new_vectors_are_new(world: World) -> None:
    """Rule: the generation that serves after a cycle has other vectors than the one before."""
    world.cycle()
    one, two = (Generation.open(world.registry.fetch(i)) for i in ("g-000001", "g-000002"))
    assert one.item_ids == two.item_ids
    assert not np.allclose(one.vectors, two.vectors, atol=0.05)
