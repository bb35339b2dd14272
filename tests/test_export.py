"""Export: from a checkpoint and items to a generation that was proven by ranking. The real torch and Optimum, on a tiny BERT."""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from engine.encoder import CPU, Encoder, open_tokenizer
from engine.errors import ArtefactError, BadSettings, DatasetError
from engine.generation import Generation
from engine.manifest import TOKENIZER, Variant
from engine.pooling import Pooling, unit
from engine.records import Item
from engine.registry import Registry
from engine.text import item_text, text_hash
from export.build import build, encode_catalogue, probe_rows
from export.checkpoint import read_checkpoint
from export.cli import export_command, read_catalogue
from export.fidelity import FEWEST, choose, compare, judge, sample_of
from export.onnx import export_fp32
from export.quantize import Preset, cpu_flags, presets, quantize
from tests import tiny_bert

for needed in ("torch", "transformers", "optimum.exporters.onnx", "onnx"):
    pytest.importorskip(needed, reason="wants the export extra")

FULL = Preset("int8-full-per-channel", ("MatMul", "Gather"), per_channel=True, reduce_range=False)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny checkpoint with mean pooling."""
    return tiny_bert.write_checkpoint(tmp_path_factory.mktemp("export") / "tiny-bert")


def catalogue(count: int) -> list[Item]:
    """Items whose titles are the tiny vocabulary's words."""
    return [Item(f"i{n}", text) for n, text in enumerate(tiny_bert.texts(count))]


@pytest.fixture(scope="module")
def exported(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Generation, list[Item]]:
    """A generation of 80 items for which one quantized form was tried."""
    items = catalogue(80)
    registry = Registry(str(tmp_path_factory.mktemp("export") / "registry"))
    told: list[tuple[str, int, int]] = []
    built = build(
        checkpoint,
        items,
        registry,
        tried=(FULL,),
        offsets={"items": [5, 7]},
        parent="g-000000",
        now_ms=lambda: 1_732_200_000_000,
        watch=lambda *args: told.append(args),
    )
    assert {stage for stage, _, _ in told} == {"export to ONNX", "quantize", "compare with fp32", "encode the catalogue", "publish"}
    assert all(0 <= done <= total for _, done, total in told)
    return Generation.open(registry.fetch(built.manifest.id)), items


def test_the_manifest_says_what_was_made(exported: tuple[Generation, list[Item]]) -> None:
    """Pooling, width, budget, sums, variants with their figures, offsets and the parent stand in the manifest."""
    manifest = exported[0].manifest
    assert (manifest.id, manifest.parent, manifest.created_at) == ("g-000001", "g-000000", 1_732_200_000_000)
    assert (manifest.pooling, manifest.dims, manifest.max_tokens, manifest.items) == ("mean", tiny_bert.DIMS, 48, 80)
    assert manifest.offsets == {"items": [5, 7]}
    assert manifest.encoder["model_type"] == "bert"
    assert len(manifest.encoder["weights_sha256"]) == 64
    assert set(manifest.variants) == {"fp32", FULL.name}
    assert all(v.texts_per_s > 0 and v.bytes > 0 for v in manifest.variants.values())
    assert 0 < manifest.variants[FULL.name].overlap <= 1
    assert manifest.variants["fp32"].file == "model-fp32.onnx"
    assert manifest.verdict


def test_vectors_are_those_of_the_items(exported: tuple[Generation, list[Item]]) -> None:
    """Each row is what the served encoder gives for the item's text, up to fp16; centred: the rows' mean is near zero."""
    generation, items = exported
    assert generation.item_ids == tuple(i.item_id for i in items)
    assert generation.text_hashes == tuple(text_hash(item_text(i)) for i in items)
    live = generation.encoder(providers=[CPU]).encode([item_text(i, generation.template) for i in items])
    np.testing.assert_allclose(generation.vectors.astype(np.float32), live, atol=1e-3)
    assert abs(generation.vectors.astype(np.float32).mean(axis=0)).max() < 0.1
    assert generation.verify_parity(generation.encoder(providers=[CPU])) > 0.999


