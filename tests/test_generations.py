"""What may serve, as `headwater generations` says it, and what workers do with it: swaps, rollbacks, and generations that are no good."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import msgspec
import numpy as np
import pytest

from engine.errors import ArtefactError
from engine.generation import read_manifest, sha256_of
from engine.manifest import ITEMS, NAME, TOKENIZER, VECTORS, Compared, Gate, Manifest, encode_manifest
from engine.ranker import PRIOR, Ranker, pack_ranker
from engine.registry import Registry
from streams.generations import Board
from tests import tiny_bert
from tests.worker_process import NOW_MS, Installation, Worker

pytestmark = [pytest.mark.broker, pytest.mark.timeout(180)]
PASSED = Gate(True, "g-000001", (), {"text": Compared(500, 0.1, 0.2, 0.05, 0.15)}, 1_000, 100)
REFUSED = Gate(False, "g-000001", ("lists from text alone are not better for certain",), {}, 1_000, 100)


def publish(
    world: Installation, seed: int = 5, *, parent: str | None = None, gate: Gate | None = None, ranker: Ranker | None = None
) -> str:
    """A generation of the eight items i0 ... i7."""
    folder = world.folder / f"draft-{seed}-{time.monotonic_ns()}"
    tiny_bert.write_generation(folder, seed=seed)
    files = read_manifest(folder).files
    if ranker is not None:
        (folder / "ranker.msgpack").write_bytes(pack_ranker(ranker, {}))
        files = {**files, "ranker.msgpack": sha256_of(folder / "ranker.msgpack")}
    rewrite(folder, parent=parent, gate=gate, files=files)
    return Registry(world.settings.registry).publish(folder).id


def rewrite(folder: Path, **fields: object) -> None:
    """Change fields of a manifest."""
    manifest = msgspec.structs.replace(read_manifest(folder), **fields)
    (folder / NAME).write_bytes(encode_manifest(manifest))


def texts_as_items(world: Installation) -> None:
    """Send the items that these generations are of."""
    for n, text in enumerate(tiny_bert.texts(8)):
        world.put(world.names.items, f"i{n}", {"item_id": f"i{n}", "title": text})
    world.flush()


@pytest.fixture
def world(embedded: str, prefix: str, tmp_path: Path) -> Iterator[Installation]:
    """An installation without workers."""
    with Installation(embedded, prefix, tmp_path) as made:
        texts_as_items(made)
        yield made


def until_serving(worker: Worker, generation_id: str, seconds: float = 20.0) -> float:
    """Wait until a worker serves it; the seconds it took."""
    began = time.monotonic()
    while worker.metric("headwater_generation_info", generation=generation_id) != 1:
        assert time.monotonic() - began < seconds, worker.log()[-3_000:]
        time.sleep(0.02)
    return time.monotonic() - began


# -- what may be activated


def say(board: Board, generation_id: str | None, **options: object) -> Manifest:
    """Activate."""
    return board.activate(generation_id, by="test", reason="a test", at_ms=NOW_MS, **options)  # type: ignore[arg-type]


def test_what_may_serve(world: Installation) -> None:
    """Rule: the first may serve uncompared; from then on only what its gate let through, what served before, or what is forced."""
    board = Board(world.settings)
    assert board.read().active is None
    one, unknown = publish(world), publish(world)
    refused, better = publish(world, parent=one, gate=REFUSED), publish(world, parent=one, gate=PASSED)
    assert say(board, one).id == one
    for wanted, code in ((unknown, "not_compared"), (refused, "gate_not_passed")):
        with pytest.raises(ArtefactError) as caught:
            say(board, wanted)
        assert caught.value.code == code
        assert f"activate {wanted} --force" in caught.value.remedy
    assert say(board, better).id == better
    assert say(board, one).id == one, "it served before better did"
    say(board, refused, force=True)
    said = board.read()
    assert said.active is not None
    assert (said.active.id, said.active.forced, said.active.by, said.active.at) == (refused, True, "test", NOW_MS)
    assert said.manifests[refused].gate == REFUSED


def test_only_in_the_place_of_its_parent(world: Installation) -> None:
    """Rule: a trainer's candidate is not activated when another generation serves by now, or when a person has said to wait."""
    board = Board(world.settings)
    one = publish(world)
    two = publish(world, parent=one, gate=PASSED)
    three = publish(world, parent=one, gate=PASSED)
    say(board, one)
    say(board, two, expect=one)
    with pytest.raises(ArtefactError) as caught:
        say(board, three, expect=one)
    assert caught.value.code == "superseded"
    assert board.rollback(by="test", reason="worse", at_ms=NOW_MS, hold=True).id == one
    with pytest.raises(ArtefactError) as caught:
        say(board, three, expect=one)
    assert caught.value.code == "on_hold"
    say(board, three)
    say(board, one)
    assert say(board, two, expect=one).id == two, "activating by hand has ended the hold"


