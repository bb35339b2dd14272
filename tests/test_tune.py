"""Fine-tuning: it learns what users take together, changes only what it may, and gives what serving computes. No verdict on it."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest

from engine.encoder import CPU, Encoder, open_tokenizer
from engine.errors import ArtefactError
from engine.manifest import TOKENIZER, Variant
from engine.space import Floats
from engine.text import item_text
from engine.user import DEFAULT_WEIGHTS
from export.archive import pack, unpack
from export.checkpoint import read_checkpoint
from export.feed import Recorded
from export.onnx import export_fp32
from export.slice import Collector, windows
from export.tune import Tuned, Tuning, tune
from tests import tiny_bert
from tests.training_shop import FAMILIES, SIZE, shop

HOW = Tuning(layers=1, epochs=4, rate=2e-3, most_tokens=24, threads=1)
DATA = shop(2_000)
TEXTS = [item_text(item) for item in DATA.items]


def tuned(tmp_path: Path, how: Tuning, pooling: str = "mean_tokens", name: str = "out") -> tuple[Tuned, Path]:
    """A tiny checkpoint tuned on the shop."""
    folder = tmp_path / "checkpoint"
    if not folder.exists():
        tiny_bert.write_checkpoint(folder, pooling)
    into = Collector(DEFAULT_WEIGHTS, DATA.index)
    feed = Recorded(DATA)
    feed.read(feed.span([], "", 10_000), into, lambda *_: None)
    events, _ = into.finish(10_000)
    counts = np.bincount(events.items, minlength=len(TEXTS))
    done = tune(read_checkpoint(folder), TEXTS, windows(events, 8, 500, 0), counts, how, tmp_path / name, lambda *_: None)
    return done, tmp_path / name


def vectors(folder: Path, tmp_path: Path) -> Floats:
    """What serving makes of the texts: through ONNX and numpy."""
    checkpoint = read_checkpoint(folder)
    graph = export_fp32(checkpoint, tmp_path / f"graph-{folder.name}")
    tokenizer = open_tokenizer(graph.parent / TOKENIZER, 24)
    encoder = Encoder.start(graph, tokenizer, Variant(), pooling=checkpoint.pooling, dims=checkpoint.dims, providers=[CPU])
    return encoder.embed(TEXTS)


def together(rows: Floats) -> float:
    """How much nearer items of a family are to each other than to others: mean cosine within, less that across."""
    rows = rows - rows.mean(axis=0)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    near = rows @ rows.T
    family = np.repeat(np.arange(FAMILIES), SIZE)
    same = (family[:, None] == family) & ~np.eye(len(rows), dtype=bool)
    return float(near[same].mean() - near[family[:, None] != family].mean())


@pytest.mark.parametrize(
    "method, pooling", [("layers", "mean_tokens"), ("layers", "cls_token"), ("layers", "max_tokens"), ("lora", "mean_tokens")]
)
def test_texts_of_a_family_come_together(tmp_path: Path, method: str, pooling: str) -> None:
    """Rule: whatever learns and however is pooled, the loss falls, and what serves knows of families that share no word."""
    how = Tuning(method=method, layers=1, epochs=6, rate=2e-3 if method == "layers" else 1e-2, most_tokens=24, threads=1)  # type: ignore[arg-type]
    done, folder = tuned(tmp_path, how, pooling)
    assert done.losses[-1] < done.losses[0]
    assert read_checkpoint(folder).pooling == pooling.partition("_")[0]
    before, after = together(vectors(tmp_path / "checkpoint", tmp_path)), together(vectors(folder, tmp_path))
    assert after > before + 0.05, (before, after)


def test_only_the_last_layers_change(tmp_path: Path) -> None:
    """Rule: with one layer of two, embeddings and the first layer are the same to the last bit."""
    from safetensors.numpy import load_file

    _, folder = tuned(tmp_path, HOW)
    old, new = (load_file(one / "model.safetensors") for one in (tmp_path / "checkpoint", folder))
    changed = {name for name in old if not np.array_equal(old[name], new[name])}
    assert changed
    assert all(name.startswith("encoder.layer.1.") for name in changed), changed


def test_the_same_again(tmp_path: Path) -> None:
    """Rule: the same events give the same weights on the same machine, and another seed others."""
    sums = []
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        how = Tuning(layers=1, epochs=1, rate=1e-3, most_tokens=24, threads=1, seed=seed)
        _, folder = tuned(tmp_path, how, name=name)
        sums.append(hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest())
    assert sums[0] == sums[1] != sums[2]


def test_without_its_file_of_frozen_layers_it_learns_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rule: a catalogue too large for the file is tuned too; half precision of the file aside, to the same weights."""
    from safetensors.numpy import load_file

    _, kept = tuned(tmp_path, HOW, name="kept")
    monkeypatch.setattr("export.tune.CACHE_BYTES", 10)
    _, again = tuned(tmp_path, HOW, name="again")
    for one, other in zip(load_file(kept / "model.safetensors").values(), load_file(again / "model.safetensors").values(), strict=True):
        np.testing.assert_allclose(one, other, atol=0.05)
    assert not (tmp_path / "frozen.f16").exists()


def test_a_rate_that_breaks_it_is_said(tmp_path: Path) -> None:
    """Rule: a loss that is not finite ends the cycle with what to do; no checkpoint is left."""
    with pytest.raises(ArtefactError) as caught:
        tuned(tmp_path, Tuning(layers=1, epochs=50, rate=1e18, most_tokens=24, threads=1))
    assert caught.value.code == "not_converging"
    assert not (tmp_path / "out").exists()


def test_a_kind_that_cannot_be_tuned(tmp_path: Path) -> None:
    """Rule: a checkpoint of another architecture is refused by name before anything is loaded."""
    folder = tiny_bert.write_checkpoint(tmp_path / "checkpoint")
    config = folder / "config.json"
    config.write_text(config.read_text().replace('"bert"', '"mpnet"'))
    with pytest.raises(ArtefactError) as caught:
        tuned(tmp_path, HOW)
    assert caught.value.code == "not_tunable"


def test_a_packed_checkpoint_is_the_same(tmp_path: Path) -> None:
    """Rule: what a generation keeps for training reads back as it was, pooling and limits included, and packs to the same bytes."""
    checkpoint = read_checkpoint(tiny_bert.write_checkpoint(tmp_path / "tiny", "cls_token"))
    for name in ("one.tar", "two.tar"):
        pack(checkpoint, tmp_path / name)
    assert (tmp_path / "one.tar").read_bytes() == (tmp_path / "two.tar").read_bytes()
    again = read_checkpoint(unpack(tmp_path / "one.tar", tmp_path / "again"))
    assert (again.pooling, again.dims, again.max_tokens) == (checkpoint.pooling, checkpoint.dims, checkpoint.max_tokens)
    assert again.describe()["weights_sha256"] == checkpoint.describe()["weights_sha256"]


def test_a_pack_that_would_write_elsewhere(tmp_path: Path) -> None:
    """Rule: a tar with a path outside its folder is refused, and nothing is written there."""
    import io
    import tarfile

    with tarfile.open(tmp_path / "bad.tar", "w") as tar:
        info = tarfile.TarInfo("../outside")
        info.size = 1
        tar.addfile(info, io.BytesIO(b"x"))
    with pytest.raises(ArtefactError):
        unpack(tmp_path / "bad.tar", tmp_path / "inside")
    assert not (tmp_path / "outside").exists()