def test_the_graph_is_torch_s_equal(exported: tuple[Generation, list[Item]], checkpoint: Path) -> None:
    """The fp32 graph through ONNX Runtime and our pooling gives what torch gives with the same pooling."""
    import torch
    from transformers import AutoModel

    generation, items = exported
    encoder = generation.encoder(providers=[CPU], variant="fp32")
    texts = [item_text(i) for i in items[:6]]
    model = AutoModel.from_pretrained(str(checkpoint), local_files_only=True).eval()
    with torch.no_grad():
        rows = [model(torch.tensor([ids])).last_hidden_state[0].mean(0).numpy() for ids in encoder.tokens(texts)]
    np.testing.assert_allclose(encoder.embed(texts), unit(np.array(rows)), atol=1e-4)


@pytest.mark.parametrize(
    "named, expected",
    [("mean_tokens", "mean"), ("cls_token", "cls"), ("max_tokens", "max"), ("mean_sqrt_len_tokens", "mean"), (None, "mean")],
)
def test_pooling_is_read_from_the_files(tmp_path: Path, named: str | None, expected: Pooling) -> None:
    """1_Pooling/config.json names the pooling; without it the mean is taken."""
    checkpoint = tiny_bert.write_checkpoint(tmp_path / "tiny", named, dims=16)
    found = read_checkpoint(checkpoint)
    assert (found.pooling, found.dims, found.layers, found.max_tokens) == (expected, 16, 2, 48)


def test_another_width_and_pooling_are_served(tmp_path: Path) -> None:
    """A checkpoint of another width and pooling goes all the way: nothing about MiniLM is assumed."""
    checkpoint = tiny_bert.write_checkpoint(tmp_path / "tiny", "cls_token", dims=16)
    registry = Registry(str(tmp_path / "registry"))
    built = build(checkpoint, catalogue(5), registry, max_tokens=8, tried=())
    opened = Generation.open(registry.fetch(built.manifest.id))
    assert (opened.manifest.dims, opened.manifest.pooling, opened.manifest.max_tokens) == (16, "cls", 8)
    assert opened.vectors.shape == (5, 16)


def test_a_checkpoint_in_modules_is_found(checkpoint: Path, tmp_path: Path) -> None:
    """modules.json may put the transformer and its pooling into folders of their own; a layer we lack is refused."""
    (tmp_path / "0_Transformer").symlink_to(checkpoint)
    (tmp_path / "1_Pool").mkdir()
    (tmp_path / "1_Pool" / "config.json").write_text(json.dumps({"pooling_mode": "cls"}))
    modules = [
        {"type": f"sentence_transformers.models.{kind}", "path": path}
        for kind, path in (("Transformer", "0_Transformer"), ("Pooling", "1_Pool"), ("Normalize", "2_Normalize"))
    ]
    (tmp_path / "modules.json").write_text(json.dumps(modules))
    assert read_checkpoint(tmp_path).pooling == "cls"
    modules.append({"type": "sentence_transformers.models.Dense", "path": "3_Dense"})
    (tmp_path / "modules.json").write_text(json.dumps(modules))
    with pytest.raises(ArtefactError, match="Dense"):
        read_checkpoint(tmp_path)


@pytest.mark.parametrize("gone", ["config.json", "model.safetensors", "tokenizer.json"])
def test_an_incomplete_checkpoint_is_refused(tmp_path: Path, gone: str) -> None:
    """A folder without configuration, weights or tokenizer is named with what is missing, before torch is asked."""
    checkpoint = tiny_bert.write_checkpoint(tmp_path / "tiny")
    (checkpoint / gone).unlink()
    with pytest.raises(ArtefactError, match="bad_checkpoint"):
        read_checkpoint(checkpoint)


@pytest.mark.parametrize(
    "settings_", [{"pooling_mode_weightedmean_tokens": True}, {"pooling_mode_cls_token": True, "pooling_mode_max_tokens": True}]
)
def test_a_pooling_we_lack_is_refused(tmp_path: Path, settings_: dict[str, Any]) -> None:
    """A pooling that is unknown, or several at once, never becomes the mean in silence."""
    checkpoint = tiny_bert.write_checkpoint(tmp_path / "tiny")
    (checkpoint / "1_Pooling" / "config.json").write_text(json.dumps(settings_))
    with pytest.raises(ArtefactError, match="one of mean, cls and max"):
        read_checkpoint(checkpoint)