def test_nothing_to_go_back_to(world: Installation) -> None:
    """Rule: without an active generation, or without a parent, a rollback says so."""
    board = Board(world.settings)
    for found in ("nothing is active", "g-000001 has no parent"):
        with pytest.raises(ArtefactError) as caught:
            board.rollback(by="test", reason="", at_ms=NOW_MS, hold=True)
        assert (caught.value.code, caught.value.found) == ("no_parent", found)
        if board.read().active is None:
            say(board, publish(world))


def test_an_active_one_that_the_registry_has_lost(world: Installation) -> None:
    """Rule: where the active generation is gone from the registry, the next first one may serve, as if none were active."""
    board = Board(world.settings)
    say(board, publish(world))
    shutil.rmtree(world.folder / "registry")
    assert board.active() is None
    again = publish(world, seed=6)
    assert say(board, again).id == again


def test_prune(world: Installation) -> None:
    """Rule: the newest, the active one and its parent stay; the others go from registry and topic, and their ids are not used again."""
    board = Board(world.settings)
    with pytest.raises(ArtefactError) as caught:
        board.prune(1)
    assert caught.value.code == "nothing_active"
    one = publish(world)
    two = publish(world, parent=one, gate=PASSED)
    refused = publish(world, parent=two, gate=REFUSED)
    three = publish(world, parent=two, gate=PASSED)
    newest = publish(world, parent=three, gate=REFUSED)
    for manifest in map(board.registry.manifest, (one, two, refused, three, newest)):
        board.announce(manifest)
    say(board, one)
    say(board, three)
    assert board.prune(1, dry=True) == [one, refused]
    assert len(board.registry.ids()) == 5
    left = world.folder / "registry" / one
    (left / NAME).unlink()  # as a remover leaves it that died half-way, or a publisher
    assert board.prune(1) == [one, refused]
    assert not left.exists()
    assert board.registry.ids() == [two, three, newest]
    assert set(board.read().manifests) == {two, three, newest}
    assert not (world.folder / "registry" / one).exists()
    assert publish(world) == "g-000006"


def test_records_that_are_no_manifests(world: Installation) -> None:
    """Rule: what can't be read on the topic hides nothing else."""
    board = Board(world.settings)
    world.send(world.names.generations, "g-000007", b"{")
    world.send(world.names.generations, "active", b"[]")
    one = publish(world)
    say(board, one)
    said = board.read()
    assert said.active is not None
    assert (said.active.id, list(said.manifests)) == (one, [one])


# -- what workers do


def test_swap_and_rollback(world: Installation) -> None:
    """Rule: a worker switches while it serves, each list names one generation, the weights are the generation's own, and a rollback brings
    back the parent with what had been learned with it, within five seconds.
    """
    board = Board(world.settings)
    weights = Ranker()
    weights.common[:] = 0.0
    weights.common[list(PRIOR).index("popular")] = 1.0
    weights.version = 77
    one = publish(world, seed=5)
    two = publish(world, seed=6, parent=one, gate=PASSED, ranker=weights)
    say(board, one)
    worker = world.start()
    world.event("e1", "anna", "i1")
    assert world.list_after("e1", user="anna")["generation"] == one
    say(board, two)
    until_serving(worker, two)
    assert worker.metric("headwater_generation_swap_seconds") > 0
    world.event("e2", "anna", "i2")
    made = world.list_after("e2", user="anna")
    assert made["generation"] == two
    learned = {"kinds": {reason["kind"] for item in made["items"] for reason in item["reasons"]}}
    assert "similar_text" not in learned["kinds"], "the weights that came with it give text no weight"
    board.rollback(by="test", reason="", at_ms=NOW_MS, hold=True)
    assert until_serving(worker, one) < 5
    world.event("e3", "anna", "i3")
    made = world.list_after("e3", user="anna")
    assert made["generation"] == one
    assert any(reason["kind"] == "similar_text" for item in made["items"] for reason in item["reasons"])
    assert not any(record.value is None for record in world.tail(world.names.dead_letters).to_end())
    worker.stop()


def wrong_sum(folder: Path) -> None:
    """One bit of the vectors is another."""
    data = bytearray((folder / VECTORS).read_bytes())
    data[-1] ^= 1
    (folder / VECTORS).write_bytes(data)


