"""Vectors of a whole catalogue in a generation's space: stored ones where texts are the same, others encoded and kept on disk."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from hashlib import blake2b
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from engine.generation import Generation
from engine.manifest import Manifest
from engine.pooling import centre_rows
from engine.records import Item
from engine.space import Floats
from engine.text import item_text, text_hash

Progress = Callable[[int, int], None]
OWN = 0.5
"""A generation is that of a catalogue when it holds at least this share of its items: its centre is used. Any other catalogue has its own
centre: centring lifts text-only lists by 1.4 times, and a shop's mean is not a bookstore's."""


def catalogue_vectors(
    generation: Generation, items: Sequence[Item], cache: Path, *, threads: int = 1, progress: Progress | None = None
) -> Floats:
    """(N, D) float32 centred unit rows, by item.

    Raises:
        ArtefactError: the generation's encoder cannot be opened.
    """
    texts = [item_text(item, generation.template) for item in items]
    place = {item_id: row for row, item_id in enumerate(generation.item_ids)}
    rows = [place.get(item.item_id, -1) for item in items]
    own = sum(row >= 0 for row in rows) >= OWN * max(1, len(items))
    same = [row >= 0 and own and generation.text_hashes[row] == text_hash(text) for row, text in zip(rows, texts, strict=True)]
    out = np.zeros((len(items), generation.manifest.dims), np.float32)
    stored = [n for n, kept in enumerate(same) if kept]
    if stored:
        out[stored] = generation.vectors[[rows[n] for n in stored]]
    missing = [n for n, kept in enumerate(same) if not kept]
    if missing:
        raw = _encoded(generation, [texts[n] for n in missing], cache, own, threads, progress)
        out[missing] = raw if own else centre_rows(raw, raw.mean(axis=0, dtype=np.float64).astype(np.float32) if len(raw) > 1 else None)
    return out


def _encoded(
    generation: Generation, texts: Sequence[str], cache: Path, own: bool, threads: int, progress: Progress | None
) -> NDArray[np.float32]:
    """Rows of the texts, centred by the generation's centre if `own`, from the cache if they were encoded before."""
    key = blake2b(_identity(generation.manifest), digest_size=16)
    for text in texts:
        key.update(text_hash(text).encode())
    file = cache / f"vectors-{key.hexdigest()}-{'own' if own else 'raw'}.npy"
    if file.exists():
        return np.asarray(np.load(file, allow_pickle=False), np.float32)
    encoder = generation.encoder(threads=threads)
    done = 0

    def tell(count: int) -> None:
        nonlocal done
        done += count
        if progress is not None:
            progress(done, len(texts))

    rows = encoder.encode(texts, tell) if own else encoder.embed(texts, tell)
    cache.mkdir(parents=True, exist_ok=True)
    part = file.with_suffix(f".{os.getpid()}.part")
    with part.open("wb") as out:
        np.save(out, rows)
    part.replace(file)
    return rows


def _identity(manifest: Manifest) -> bytes:
    """What decides an encoder's vectors: its files, and how they are used; not the generation's id, which two registries may both have."""
    serving = manifest.variant()
    used = {name: digest for name, digest in manifest.files.items() if name in (serving.file, "tokenizer.json", "centre.npy")}
    return msgspec.json.encode((sorted(used.items()), manifest.pooling, manifest.max_tokens, manifest.text_template))
