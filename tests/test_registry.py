"""Registry: an id is one publisher's, a generation is there whole or not at all; the same on a folder and on an object store."""

from __future__ import annotations

import os
import threading
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import fsspec
import pytest
from fsspec.implementations.local import LocalFileSystem

from engine.encoder import CPU
from engine.errors import ArtefactError
from engine.generation import Generation
from engine.manifest import NAME, VECTORS
from engine.registry import Registry
from tests import tiny_bert

pytest.importorskip("onnx", reason="wants the export extra, to write a graph")


@pytest.fixture(scope="module")
def draft(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A draft generation of eight items."""
    return tiny_bert.write_generation(tmp_path_factory.mktemp("registry") / "draft")


class Bucket(LocalFileSystem):  # type: ignore[misc]  # fsspec is untyped
    """An object store that is not the registry's own disk, and, unlike `memory`, may be read by threads at once."""

    protocol = "bucket"

    @classmethod
    def _strip_protocol(cls, path: Any) -> str:
        return str(path).removeprefix("bucket://")


fsspec.register_implementation("bucket", Bucket)


@pytest.fixture(params=["folder", "file", "memory", "bucket"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """An empty registry on each kind of store."""
    name = f"registry-{uuid.uuid4().hex}"
    folder = tmp_path / name
    yield {"folder": f"{folder}", "file": f"file://{folder}", "memory": f"memory://{name}", "bucket": f"bucket://{folder}"}[request.param]
    if request.param == "memory":
        store = fsspec.filesystem("memory")
        if store.exists(f"/{name}"):
            store.rm(f"/{name}", recursive=True)


def files_of(url: str) -> list[str]:
    """Every file under a registry."""
    store, root = fsspec.core.url_to_fs(url)
    return [str(p) for p in store.find(root)]


def test_ids_rise(url: str, draft: Path, tmp_path: Path) -> None:
    """An empty registry has no latest; each publication gets the next id, which its manifest carries."""
    registry = Registry(url, tmp_path / "cache")
    assert registry.ids() == []
    assert registry.latest() is None
    published = [registry.publish(draft) for _ in range(3)]
    assert [m.id for m in published] == ["g-000001", "g-000002", "g-000003"] == registry.ids()
    assert registry.latest() == "g-000003"
    assert registry.manifest("g-000002") == published[1]
    assert published[0].registry == url


def test_what_is_fetched_is_what_was_published(url: str, draft: Path, tmp_path: Path) -> None:
    """A fetched generation opens, has its id, and its encoder gives the stored vectors; a second fetch is the same folder."""
    registry = Registry(url, tmp_path / "cache")
    generation_id = registry.publish(draft).id
    folder = registry.fetch(generation_id)
    opened = Generation.open(folder)
    assert opened.id == generation_id
    assert opened.verify_parity(opened.encoder(providers=[CPU])) > 0.999
    assert registry.fetch(generation_id) == folder


def test_a_folder_registry_copies_nothing(draft: Path, tmp_path: Path) -> None:
    """Workers on the registry's own host map the registry's own files."""
    registry = Registry(str(tmp_path / "registry"), tmp_path / "cache")
    assert registry.fetch(registry.publish(draft).id) == tmp_path / "registry" / "g-000001"
    assert not (tmp_path / "cache").exists()


def test_publishers_at_once_never_share_an_id(url: str, draft: Path, tmp_path: Path) -> None:
    """Six publishers at the same moment: six ids, six whole generations."""
    gate = threading.Barrier(6)

    def publish(_: int) -> str:
        registry = Registry(url, tmp_path / "cache")
        gate.wait()
        return registry.publish(draft).id

    with ThreadPoolExecutor(6) as pool:
        ids = list(pool.map(publish, range(6)))
    registry = Registry(url, tmp_path / "cache")
    assert len(set(ids)) == 6
    assert sorted(ids) == registry.ids()
    for generation_id in ids:
        assert Generation.open(registry.fetch(generation_id)).id == generation_id


def test_of_two_claims_at_one_moment_neither_wins(url: str, draft: Path, tmp_path: Path) -> None:
    """A publisher that sees another's claim beside its own goes on to the next id after a wait."""
    root = fsspec.core.url_to_fs(url)[1]
    waits: list[float] = []
    registry = Registry(url, tmp_path / "cache", sleep=waits.append, draw=lambda: 1.0)
    real, rivals = registry._store.pipe_file, iter([b"rival"])  # noqa: SLF001 - the moment between writing and listing has no other name

    def pipe_file(path: str, data: bytes, **given: Any) -> None:
        real(path, data, **given)
        if rival := next(rivals, None):
            real(f"{root}/g-000001/claim-rival", rival)

    registry._store.pipe_file = pipe_file  # noqa: SLF001
    try:
        assert registry.publish(draft).id == "g-000002"
    finally:
        registry._store.pipe_file = real  # noqa: SLF001
    assert waits == [0.05]
    assert registry.ids() == ["g-000002"]


def test_without_a_manifest_it_does_not_exist(url: str, draft: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A publisher that dies before the manifest leaves nothing to be found, and its id is never given again."""
    registry = Registry(url, tmp_path / "cache")

    def die(*_: Any) -> None:
        raise OSError("connection lost")

    with monkeypatch.context() as patched:
        patched.setattr(registry, "_write", die)
        with pytest.raises(ArtefactError, match="connection lost") as caught:
            registry.publish(draft)
    assert caught.value.retryable
    assert registry.ids() == []
    assert registry.latest() is None
    with pytest.raises(ArtefactError, match="no_generation"):
        registry.fetch("g-000001")
    assert registry.publish(draft).id == "g-000002"


def test_a_damaged_draft_is_not_published(url: str, tmp_path: Path) -> None:
    """Sums are checked before the first byte is copied."""
    draft = tiny_bert.write_generation(tmp_path / "draft")
    (draft / VECTORS).write_bytes(b"other")
    with pytest.raises(ArtefactError, match="sha256_mismatch"):
        Registry(url).publish(draft)
    assert files_of(url) == []


@pytest.mark.parametrize("generation_id", ["g-000009", "latest", "../g-000001", "g-1", ""])
def test_an_unknown_id_is_an_error_with_a_remedy(url: str, draft: Path, tmp_path: Path, generation_id: str) -> None:
    """An id that is not published, or is none, never becomes a path."""
    registry = Registry(url, tmp_path / "cache")
    registry.publish(draft)
    with pytest.raises(ArtefactError) as caught:
        registry.fetch(generation_id)
    assert caught.value.remedy


def test_a_copy_that_was_damaged_is_made_again(draft: Path, tmp_path: Path) -> None:
    """A cache whose files have changed is not served: the generation is fetched again."""
    registry = Registry(f"memory://{uuid.uuid4().hex}", tmp_path / "cache")
    generation_id = registry.publish(draft).id
    folder = registry.fetch(generation_id)
    (folder / VECTORS).write_bytes(b"damaged")
    again = registry.fetch(generation_id)
    assert again == folder
    Generation.open(again)


def test_a_store_that_damages_is_found_out(draft: Path, tmp_path: Path) -> None:
    """A file that changed in the store is refused, and nothing of it stays in the cache."""
    url = f"memory://{uuid.uuid4().hex}"
    registry = Registry(url, tmp_path / "cache")
    registry.publish(draft)
    store, root = fsspec.core.url_to_fs(url)
    store.pipe_file(f"{root}/g-000001/{VECTORS}", b"damaged")
    with pytest.raises(ArtefactError, match="sha256_mismatch"):
        registry.fetch("g-000001")
    assert list((tmp_path / "cache").iterdir()) == []


def test_workers_of_a_host_fetch_at_once(draft: Path, tmp_path: Path) -> None:
    """Four workers that fetch the same generation at once all get the same whole copy."""
    url = f"bucket://{tmp_path}/registry"
    generation_id = Registry(url, tmp_path / "cache").publish(draft).id
    with ThreadPoolExecutor(4) as pool:
        folders = set(pool.map(lambda _: Registry(url, tmp_path / "cache").fetch(generation_id), range(4)))
    assert len(folders) == 1
    Generation.open(folders.pop())
    assert len(list((tmp_path / "cache").iterdir())) == 1


def test_registries_with_equal_ids_do_not_share_a_copy(draft: Path, tmp_path: Path) -> None:
    """Two registries may both have a g-000001: each is fetched to a place of its own."""
    other = tiny_bert.write_generation(tmp_path / "other", count=3)
    urls = [f"memory://{uuid.uuid4().hex}" for _ in range(2)]
    for url, folder in zip(urls, (draft, other), strict=True):
        Registry(url).publish(folder)
    counts = [Generation.open(Registry(url, tmp_path / "cache").fetch("g-000001")).manifest.items for url in urls]
    assert counts == [8, 3]


def test_a_url_that_nothing_serves_is_an_error() -> None:
    """An unknown scheme is told with the remedy, at once."""
    with pytest.raises(ArtefactError, match="bad_registry"):
        Registry("nosuchstore://bucket/path")


def test_foreign_folders_are_ignored(draft: Path, tmp_path: Path) -> None:
    """Only folders named as ids count; others may lie beside them."""
    (tmp_path / "registry" / "g-latest").mkdir(parents=True)
    (tmp_path / "registry" / "notes.txt").write_text("hello")
    registry = Registry(str(tmp_path / "registry"))
    assert registry.publish(draft).id == "g-000001"
    assert registry.ids() == ["g-000001"]
    assert (tmp_path / "registry" / "g-000001" / NAME).exists()


def test_old_copies_go(draft: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rule: a host keeps the copies that were used last, and no more than it says."""
    monkeypatch.setattr("engine.registry.CACHED", 2)
    registry = Registry(f"memory://registry-{uuid.uuid4().hex}", tmp_path / "cache")
    ids = [registry.publish(draft).id for _ in range(3)]
    for n, one in enumerate((ids[0], ids[1], ids[0])):
        os.utime(registry.fetch(one), (n, n))
    registry.fetch(ids[2])
    assert sorted(path.name[:8] for path in (tmp_path / "cache").iterdir()) == [ids[0], ids[2]]