def swapped_pooling(folder: Path) -> None:
    """The manifest names another pooling than the vectors were made with."""
    resum(folder, pooling="cls")


def wrong_vocabulary(folder: Path) -> None:
    """The tokenizer numbers the words in another order."""
    document = json.loads((folder / TOKENIZER).read_text())
    words = document["model"]["vocab"]
    kept = [word for word in words if word.startswith("[")]
    rest = [word for word in words if not word.startswith("[")]
    document["model"]["vocab"] = {word: n for n, word in enumerate(kept + rest[::-1])}
    (folder / TOKENIZER).write_text(json.dumps(document))
    resum(folder)


def truncated_vectors(folder: Path) -> None:
    """Half of the vectors are missing."""
    np.save(folder / VECTORS, np.load(folder / VECTORS)[:4])
    resum(folder)


def random_vectors(folder: Path) -> None:
    """The vectors are no encoder's."""
    rows = np.random.default_rng(1).normal(size=(8, tiny_bert.DIMS))
    np.save(folder / VECTORS, (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float16))
    resum(folder)


def not_finite(folder: Path) -> None:
    """One vector, not among the probes, is not a number."""
    vectors = np.load(folder / VECTORS)
    vectors[7] = np.nan
    np.save(folder / VECTORS, vectors)
    resum(folder)


def other_items(folder: Path) -> None:
    """Two rows have the same item."""
    rows = json.loads((folder / ITEMS).read_text())
    rows[1][0] = rows[0][0]
    (folder / ITEMS).write_text(json.dumps(rows))
    resum(folder)


def gate_refused(folder: Path) -> None:
    """All is in order, but the gate has found it worse: random weights, say."""
    rewrite(folder, gate=REFUSED)


def damaged_weights(folder: Path) -> None:
    """The ranker's weights are no weights."""
    (folder / "ranker.msgpack").write_bytes(b"\x93nothing")
    rewrite(folder, files={**read_manifest(folder).files, "ranker.msgpack": sha256_of(folder / "ranker.msgpack")})


def resum(folder: Path, **fields: object) -> None:
    """Make the sums those of the files as they are now: only what they hold is wrong."""
    manifest = read_manifest(folder)
    rewrite(folder, files={name: sha256_of(folder / name) for name in manifest.files}, **fields)


BAD: dict[str, tuple[Callable[[Path], None], str]] = {
    "wrong sum": (wrong_sum, "sha256_mismatch"),
    "swapped pooling": (swapped_pooling, "parity_lost"),
    "wrong vocabulary": (wrong_vocabulary, "parity_lost"),
    "truncated vectors": (truncated_vectors, "bad_vectors"),
    "random vectors": (random_vectors, "parity_lost"),
    "not finite": (not_finite, "vectors_not_finite"),
    "other items": (other_items, "bad_items"),
    "refused by its gate": (gate_refused, "gate_not_passed"),
    "damaged weights": (damaged_weights, "bad_ranker"),
}


def test_bad_generations_are_refused(world: Installation) -> None:
    """Rule: each kind of bad generation, announced as active past all checks, is refused by the worker with its reason; the good one serves
    on, and what is announced after it is served.
    """
    board, folder = Board(world.settings), world.folder / "registry"
    good = publish(world)
    say(board, good)
    worker = world.start()
    for count, (name, (spoil, code)) in enumerate(BAD.items(), 1):
        bad = publish(world, seed=6, parent=good, gate=PASSED)
        spoil(folder / bad)
        world.send(world.names.generations, "active", {"id": bad, "share": 1.0, "by": "test", "at": NOW_MS, "reason": name})
        until = time.monotonic() + 20
        while worker.metric("headwater_generations_refused_total") < count:
            assert time.monotonic() < until, f"{name} was not refused\n{worker.log()[-3_000:]}"
            time.sleep(0.05)
        refused = [line for line in worker.log().splitlines() if "generation_refused" in line and bad in line]
        assert len(refused) == 1, name
        assert code in refused[0], f"{name}: {refused[0]}"
        world.event(f"e{count}", "anna", f"i{count % 8}")
        assert world.list_after(f"e{count}", user="anna")["generation"] == good
    better = publish(world, seed=7, parent=good, gate=PASSED)
    say(board, better)
    until_serving(worker, better)
    worker.stop()


