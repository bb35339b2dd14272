"""A generation opened from its folder: encoder, item vectors and what proves them. Not where it is kept (see `engine.registry`)."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from engine.encoder import Encoder
from engine.errors import ArtefactError, StateError
from engine.manifest import ITEMS, NAME, PROBES, RANKER, VECTORS, Manifest, decode_manifest
from engine.ranker import Ranker, unpack_ranker
from engine.text import Template

PARITY_COSINE = 0.99
"""Least cosine between a stored vector and the same text encoded here. Another machine's kernels round differently (measured: above .999);
saturating int8 kernels on a CPU without VNNI fall far below (microsoft/onnxruntime #6004)."""
PROBE_ITEMS = 16
"""Items whose texts a generation carries, to be encoded again where it is served: 16 × 16 ms."""
_CHUNK = 1 << 20
_REMEDY = "fetch or publish the generation again"


@dataclass(frozen=True, slots=True)
class Generation:
    """A generation whose files are what its manifest says.

    ``vectors``: (N, D) float16, centred unit rows, memory-mapped; row i is that of ``item_ids[i]``, made from the text with
    ``text_hashes[i]``. ``probes``: (row, text) of a few items.
    """

    id: str
    manifest: Manifest
    folder: Path
    item_ids: tuple[str, ...]
    text_hashes: tuple[str, ...]
    vectors: NDArray[np.float16]
    probes: tuple[tuple[int, str], ...]
    template: Template

    @classmethod
    def open(cls, folder: Path) -> Generation:
        """Read and check a generation: sums, shapes, types, ids. 0.3 s for 100 MB.

        Raises:
            ArtefactError: a file is missing, is not the one that was published, or does not fit the others.
        """
        folder = Path(folder)
        manifest = read_manifest(folder)
        check_sums(folder, manifest.files)
        rows = _json(folder / ITEMS, list[tuple[str, str]])
        vectors = _vectors(folder / VECTORS, (manifest.items, manifest.dims))
        ids = tuple(row[0] for row in rows)
        if len(ids) != manifest.items or len(set(ids)) != len(ids):
            found = f"{ITEMS}: {len(ids)} items, {len(set(ids))} different"
            raise ArtefactError("bad_items", found, f"{manifest.items} different items", _REMEDY)
        probes = _json(folder / PROBES, list[tuple[int, str]])
        if not all(0 <= row < len(ids) for row, _ in probes):
            raise ArtefactError("bad_items", f"{PROBES}: rows outside", f"rows below {len(ids)}", _REMEDY)
        template = Template.parse(manifest.text_template)
        return cls(manifest.id, manifest, folder, ids, tuple(row[1] for row in rows), vectors, tuple(probes), template)

    def encoder(self, *, threads: int = 1, providers: Sequence[str] | None = None, variant: str | None = None) -> Encoder:
        """Open the encoder that made the vectors, or another variant of it.

        Raises:
            ArtefactError: see `Encoder.open`.
        """
        return Encoder.open(self.folder, self.manifest, threads=threads, providers=providers, variant=variant)

    def ranker(self) -> Ranker | None:
        """The weights that lists of this generation begin with; None for one that brings none.

        Raises:
            ArtefactError: they are damaged, or of another release's features.
        """
        if RANKER not in self.manifest.files:
            return None
        try:
            found, _ = unpack_ranker((self.folder / RANKER).read_bytes())
        except (OSError, StateError) as error:
            raise ArtefactError("bad_ranker", f"{RANKER} of {self.id}: {error}", "weights of this release's features", _REMEDY) from error
        found.generation = self.id
        return found

    def verify_parity(self, encoder: Encoder, sample: int = PROBE_ITEMS, least: float = PARITY_COSINE) -> float:
        """Encode some stored items again on this machine and compare; gives the least cosine (1.0 for a generation without items).

        Raises:
            ArtefactError: a vector differs: the machine's kernels, or the encoder, are not those that the generation was made for.
        """
        probes = self.probes[:sample]
        if not probes:
            return 1.0
        rows = [row for row, _ in probes]
        stored = np.asarray(self.vectors[rows], np.float32)
        stored /= np.maximum(np.linalg.norm(stored, axis=1, keepdims=True), np.float32(1e-12))
        cosines = np.einsum("ij,ij->i", stored, encoder.encode([text for _, text in probes]))
        worst = int(cosines.argmin())
        if not cosines[worst] >= least:  # a NaN fails too
            found = f"cosine {cosines[worst]:.4f} for item {self.item_ids[rows[worst]]!r} of {self.id} ({self.manifest.serving} here)"
            remedy = "export on a machine like this one, or serve fp32"
            raise ArtefactError("parity_lost", found, f"{least} or more", remedy)
        return float(cosines[worst])


def read_manifest(folder: Path) -> Manifest:
    """Read the manifest of a folder.

    Raises:
        ArtefactError: there is none, or it cannot be used.
    """
    path = folder / NAME
    try:
        data = path.read_bytes()
    except OSError as error:
        found = f"{path}: {error.strerror or error}"
        raise ArtefactError("no_manifest", found, "a manifest, written last", "publish the generation again") from error
    return decode_manifest(data, str(path))


def sha256_of(path: Path) -> str:
    """Hash a file in pieces of 1 MiB.

    Raises:
        OSError: it cannot be read.
    """
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(_CHUNK):
            digest.update(piece)
    return digest.hexdigest()


def check_sums(folder: Path, files: Mapping[str, str]) -> None:
    """Compare each file with its sum.

    Raises:
        ArtefactError: a file is missing or is another one.
    """
    for name, expected in sorted(files.items()):
        try:
            found = sha256_of(folder / name)
        except OSError as error:
            raise ArtefactError("missing_file", f"{name}: {error.strerror or error}", "a readable file", _REMEDY) from error
        if found != expected:
            raise ArtefactError("sha256_mismatch", f"{name}: {found}", expected, _REMEDY)


def _json(path: Path, shape: Any) -> Any:
    try:
        return msgspec.json.decode(path.read_bytes(), type=shape)
    except (OSError, msgspec.DecodeError) as error:
        raise ArtefactError("bad_file", f"{path.name}: {error}", str(shape), _REMEDY) from error


def _vectors(path: Path, shape: tuple[int, int]) -> NDArray[np.float16]:
    try:
        vectors = np.load(path, mmap_mode="r" if shape[0] else None, allow_pickle=False)  # an empty file can't be mapped
    except (OSError, ValueError, EOFError) as error:
        raise ArtefactError("bad_file", f"{path.name}: {error}", "a numpy array", _REMEDY) from error
    if vectors.shape != shape or vectors.dtype != np.float16:
        raise ArtefactError("bad_vectors", f"{path.name}: {vectors.shape} {vectors.dtype}", f"{shape} float16", _REMEDY)
    return vectors  # type: ignore[no-any-return]