def test_weights_that_torch_cannot_read_are_an_error(tmp_path: Path) -> None:
    """Damaged weights end in one ArtefactError, and nothing is published."""
    checkpoint = tiny_bert.write_checkpoint(tmp_path / "tiny")
    (checkpoint / "model.safetensors").write_bytes(b"damaged")
    registry = Registry(str(tmp_path / "registry"))
    with pytest.raises(ArtefactError, match="export_failed"):
        build(checkpoint, catalogue(3), registry, tried=())
    assert registry.ids() == []


@pytest.mark.parametrize("count", [0, 1, 2, FEWEST - 1])
def test_a_small_catalogue_is_served_in_fp32(checkpoint: Path, tmp_path: Path, count: int) -> None:
    """What too few items cannot prove is not served; empty catalogues and single items are no error."""
    registry = Registry(str(tmp_path / "registry"))
    manifest = build(checkpoint, catalogue(count), registry, tried=(FULL,)).manifest
    assert manifest.serving == "fp32"
    assert "not proven" in manifest.variants[FULL.name].note
    assert manifest.metrics["fidelity"]["verdict"].endswith(f"(not proven: {count} different texts to compare on, {FEWEST} needed)")
    opened = Generation.open(registry.fetch(manifest.id))
    assert opened.vectors.shape == (count, tiny_bert.DIMS)
    assert np.isfinite(opened.vectors).all()
    opened.verify_parity(opened.encoder(providers=[CPU]))


def test_the_gate_can_refuse_and_accept(checkpoint: Path, tmp_path: Path) -> None:
    """A form below the asked overlap is measured and not kept; fp32 is always kept as the parent."""
    registry = Registry(str(tmp_path / "registry"))
    refused = build(checkpoint, catalogue(80), registry, tried=(FULL,), least=1.01).manifest
    assert refused.serving == "fp32"
    assert refused.variants[FULL.name].file == ""
    assert "keeps less than" in refused.variants[FULL.name].note
    assert [n for n in refused.files if n.endswith(".onnx")] == ["model-fp32.onnx"]
    asked = {"fp32": Variant(texts_per_s=1.0), "near": Variant(precision="int8", overlap=0.9, texts_per_s=2.0)}
    assert (choose(asked), choose(asked, 0.9)) == ("fp32", "near")


def test_an_item_that_comes_twice_counts_once(checkpoint: Path, tmp_path: Path) -> None:
    """Of two items with one id the last one's text is encoded."""
    registry = Registry(str(tmp_path / "registry"))
    items = [Item("a", "kaba"), Item("b", "lodo"), Item("a", "mife")]
    opened = Generation.open(registry.fetch(build(checkpoint, items, registry, tried=()).manifest.id))
    assert opened.item_ids == ("a", "b")
    assert opened.text_hashes[0] == text_hash("mife")


def test_presets_follow_the_cpu() -> None:
    """Without VNNI on x64 the weights keep 7 bits; with it, and on ARM, 8."""
    for flags, machine, narrow in [
        ({"avx2"}, "x86_64", True),
        (set(), "AMD64", True),
        ({"avx512_vnni"}, "x86_64", False),
        ({"avx_vnni"}, "x86_64", False),
        ({"asimddp"}, "aarch64", False),
    ]:
        assert {p.reduce_range for p in presets(flags, machine)} == {narrow}
    assert all(p.variant(1).batching == ("equal_length" if p.rowwise else "single") for p in presets({"avx2"}))