def test_a_generation_of_another_registry(world: Installation) -> None:
    """Rule: a generation of the same id in another registry is not served in the place of the one that was activated."""
    one = publish(world)
    say(Board(world.settings), one)
    worker = world.start()
    until_serving(worker, one)
    elsewhere = Board(world.settings.model_copy(update={"registry": str(world.folder / "elsewhere")}))
    draft = tiny_bert.write_generation(world.folder / "other-draft", seed=6)
    assert elsewhere.registry.publish(draft).id == one
    assert elsewhere.active() is None, "what serves is not in this registry"
    say(elsewhere, one)
    until = time.monotonic() + 20
    while "other_registry" not in worker.log():
        assert time.monotonic() < until, worker.log()[-3_000:]
        time.sleep(0.05)
    worker.stop()


def test_a_persons_word_counts(world: Installation, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rule: a rollback that comes between a trainer's last look and its record stands in the end, hold included."""
    board = Board(world.settings)
    one = publish(world)
    two, three = publish(world, parent=one, gate=PASSED), publish(world, parent=one, gate=PASSED)
    say(board, one)
    say(board, two)
    trainer = Board(world.settings)
    publish_records = trainer._publish  # noqa: SLF001 - the moment between look and record

    def late(records: Sequence[tuple[bytes, bytes | None]]) -> None:
        monkeypatch.setattr(trainer, "_publish", publish_records)
        board.rollback(by="a person", reason="it is worse", at_ms=NOW_MS, hold=True)
        publish_records(records)

    monkeypatch.setattr(trainer, "_publish", late)
    with pytest.raises(ArtefactError) as caught:
        say(trainer, three, expect=two)
    assert caught.value.code == "superseded"
    active = board.active()
    assert active is not None
    assert (active.id, active.hold, active.by) == (one, True, "a person")
    world.put(world.names.generations, "active", None)
    world.flush()
    assert board.active() is None, "said by somebody who knows what a null means"


def test_a_registry_folder_that_is_not_mounted(world: Installation, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rule: a folder that is away looks like an empty registry, and is asked again too."""
    monkeypatch.setattr("tests.worker_process.START_S", 90.0)
    board, folder = Board(world.settings), world.folder / "registry"
    one, two = publish(world), publish(world, seed=6, gate=PASSED)
    say(board, one)
    worker = world.start()
    folder.rename(folder.with_name("away"))
    world.send(world.names.generations, "active", {"id": two, "share": 1.0, "by": "test", "at": NOW_MS, "reason": ""})
    until = time.monotonic() + 20
    while "generation_not_fetched" not in worker.log():
        assert time.monotonic() < until, worker.log()[-3_000:]
        time.sleep(0.1)
    folder.with_name("away").rename(folder)
    until_serving(worker, two)
    worker.stop()


def test_a_registry_that_is_away_is_asked_again(world: Installation, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rule: a generation that can't be fetched now is not refused for good: it serves once the registry answers."""
    monkeypatch.setattr("tests.worker_process.START_S", 90.0)
    board, folder = Board(world.settings), world.folder / "registry"
    one, two = publish(world), publish(world, seed=6, gate=PASSED)
    say(board, one)
    worker = world.start()
    say_two = {"id": two, "share": 1.0, "by": "test", "at": NOW_MS, "reason": ""}
    manifest = folder / two / NAME
    manifest.chmod(0)
    hidden = manifest.with_name("hidden")
    manifest.rename(hidden)
    manifest.mkdir()  # reading it is an error of the store, not a missing generation
    world.send(world.names.generations, "active", say_two)
    until = time.monotonic() + 20
    while "generation_not_fetched" not in worker.log():
        assert time.monotonic() < until, worker.log()[-3_000:]
        time.sleep(0.1)
    manifest.rmdir()
    hidden.rename(manifest)
    manifest.chmod(0o644)
    until_serving(worker, two)
    worker.stop()


@pytest.mark.parametrize("line", ["generation_announced", "generation_proven", "generation_prepared"])
def test_killed_during_a_swap(world: Installation, line: str) -> None:
    """Rule: a worker killed at any step of a swap serves the new generation when it comes back, and has lost no event."""
    board = Board(world.settings)
    one = publish(world)
    two = publish(world, seed=6, parent=one, gate=PASSED)
    say(board, one)
    worker = world.start()
    for n in range(20):
        world.event(f"a{n}", f"u{n}", f"i{n % 8}")
    world.list_after("a19", user="u19")
    say(board, two)
    until = time.monotonic() + 20
    while f"{line} " not in worker.log() or f"generation={two}" not in worker.log():
        assert time.monotonic() < until
    worker.kill()
    for n in range(20):
        world.event(f"b{n}", f"u{n}", f"i{(n + 1) % 8}")
    worker = world.start()
    assert world.list_after("b19", user="u19", seconds=60)["generation"] == two
    world.settled()
    assert {user: row.events for user, row in world.users().items()} == {f"u{n}": 2 for n in range(20)}
    worker.stop()
