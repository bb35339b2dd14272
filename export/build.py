"""A whole generation: checkpoint and items in, published folder out. Not the training of a checkpoint, and not its announcement."""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Protocol

import msgspec
import numpy as np
from numpy.typing import NDArray

from engine.encoder import CPU, Encoder, open_tokenizer
from engine.errors import ArtefactError
from engine.generation import PROBE_ITEMS, Generation, sha256_of
from engine.manifest import CENTRE, CHECKPOINT, ITEMS, NAME, PROBES, RANKER, TOKENIZER, VECTORS, Gate, Manifest, Variant, encode_manifest
from engine.pooling import centre_rows
from engine.ranker import Ranker, pack_ranker
from engine.records import Item
from engine.registry import Registry
from engine.text import DEFAULT, Template, item_text, text_hash
from export.archive import pack
from export.checkpoint import read_checkpoint
from export.fidelity import CALIBRATION, LEAST_OVERLAP, choose, judge, sample_of
from export.onnx import export_fp32
from export.quantize import Preset, cpu_flags, presets, quantize

MAX_TOKENS = 64
"""Tokens of an item's text: a title, its categories and tags take 10 to 60; each doubling doubles the cost of encoding."""
_PACKAGES = ("torch", "transformers", "optimum", "optimum-onnx", "onnx", "onnxruntime-gpu", "onnxruntime", "tokenizers", "numpy")


class Watch(Protocol):
    """Who is told how far the build is: the stage's name, units done, units in all (0 where nobody knows)."""

    def __call__(self, stage: str, done: int, total: int, /) -> None: ...


def unwatched(_stage: str, _done: int, _total: int, /) -> None:
    """Watch nothing."""


class Prove(Protocol):
    """What a finished draft is judged by: gives the gate's verdict and the weights that its lists begin with."""

    def __call__(self, draft: Generation, /) -> tuple[Gate, Ranker]: ...


@dataclass(frozen=True, slots=True)
class Built:
    """A published generation and what its making took: seconds per stage."""

    manifest: Manifest
    seconds: Mapping[str, float]