@pytest.mark.parametrize("reduce_range", [False, True])
def test_rowwise_int8_is_near_and_independent(checkpoint: Path, tmp_path: Path, reduce_range: bool) -> None:
    """A row-wise int8 form is near fp32, and a text's vector is bit for bit the same alone and beside texts with other ranges.

    Weights of 8 bits are near only where products don't saturate; elsewhere the comparison shows that they do.
    """
    graph = export_fp32(read_checkpoint(checkpoint), tmp_path)
    tokenizer = open_tokenizer(tmp_path / TOKENIZER, 24)
    texts = tiny_bert.texts(200)
    preset = Preset("rowwise", ("MatMul",), per_channel=True, reduce_range=reduce_range, rowwise=True)
    path = quantize(graph, preset, tmp_path, [tokenizer.encode(t).ids for t in texts[:16]])
    fp32, int8 = (
        Encoder.start(p, tokenizer, v, pooling="mean", dims=tiny_bert.DIMS, providers=[CPU])
        for p, v in ((graph, Variant()), (path, preset.variant(1)))
    )
    together = int8.embed(texts)
    np.testing.assert_array_equal(together, np.concatenate([int8.embed([t]) for t in texts]))
    proof = compare(fp32.embed(texts), together)
    assert not np.array_equal(fp32.embed(texts), together)
    least = 0.97 if reduce_range else 0.99
    saturates = not reduce_range and presets(cpu_flags())[0].reduce_range
    assert (proof.min_cosine < least) if saturates else (proof.min_cosine > least)
    import onnx

    kinds = [node.op_type for node in onnx.load(str(path)).graph.node]
    assert kinds.count("MatMulIntegerToFloat") == 2 * 5  # of two layers: query, key, value, output, and the widening half of the network


def test_known_rows_are_not_made_again(exported: tuple[Generation, list[Item]]) -> None:
    """Rows from the comparison are used as they are; the rest is encoded, and all stand in the order of the texts."""
    encoder = exported[0].encoder(providers=[CPU])
    texts = ["kaba", "lodo", "mife", "kaba"]
    expected, centre = encode_catalogue(encoder, texts)
    known = dict(zip(texts[1:3], encoder.embed(texts[1:3]), strict=True))
    rows, again = encode_catalogue(encoder, texts, known=known)
    np.testing.assert_array_equal(rows, expected)
    assert centre is not None
    assert again is not None
    np.testing.assert_array_equal(again, centre)


def test_cpu_flags_of_a_machine_that_tells_nothing(tmp_path: Path) -> None:
    """A missing or strange cpuinfo gives no flags, which is the careful choice."""
    assert cpu_flags(tmp_path / "none") == frozenset()
    (tmp_path / "cpuinfo").write_text("processor : 0\nflags\t\t: fpu avx512_vnni\n")
    assert cpu_flags(tmp_path / "cpuinfo") == {"fpu", "avx512_vnni"}


@given(st.integers(2, 30), st.integers(0, 99))
def test_equal_vectors_keep_every_neighbour(count: int, seed: int) -> None:
    """Overlap and cosines of vectors with themselves are 1, and all are within 0 and 1 against others."""
    draw = np.random.default_rng(seed)
    a, b = (unit(draw.normal(size=(count, 8))) for _ in range(2))
    same = compare(a, a)
    assert (same.overlap, same.texts) == (1.0, count)
    assert same.min_cosine == pytest.approx(1.0, abs=1e-4)
    assert 0 <= compare(a, b).overlap <= 1


def test_overlap_counts_neighbours() -> None:
    """Two rows of six swap places: the share of kept neighbours is counted by hand."""
    line = np.array([[np.cos(x), np.sin(x)] for x in (0.0, 0.1, 0.2, 3.0, 3.1, 3.2)], np.float32)
    moved = line[[3, 1, 2, 0, 4, 5]]
    # Nearest two of each: {1,2} {0,2} {0,1} {4,5} {3,5} {3,4} before; rows 0 and 3 changed sides.
    assert compare(line, moved, top=2).overlap == round((0 + 1 + 1 + 0 + 1 + 1) / 12, 4)


@given(st.dictionaries(st.sampled_from("abc"), st.tuples(st.floats(0, 1), st.floats(0.1, 1e3), st.booleans())), st.floats(0.1, 1e3))
def test_the_chosen_variant_was_proven(others: dict[str, tuple[float, float, bool]], base: float) -> None:
    """What is chosen is fp32, or kept enough, has no objection, and is faster than fp32."""
    variants = {"fp32": Variant(texts_per_s=base)}
    for name, (overlap, speed, objection) in others.items():
        variants[name] = Variant(precision="int8", overlap=overlap, texts_per_s=speed, note="objection" if objection else "")
    name = choose(variants)
    if name != "fp32":
        chosen = variants[name]
        assert chosen.overlap >= 0.97
        assert not chosen.note
        assert chosen.texts_per_s > base


