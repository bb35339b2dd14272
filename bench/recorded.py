"""Recorded streams for benches: a data set with its items' vectors under the newest generation, made where there is none."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
from rich.console import Console

from engine.dataset import Dataset, read
from engine.partition import hash64
from engine.registry import Registry
from engine.space import Floats
from engine.vectors import catalogue_vectors
from streams.arguments import folder_of
from streams.evaluation import open_generation

ROOT = Path(__file__).resolve().parent.parent
REGISTRIES = ROOT / "var" / "bench"
"""A registry for each data set, since a generation is made for a catalogue."""


def opened(name: str, registry: str = "") -> tuple[Dataset, Floats]:
    """A data set (a folder, or a name in data/) and the centred unit vectors (I, D) of its items.

    `registry`: where the generation is; otherwise one of the data set's own.
    """
    folder = folder_of(name)
    data = read(folder)
    own = REGISTRIES / data.name
    generation = open_generation(Registry(registry or str(own / "registry"), own / "cache"), folder, None, Console(stderr=True))
    return data, catalogue_vectors(generation, data.items, own / "cache", threads=os.cpu_count() or 1)


def kept(name: str, registry: str = "") -> tuple[str, str]:
    """The folder of a data set, and a file of its vectors that other processes can read."""
    data, vectors = opened(name, registry)
    path = REGISTRIES / data.name / "vectors.npy"
    path.parent.mkdir(parents=True, exist_ok=True)
    np.save(path, vectors)
    return str(folder_of(name)), str(path)


def renamed(data: Dataset, seed: int) -> Dataset:
    """The same with other ids of items, users and sessions: what depends on them by accident comes out otherwise."""

    def new(kind: str, name: str) -> str:
        return f"{kind}{hash64(f'{seed}/{kind}/{name}'):016x}" if name else ""

    items = tuple(msgspec.structs.replace(item, item_id=new("i", item.item_id)) for item in data.items)
    rows = tuple(row._replace(user=new("u", row.user), session=new("s", row.session), item_id=new("i", row.item_id)) for row in data.rows)
    return replace(data, items=items, index={item.item_id: at for at, item in enumerate(items)}, rows=rows)
