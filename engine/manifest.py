"""What a generation says about itself: the manifest's fields and its checks. Not the files it names (see `engine.generation`)."""

from __future__ import annotations

import re
from typing import Any, Literal

import msgspec

from engine.errors import ArtefactError
from engine.pooling import Pooling

FORMAT = 1
"""The layout of a generation's folder that this release reads and writes."""
NAME = "manifest.json"
TOKENIZER, CENTRE, ITEMS, VECTORS, PROBES = "tokenizer.json", "centre.npy", "items.json", "vectors.npy", "probes.json"
RANKER, CHECKPOINT = "ranker.msgpack", "checkpoint.tar"
"""The weights that lists begin with; and what the next generation is trained from, which no worker needs."""
ID = re.compile(r"\Ag-(\d{6,})\Z")
_FILE = re.compile(r"\A[A-Za-z0-9][A-Za-z0-9._-]{0,99}\Z")
_SHA256 = re.compile(r"\A[0-9a-f]{64}\Z")


class Variant(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One form of the encoder, and how near it comes to fp32 on this catalogue.

    ``file`` is empty for one that was measured and not kept. ``batching``: may texts of equal length share a call (``equal_length``)
    without changing each other's vectors, or must each be encoded alone (``single``), as dynamic int8 must (microsoft/onnxruntime #10111)?
    ``overlap``: share of the fp32 top 10 kept, 0..1, on ``compared`` texts; ``texts_per_s`` on one thread of the
    machine that exported; ``bytes`` of the file.
    """

    file: str = ""
    precision: Literal["fp32", "int8"] = "fp32"
    batching: Literal["equal_length", "single"] = "equal_length"
    quantization: dict[str, Any] = {}
    bytes: int = 0
    min_cosine: float = 1.0
    mean_cosine: float = 1.0
    overlap: float = 1.0
    compared: int = 0
    texts_per_s: float = 0.0
    note: str = ""


class Compared(msgspec.Struct, frozen=True):
    """NDCG@10 of two generations on the same cases, and the 95 % interval of the difference, candidate less active, drawn by user.
    ``users``: whose cases these are; 0 where an older release made it, which did not count them.
    """

    cases: int
    active: float
    candidate: float
    low: float
    high: float
    users: int = 0

    @property
    def difference(self) -> float:
        """Candidate less active."""
        return self.candidate - self.active


class Gate(msgspec.Struct, frozen=True):
    """What the test-then-train comparison with the active generation said of this one.

    ``against``: the active generation; ``reasons``: why it did not pass, empty when it did; ``lists``: what was compared -> figures;
    ``events`` were learned, of which the newest ``held_out`` were asked about and had not been trained on.
    """

    passed: bool
    against: str
    reasons: tuple[str, ...] = ()
    lists: dict[str, Compared] = {}
    events: int = 0
    held_out: int = 0


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """The record of a generation (contract, `generations`), and the last file of it to be written.

    ``id`` is empty until the registry gave one; ``created_at`` in ms UTC; ``files``: name -> sha256; ``serving``: the variant that made the
    vectors and serves; ``items``: rows of the vectors; ``offsets``: topic -> the offset per partition up to which records are in it;
    ``training``: files of the same folder that only a trainer needs, name -> sha256; ``gate``: None for one that was never compared.
    """

    id: str = ""
    format: int = FORMAT
    parent: str | None = None
    created_at: int = 0
    registry: str = ""
    files: dict[str, str] = {}
    encoder: dict[str, Any] = {}
    pooling: Pooling = "mean"
    dims: int
    max_tokens: int
    text_template: str
    centred: bool = False
    items: int = 0
    variants: dict[str, Variant]
    serving: str
    metrics: dict[str, Any] = {}
    verdict: str = ""
    gate: Gate | None = None
    training: dict[str, str] = {}
    offsets: dict[str, list[int]] = {}
    made_with: dict[str, str] = {}

    def variant(self, name: str | None = None) -> Variant:
        """Give a variant that has a file; without a name the serving one.

        Raises:
            ArtefactError: there is none of that name, or its file was not kept.
        """
        name = name or self.serving
        found = self.variants.get(name)
        if found is None or not found.file:
            kept = ", ".join(sorted(n for n, v in self.variants.items() if v.file)) or "none"
            raise ArtefactError("no_variant", f"variant {name!r} of {self.id or 'a draft'}", kept, "name one of those, or export again")
        return found


def decode_manifest(data: bytes, where: str) -> Manifest:
    """Read a manifest and check what its fields say of each other; unknown fields are ignored.

    Raises:
        ArtefactError: it is no manifest, one of another format, or one that names files outside its folder.
    """
    remedy = "publish the generation again"
    try:
        made_as = msgspec.json.decode(data, type=dict[str, Any]).get("format")
        if made_as != FORMAT:
            raise ArtefactError("manifest_format", f"format {made_as!r} in {where}", f"format {FORMAT}", "export with this release")
        manifest = msgspec.json.decode(data, type=Manifest)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ArtefactError("bad_manifest", f"{where}: {error}", "a manifest", remedy) from error
    if manifest.id and not ID.match(manifest.id):
        raise ArtefactError("bad_manifest", f"id {manifest.id!r} in {where}", "g- and six digits or more", remedy)
    for name, digest in (*manifest.files.items(), *manifest.training.items()):
        if not _FILE.match(name) or not _SHA256.match(digest):
            raise ArtefactError("bad_manifest", f"file {name!r} in {where}", "a plain file name and its sha256", remedy)
    needed = {TOKENIZER, ITEMS, VECTORS, PROBES, manifest.variant().file}
    needed |= {v.file for v in manifest.variants.values() if v.file} | ({CENTRE} if manifest.centred else set())
    if missing := sorted(needed - manifest.files.keys()):
        raise ArtefactError("bad_manifest", f"no sum for {', '.join(missing)} in {where}", "a sha256 for each file", remedy)
    if manifest.dims < 1 or manifest.max_tokens < 1 or manifest.items < 0:
        found = f"dims {manifest.dims}, max_tokens {manifest.max_tokens}, items {manifest.items} in {where}"
        raise ArtefactError("bad_manifest", found, "at least 1 dimension and token", remedy)
    return manifest


def encode_manifest(manifest: Manifest) -> bytes:
    """Write a manifest as indented JSON."""
    return msgspec.json.format(msgspec.json.encode(manifest), indent=1) + b"\n"