def test_a_failed_variant_gets_no_second_look(tmp_path: Path) -> None:
    """Who fails on the first texts costs no more: progress shows fewer texts, and the figures name how many were compared."""
    tiny_bert.write_tokenizer(tmp_path / TOKENIZER)
    tokenizer = open_tokenizer(tmp_path / TOKENIZER, 24)
    encoders: list[Encoder] = []
    for seed in (1, 2, 1):
        tiny_bert.write_graph(tmp_path / f"{len(encoders)}.onnx", seed=seed)
        path = tmp_path / f"{len(encoders)}.onnx"
        encoders.append(Encoder.start(path, tokenizer, Variant(), pooling="mean", dims=tiny_bert.DIMS, providers=[CPU]))
    told: list[tuple[int, int]] = []
    judged = judge(
        encoders[0],
        {"other": encoders[1], "same": encoders[2]},
        tiny_bert.texts(400),
        progress=lambda done, total: told.append((done, total)),
    )
    found = judged.variants
    assert (found["other"].compared, found["same"].compared) == (256, 400)
    assert found["other"].note
    assert not found["same"].note
    assert found["same"].overlap == 1.0
    assert told[-1] == (256 * 3 + 144 * 2, 256 * 3 + 144 * 2)
    assert judged.about["compared"] == 400
    assert len(judged.rows["fp32"]) == 400


@given(st.lists(st.text(max_size=3), max_size=30), st.integers(0, 10))
def test_samples_are_different_texts(texts: list[str], most: int) -> None:
    """A sample holds different, non-empty texts of the catalogue, and is the same each time."""
    sample = sample_of(texts, most)
    assert len(sample) == len(set(sample)) <= most
    assert set(sample) <= set(texts) - {""}
    assert sample == sample_of(texts, most)


@settings(max_examples=30)
@given(st.lists(st.text(max_size=20), max_size=50))
def test_probes_are_different_rows_with_the_longest(texts: list[str]) -> None:
    """Probes are different rows, as many as wanted or as there are, and the longest text is one."""
    rows = probe_rows(texts, 8)
    assert len(rows) == len(set(rows)) == min(8, len(texts))
    if texts:
        assert max(map(len, texts)) in {len(texts[r]) for r in rows}


def test_equal_texts_are_encoded_once(exported: tuple[Generation, list[Item]]) -> None:
    """Items with the same text cost one encoding and have the same vector."""
    told: list[int] = []
    rows, _ = encode_catalogue(
        exported[0].encoder(providers=[CPU]), ["kaba", "lodo", "kaba"], lambda _stage, done, _total: told.append(done)
    )
    assert max(told) == 2
    np.testing.assert_array_equal(rows[0], rows[2])


def test_the_command_publishes(checkpoint: Path, tmp_path: Path) -> None:
    """`headwater export CHECKPOINT --catalogue FILE --registry URL` prints the id alone on stdout; lines of no use are named."""
    lines = [msgspec.json.encode(item) for item in catalogue(6)]
    (tmp_path / "items.jsonl").write_bytes(b"\n".join([*lines, b"{broken", b"", b'{"item_id": "x"}']))
    arguments = [str(checkpoint), "--catalogue", str(tmp_path / "items.jsonl"), "--registry", str(tmp_path / "registry"), "--threads", "1"]
    done = CliRunner().invoke(export_command, [*arguments, "--precision", "fp32"])
    assert done.exit_code == 0, done.output
    assert done.stdout.strip() == "g-000001"
    assert "2 of 8 lines left out" in done.stderr
    opened = Generation.open(tmp_path / "registry" / "g-000001")
    assert opened.manifest.items == 6


