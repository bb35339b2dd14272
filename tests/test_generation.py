"""Generation: only what was published is opened, and only what fits this machine is served."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from engine.encoder import CPU
from engine.errors import ArtefactError
from engine.generation import Generation, read_manifest, sha256_of
from engine.manifest import ITEMS, NAME, PROBES, VECTORS, Variant, decode_manifest, encode_manifest
from tests import tiny_bert

pytest.importorskip("onnx", reason="wants the export extra, to write a graph")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A draft generation of eight items."""
    return tiny_bert.write_generation(tmp_path / "draft")


def reseal(folder: Path, **changes: Any) -> None:
    """Write the manifest again with the sums of the files as they are now, and with changed fields."""
    manifest = json.loads((folder / NAME).read_bytes())
    manifest["files"] = {p.name: sha256_of(p) for p in sorted(folder.iterdir()) if p.name != NAME}
    (folder / NAME).write_text(json.dumps(manifest | changes))


def test_what_was_written_is_read(folder: Path) -> None:
    """Ids, hashes and vectors come back in their order, the vectors mapped from the file and of unit length."""
    opened = Generation.open(folder)
    assert opened.item_ids == tuple(f"i{n}" for n in range(8))
    assert len(opened.text_hashes) == 8
    assert isinstance(opened.vectors, np.memmap)
    np.testing.assert_allclose(np.linalg.norm(opened.vectors.astype(np.float32), axis=1), 1, atol=2e-3)


def test_an_empty_catalogue_is_a_generation(tmp_path: Path) -> None:
    """A generation without items can be opened and encodes texts."""
    opened = Generation.open(tiny_bert.write_generation(tmp_path / "draft", count=0))
    assert opened.vectors.shape == (0, tiny_bert.DIMS)
    encoder = opened.encoder(providers=[CPU])
    assert opened.verify_parity(encoder) == 1.0
    assert encoder.encode(["kaba"]).shape == (1, tiny_bert.DIMS)


@pytest.mark.parametrize("name", ["model-fp32.onnx", "tokenizer.json", "centre.npy", ITEMS, VECTORS, PROBES])
def test_one_changed_byte_is_found(folder: Path, name: str) -> None:
    """A file that is not bit for bit the published one is refused, and named with both sums."""
    path = folder / name
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(ArtefactError) as caught:
        Generation.open(folder)
    assert caught.value.code == "sha256_mismatch"
    assert name in caught.value.found
    assert caught.value.expected == read_manifest(folder).files[name]


def test_a_missing_file_is_named(folder: Path) -> None:
    """A generation without one of its files is refused."""
    (folder / VECTORS).unlink()
    with pytest.raises(ArtefactError, match=r"missing_file.*vectors\.npy"):
        Generation.open(folder)


def test_a_folder_without_manifest_is_no_generation(folder: Path) -> None:
    """The manifest is written last: without it nothing else counts."""
    (folder / NAME).unlink()
    with pytest.raises(ArtefactError, match="no_manifest"):
        Generation.open(folder)


@pytest.mark.parametrize(
    "rows",
    [np.zeros((7, 32), np.float16), np.zeros((8, 31), np.float16), np.zeros((8, 32), np.float32), np.zeros(8, np.float16)],
    ids=["rows", "dims", "dtype", "axes"],
)
def test_vectors_of_another_shape_are_refused(folder: Path, rows: Any) -> None:
    """Sums may be right and the file still not fit: shape and type are checked against the manifest."""
    np.save(folder / VECTORS, rows)
    reseal(folder)
    with pytest.raises(ArtefactError, match="bad_vectors"):
        Generation.open(folder)


@pytest.mark.parametrize(
    "name, content",
    [
        (ITEMS, [["i0", "h"]] * 8),
        (ITEMS, [["i0", "h"]]),
        (ITEMS, {"i0": "h"}),
        (PROBES, [[99, "kaba"]]),
        (PROBES, [["i0", "kaba"]]),
    ],
)
def test_items_that_do_not_fit_are_refused(folder: Path, name: str, content: Any) -> None:
    """Repeated ids, another count, another form and rows that are not there are found at opening."""
    (folder / name).write_text(json.dumps(content))
    reseal(folder)
    with pytest.raises(ArtefactError):
        Generation.open(folder)


@pytest.mark.parametrize(
    "changes",
    [
        {"format": 2},
        {"id": "latest"},
        {"files": {"../model.onnx": "0" * 64}},
        {"serving": "int8"},
        {"dims": 0},
        {"pooling": "weighted"},
        {"variants": {}},
        {"text_template": "v9"},
    ],
    ids=str,
)
def test_manifests_that_cannot_be_used_are_refused(folder: Path, changes: dict[str, Any]) -> None:
    """Another format, a path out of the folder, a variant that is not there: each is one ArtefactError with a remedy."""
    reseal(folder)
    manifest = json.loads((folder / NAME).read_bytes()) | changes
    (folder / NAME).write_text(json.dumps(manifest))
    with pytest.raises(ArtefactError) as caught:
        Generation.open(folder)
    assert caught.value.remedy


def test_unknown_fields_are_no_obstacle(folder: Path) -> None:
    """A manifest with fields of a later release is read; what is written is read back equal."""
    reseal(folder, later="field")
    manifest = read_manifest(folder)
    assert decode_manifest(encode_manifest(manifest), "here") == manifest
    assert Generation.open(folder).manifest == manifest


def test_parity_holds_where_the_encoder_is_the_same(folder: Path) -> None:
    """Texts encoded again give the stored vectors up to fp16."""
    opened = Generation.open(folder)
    assert opened.verify_parity(opened.encoder(providers=[CPU])) > 0.9999


def test_another_encoder_is_found_by_parity(folder: Path, tmp_path: Path) -> None:
    """A graph that gives other vectors, its sums and shapes all right, is refused with both cosines."""
    tiny_bert.write_graph(folder / "model-fp32.onnx", seed=99)
    reseal(folder)
    opened = Generation.open(folder)
    with pytest.raises(ArtefactError, match="parity_lost") as caught:
        opened.verify_parity(opened.encoder(providers=[CPU]))
    assert "cosine" in caught.value.found
    assert "0.99" in caught.value.expected


def test_parity_refuses_nan(folder: Path) -> None:
    """Vectors that are not numbers do not pass for equal."""
    rows = np.load(folder / VECTORS)
    rows[0] = np.nan
    np.save(folder / VECTORS, rows)
    reseal(folder)
    opened = Generation.open(folder)
    with pytest.raises(ArtefactError, match="parity_lost"):
        opened.verify_parity(opened.encoder(providers=[CPU]))


def test_a_variant_without_file_is_not_served(folder: Path) -> None:
    """A variant that was measured and not kept can be read about, not opened."""
    manifest = read_manifest(folder)
    more = msgspec.structs.replace(manifest, variants=manifest.variants | {"int8": Variant(note="keeps too little")})
    with pytest.raises(ArtefactError, match="no_variant"):
        more.variant("int8")