def build(
    checkpoint: Path,
    items: Sequence[Item],
    registry: Registry,
    *,
    max_tokens: int = MAX_TOKENS,
    threads: int = 1,
    template: Template = DEFAULT,
    tried: Sequence[Preset] | None = None,
    least: float = LEAST_OVERLAP,
    parent: str | None = None,
    offsets: Mapping[str, Sequence[int]] | None = None,
    metrics: Mapping[str, Any] | None = None,
    prove: Prove | None = None,
    before_publishing: Callable[[], None] = lambda: None,
    scratch_in: Path | None = None,
    now_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
    watch: Watch = unwatched,
) -> Built:
    """Make a generation of a checkpoint for a catalogue, and publish it.

    1. The checkpoint becomes an fp32 ONNX graph.
    2. Quantized forms of it are made, as the CPU allows.
    3. All are compared with fp32 by ranking on the catalogue; the fastest that is near enough is chosen.
    4. The catalogue is encoded with it, centred and stored.
    5. The folder is opened and proven as a worker would do, and by `prove`.
    6. It is published, whatever the verdict: one that may not serve says so itself.

    Args:
        checkpoint: a checkpoint folder.
        items: the catalogue; of two items with one id the last counts.
        registry: where the generation goes.
        max_tokens: the token budget of a text; the checkpoint's own limit if that is smaller.
        threads: texts encoded at a time.
        template: how texts are made of items.
        tried: quantized forms to try; None for those of this CPU, none at all for fp32.
        least: share of the fp32 top 10 that a quantized form must keep.
        parent: the generation that this one comes from.
        offsets: per topic and partition, the offset up to which records are in it.
        metrics: what else is to stand in the manifest.
        prove: judges the draft; None for a generation that is compared with none.
        before_publishing: called last; raises if it must not be published any more.
        scratch_in: the folder for unfinished work; None for the system's.
        now_ms: the wall clock in ms UTC.
        watch: told of progress.

    Raises:
        ArtefactError: the checkpoint cannot be used, the export extra is missing, or the registry does not answer.
    """
    began = time.perf_counter()
    seconds: dict[str, float] = {}

    def done(stage: str) -> None:
        seconds[stage] = round(time.perf_counter() - began - sum(seconds.values()), 2)

    source = read_checkpoint(checkpoint)
    budget = min(max_tokens, source.max_tokens)
    catalogue = {item.item_id: item_text(item, template) for item in items}
    texts = list(catalogue.values())
    with tempfile.TemporaryDirectory(prefix="headwater-export-", dir=scratch_in) as scratch:
        graphs, folder = Path(scratch) / "graphs", Path(scratch) / "generation"
        folder.mkdir()
        watch("export to ONNX", 0, 0)
        graph = export_fp32(source, graphs)  # 1
        done("export")
        forms = {"fp32": (graph, Variant(bytes=graph.stat().st_size))}
        tokenizer = open_tokenizer(graphs / TOKENIZER, budget)
        seen = [tokenizer.encode(text).ids for text in sample_of(texts, CALIBRATION, seed=1)] or [tokenizer.encode("").ids]
        kinds = presets(cpu_flags()) if tried is None else tried
        for n, preset in enumerate(kinds):  # 2
            watch("quantize", n, len(kinds))
            path = quantize(graph, preset, graphs, seen)
            forms[preset.name] = (path, preset.variant(path.stat().st_size))
        done("quantize")
        encoders = {
            name: Encoder.start(
                path,
                tokenizer,
                variant,
                pooling=source.pooling,
                dims=source.dims,
                threads=threads,
                providers=[CPU] if name != "fp32" else None,
            )
            for name, (path, variant) in forms.items()
        }
        others = {name: encoder for name, encoder in encoders.items() if name != "fp32"}
        judged = judge(  # 3
            encoders["fp32"], others, texts, least=least, progress=lambda count, total: watch("compare with fp32", count, total)
        )
        variants = judged.variants
        serving = choose(variants, least)
        done("compare")
        vectors, centre = encode_catalogue(encoders[serving], texts, watch, judged.rows.get(serving))  # 4
        done("encode")
        for name in dict.fromkeys(("fp32", serving)):
            file = f"model-{name}.onnx"
            shutil.copyfile(forms[name][0], folder / file)
            variants[name] = msgspec.structs.replace(variants[name], file=file)
        shutil.copyfile(graphs / TOKENIZER, folder / TOKENIZER)
        _save(folder, catalogue, vectors, centre)
        fidelity = {**judged.about, "verdict": _verdict(serving, variants)}
        manifest = Manifest(
            parent=parent,
            created_at=now_ms(),
            files={path.name: sha256_of(path) for path in sorted(folder.iterdir())},
            encoder=source.describe(),
            pooling=source.pooling,
            dims=source.dims,
            max_tokens=budget,
            text_template=template.version,
            centred=centre is not None,
            items=len(texts),
            variants=variants,
            serving=serving,
            metrics={"fidelity": fidelity, **(metrics or {})},
            verdict="compared with no other generation",
            offsets={topic: list(o) for topic, o in (offsets or {}).items()},
            made_with=_made_with(encoders[serving].provider),
        )
        (folder / NAME).write_bytes(encode_manifest(manifest))
        opened = Generation.open(folder)  # 5
        opened.verify_parity(opened.encoder(threads=threads))
        if prove is not None:
            manifest = _proven(folder, manifest, *prove(opened))
            done("judge")
        watch("publish", 0, 0)
        pack(source, folder / CHECKPOINT)
        manifest = msgspec.structs.replace(manifest, training={CHECKPOINT: sha256_of(folder / CHECKPOINT)})
        (folder / NAME).write_bytes(encode_manifest(manifest))
        before_publishing()
        published = registry.publish(folder)  # 6
        done("publish")
    return Built(published, seconds)