def test_what_was_not_compared_shows_no_figures(checkpoint: Path, tmp_path: Path) -> None:
    """Where texts are too few to compare forms of the encoder, the table has dashes and no zeros, and the line above it says why."""
    (tmp_path / "items.jsonl").write_bytes(b"\n".join(msgspec.json.encode(item) for item in catalogue(3)))
    arguments = [str(checkpoint), "--catalogue", str(tmp_path / "items.jsonl"), "--registry", str(tmp_path / "registry"), "--threads", "1"]
    done = CliRunner().invoke(export_command, arguments)
    assert done.exit_code == 0, done.output
    assert f"no other form was compared (not proven: 3 different texts to compare on, {FEWEST} needed" in done.stderr
    assert "0.000" not in done.stderr
    assert "near enough" not in done.stderr
    done = CliRunner().invoke(export_command, [*arguments, "--precision", "fp32"])
    assert "no quantized form was tried" in done.stderr


def test_own_columns_of_a_catalogue(checkpoint: Path, tmp_path: Path) -> None:
    """`--map COLUMN=FIELD` is that of `headwater items load`: it goes before names; wrong ones are wrong settings."""
    (tmp_path / "items.csv").write_text("Nr,Bezeichnung,title\na,kaba lodo,x\n")
    arguments = [
        str(checkpoint),
        "--catalogue",
        str(tmp_path / "items.csv"),
        "--registry",
        str(tmp_path / "registry"),
        "--precision",
        "fp32",
    ]
    mapped = ["--map", "Nr=item_id", "--map", "Bezeichnung=title"]
    assert CliRunner().invoke(export_command, [*arguments, *mapped]).exit_code == 0
    opened = Generation.open(tmp_path / "registry" / "g-000001")
    assert opened.item_ids == ("a",)
    assert opened.text_hashes == (text_hash(item_text(Item("a", "kaba lodo", attributes={"title": "x"}))),)
    for wrong in (["--map", "Nr"], ["--map", "Nr=number"], ["--map", "Number=item_id"]):
        assert isinstance(CliRunner().invoke(export_command, [*arguments, *wrong]).exception, BadSettings)
    for without in ([], ["--catalogue", str(tmp_path)]):
        done = CliRunner().invoke(export_command, [str(checkpoint), *without, "--map", "Nr=item_id"])
        assert "leave --map out" in str(done.exception)


def test_the_command_fails_in_words(tmp_path: Path) -> None:
    """A folder that is no checkpoint ends with 1, what was found, and the remedy; no traceback."""
    done = CliRunner().invoke(export_command, [str(tmp_path), "--registry", str(tmp_path / "registry")])
    assert done.exit_code == 1
    assert "bad_checkpoint" in done.stderr
    assert "save_pretrained" in done.stderr
    assert "Traceback" not in done.stderr


def test_catalogues_are_folders_or_files(tmp_path: Path) -> None:
    """A data-set folder and a file of lines give the same items; a file that is not there, or is all broken, is an error."""
    folder = tmp_path / "set"
    folder.mkdir()
    for name, text in (("items", "item_id\ttitle\na\tOne\nb\tTwo\n"), ("events", "timestamp\tuser_id\titem_id\tevent_type\n")):
        (folder / f"{name}.tsv.gz").write_bytes(gzip.compress(text.encode()))
    (folder / "META.json").write_text("{}")
    (tmp_path / "lines").write_text('{"item_id":"a","title":"One"}\n{"item_id":"b","title":"Two"}\n')
    assert [(i.item_id, i.title) for i in read_catalogue(folder)] == [(i.item_id, i.title) for i in read_catalogue(tmp_path / "lines")]
    (tmp_path / "items.csv").write_text("id;name\na;One\nb;Two\n")
    assert read_catalogue(tmp_path / "items.csv") == read_catalogue(tmp_path / "lines")
    (tmp_path / "broken").write_text("nothing\n")
    (tmp_path / "bad.csv").write_text("id,name\ni1,\n")
    for name, error in (("broken", DatasetError), ("bad.csv", ArtefactError), ("missing", ArtefactError)):
        with pytest.raises(error):
            read_catalogue(tmp_path / name)


def test_help_is_quick() -> None:
    """Reading the command's arguments loads no torch, transformers or Optimum."""
    code = (
        "import sys, export.cli; print(sorted({m.partition('.')[0] for m in sys.modules} & {'torch', 'transformers', 'optimum', 'onnx'}))"
    )
    root = Path(__file__).resolve().parent.parent
    done = subprocess.run([sys.executable, "-c", code], cwd=root, check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "[]"
