"""How near a variant of the encoder comes to fp32: by ranking, on the catalogue it will serve. Not how good the encoder is."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from engine.encoder import Encoder
from engine.manifest import Variant
from engine.pooling import centre_rows

LEAST_OVERLAP = 0.97
"""Share of the fp32 top 10 that a served variant keeps."""
TOP = 10
FIRST_LOOK = 256
"""Texts of the first look, which spares those that fail it the second. The overlap hardly depends on the number of texts (row-wise int8 on
online-retail: .9805 on 256, .9798 on 768, .9796 on all 3,631); one near the limit may fail by chance, and then fp32 serves."""
SAMPLE = 768
"""Texts of the second look: 6 s of fp32 on two threads, which are not lost if fp32 then encodes the catalogue."""
CALIBRATION = 64
"""Texts by which a quantized form that needs it sees the range of the activations: 1 s."""
FEWEST = 64
"""A catalogue with fewer different texts proves nothing by ranking: it is served in fp32."""
SPEED_TEXTS = 16
SPEED_ROUNDS = 3


@dataclass(frozen=True, slots=True)
class Judged:
    """Each variant with its figures (one with a note was not proven), and what the measurement was.

    ``rows``: variant -> text -> (D,) float32, not centred, so that no text need be encoded again.
    """

    variants: dict[str, Variant]
    about: dict[str, Any]
    rows: dict[str, dict[str, NDArray[np.float32]]]


class Proof(msgspec.Struct, frozen=True):
    """What was measured of one variant against fp32 on ``texts`` texts, each a query among all others."""

    min_cosine: float
    mean_cosine: float
    overlap: float
    texts: int


def sample_of(texts: Sequence[str], most: int, seed: int = 0) -> list[str]:
    """Draw different texts, in a random order: equal ones tie, and ties say nothing about an order.

    >>> sorted(sample_of(["b", "a", "b"], 9))
    ['a', 'b']
    """
    different = list(dict.fromkeys(t for t in texts if t))
    return [different[i] for i in np.random.default_rng(seed).permutation(len(different))[:most]]


def compare(reference: NDArray[np.float32], other: NDArray[np.float32], top: int = TOP) -> Proof:
    """Compare (N, D) unit rows, not centred, of the same texts; each set is centred by its own mean, as it would be served.

    >>> rows = np.eye(4, dtype=np.float32)
    >>> compare(rows, rows, top=2)
    Proof(min_cosine=1.0, mean_cosine=1.0, overlap=1.0, texts=4)
    """
    a, b = (centre_rows(rows, rows.mean(axis=0)) for rows in (reference, other))
    cosines = np.einsum("ij,ij->i", a, b)
    top = min(top, len(a) - 1)
    kept = sum(len(np.intersect1d(x, y)) for x, y in zip(_nearest(a, top), _nearest(b, top), strict=True))
    share = kept / (top * len(a)) if top > 0 else 1.0
    return Proof(round(float(cosines.min()), 4), round(float(cosines.mean()), 4), round(share, 4), len(a))


def _nearest(rows: NDArray[np.float32], top: int) -> NDArray[np.intp]:
    near = rows @ rows.T
    np.fill_diagonal(near, -np.inf)
    return np.argsort(-near, axis=1, kind="stable")[:, :top]


def speeds(encoders: Mapping[str, Encoder], texts: Sequence[str], clock: Callable[[], float] = time.perf_counter) -> dict[str, float]:
    """Give texts/s of each encoder on one thread, one text at a time: the best of rounds in turn, so that others' load hits all alike."""
    best = dict.fromkeys(encoders, 0.0)
    few = list(texts[:SPEED_TEXTS])
    for _ in range(SPEED_ROUNDS if few else 0):
        for name, encoder in encoders.items():
            start = clock()
            for text in few:
                encoder.embed([text])
            best[name] = max(best[name], round(len(few) / max(clock() - start, 1e-9), 1))
    return best


def choose(variants: Mapping[str, Variant], least: float = LEAST_OVERLAP) -> str:
    """Name the fastest variant that keeps enough of the fp32 ranking, else fp32.

    >>> fast = Variant(precision="int8", batching="single", overlap=0.98, texts_per_s=300.0)
    >>> choose({"fp32": Variant(texts_per_s=100.0), "a": fast}), choose({"fp32": Variant(texts_per_s=400.0), "a": fast})
    ('a', 'fp32')
    """
    fit = [name for name, v in variants.items() if name == "fp32" or (not v.note and v.overlap >= least)]
    return max(fit, key=lambda name: (variants[name].texts_per_s, name == "fp32"))


def judge(
    fp32: Encoder,
    others: Mapping[str, Encoder],
    texts: Sequence[str],
    *,
    least: float = LEAST_OVERLAP,
    progress: Callable[[int, int], None] | None = None,
) -> Judged:
    """Measure all variants on a sample of a catalogue's texts, in two looks.

    Args:
        fp32: the reference.
        others: name -> encoder.
        texts: the texts of the catalogue.
        least: overlap below which a variant gets no second look.
        progress: told texts done and texts in all; the latter shrinks when a variant fails.
    """
    sample = sample_of(texts, SAMPLE)
    about = {"sample": len(sample), "top": TOP, "least_overlap": least}
    rated = speeds({"fp32": fp32, **others}, sample)
    variants = {"fp32": msgspec.structs.replace(fp32.variant, texts_per_s=rated["fp32"])}
    if len(sample) < FEWEST:
        note = f"not proven: {len(sample)} different texts to compare on, {FEWEST} needed"
        for name, e in others.items():
            variants[name] = msgspec.structs.replace(
                e.variant, texts_per_s=rated[name], note=note, overlap=0.0, min_cosine=0.0, mean_cosine=0.0
            )
        return Judged(variants, about, {})
    done = 0
    reference = np.zeros((0, fp32.dims), np.float32)
    vectors = dict.fromkeys(others, reference)
    left = dict(others)
    for size in sorted({min(FIRST_LOOK, len(sample)), len(sample)}):
        total = done + (size - len(reference)) * (1 + len(left))

        def tell(count: int, total: int = total) -> None:
            nonlocal done
            done += count
            if progress is not None:
                progress(done, total)

        if not left:
            break
        new = sample[len(reference) : size]
        reference = np.concatenate([reference, fp32.embed(new, tell)])
        for name, encoder in list(left.items()):
            vectors[name] = np.concatenate([vectors[name], encoder.embed(new, tell)])
            proof = compare(reference, vectors[name])
            note = "" if proof.overlap >= least else f"keeps less than {least} of the fp32 top {TOP}"
            variants[name] = msgspec.structs.replace(
                encoder.variant,
                min_cosine=proof.min_cosine,
                mean_cosine=proof.mean_cosine,
                overlap=proof.overlap,
                compared=proof.texts,
                texts_per_s=rated[name],
                note=note,
            )
            if note:
                del left[name]
    made = {"fp32": reference, **vectors}
    return Judged(variants, about | {"compared": len(reference)}, {n: dict(zip(sample, rows, strict=False)) for n, rows in made.items()})