def encode_catalogue(
    encoder: Encoder, texts: Sequence[str], watch: Watch = unwatched, known: Mapping[str, NDArray[np.float32]] | None = None
) -> tuple[NDArray[np.float16], NDArray[np.float32] | None]:
    """Encode the texts of a catalogue, each different text once, and those not at all whose (D,) row, not centred, is `known`.

    Returns:
        (N, D) float16 centred unit rows, and the centre, (D,) float32, which is None for fewer than two texts.
    """
    places: dict[str, int] = {}
    rows = [places.setdefault(text, len(places)) for text in texts]
    known = known or {}
    new = [text for text in places if text not in known]
    told = len(places) - len(new)
    watch("encode the catalogue", told, len(places))

    def tell(count: int) -> None:
        nonlocal told
        told += count
        watch("encode the catalogue", told, len(places))

    made = dict(zip(new, encoder.embed(new, tell), strict=True))
    different = np.array([known[text] if text in known else made[text] for text in places], np.float32).reshape(-1, encoder.dims)
    raw = different[rows]
    centre = raw.mean(axis=0, dtype=np.float64).astype(np.float32) if len(places) > 1 else None
    return centre_rows(raw, centre).astype(np.float16), centre


def probe_rows(texts: Sequence[str], count: int = PROBE_ITEMS) -> list[int]:
    """Choose rows for the parity check, spread over the lengths of the texts, the longest among them.

    >>> probe_rows(["ccc", "a", "bb"], 2)
    [1, 0]
    """
    order = sorted(range(len(texts)), key=lambda row: (len(texts[row]), row))
    steps = np.unique(np.linspace(0, len(order) - 1, min(count, len(order))).round().astype(int))
    return [order[step] for step in steps]


def _save(folder: Path, catalogue: Mapping[str, str], vectors: NDArray[np.float16], centre: NDArray[np.float32] | None) -> None:
    texts = list(catalogue.values())
    if not np.isfinite(vectors).all():
        raise ArtefactError("bad_vectors", "vectors that are not finite", "finite vectors", "check the checkpoint's weights")
    np.save(folder / VECTORS, vectors)
    if centre is not None:
        np.save(folder / CENTRE, centre)
    (folder / ITEMS).write_bytes(msgspec.json.encode([(item_id, text_hash(text)) for item_id, text in catalogue.items()]))
    (folder / PROBES).write_bytes(msgspec.json.encode([(row, texts[row]) for row in probe_rows(texts)]))


def _proven(folder: Path, manifest: Manifest, gate: Gate, ranker: Ranker) -> Manifest:
    """The manifest with a verdict, and the weights beside it."""
    (folder / RANKER).write_bytes(pack_ranker(ranker, {}))
    verdict = "accepted" if gate.passed else f"refused: {'; '.join(gate.reasons)}"
    files = {**manifest.files, RANKER: sha256_of(folder / RANKER)}
    return msgspec.structs.replace(manifest, gate=gate, verdict=verdict, files=files)


def _verdict(serving: str, variants: Mapping[str, Variant]) -> str:
    others = [v for name, v in variants.items() if name != "fp32"]
    if not others:
        return "fp32: no quantized form was tried"
    if not any(v.compared for v in others):
        return f"fp32, as no other form was compared ({others[0].note})"
    if serving == "fp32":
        return "fp32: no quantized form was both near enough and faster"
    return f"{serving}: {variants[serving].overlap:.3f} of the fp32 top 10 kept"


def _made_with(provider: str) -> dict[str, Any]:
    made = {"provider": provider, "vnni_or_int8_flags": " ".join(sorted(f for f in cpu_flags() if "vnni" in f or "int8" in f))}
    for package in _PACKAGES:
        with suppress(PackageNotFoundError):
            made[package] = version(package)
    return made
