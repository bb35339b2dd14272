"""Where generations are kept: a folder or any object store that fsspec reaches. Not which of them is active: a Kafka record says that."""

from __future__ import annotations

import hashlib
import os
import random
import secrets
import shutil
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import fsspec
import msgspec

from engine.errors import ArtefactError
from engine.generation import check_sums, read_manifest
from engine.manifest import ID, NAME, Manifest, decode_manifest, encode_manifest

CLAIM = "claim-"
"""Start of the name of the empty file by which a publisher claims an id."""
TRIES = 20
"""Claims a publisher makes before it gives up: with ten of them at once about three are needed."""
CACHED = 8
"""Copies of an object store's generations on a host, of all registries: the active one, its parent, and some that were tried."""
_LOCAL = ("file", "local")


class Registry:
    """Generations under one URL, each a folder named by its id.

    Publishing takes an id that no other publisher has and writes the manifest last; a folder without a manifest is no generation.
    """

    def __init__(
        self,
        url: str,
        cache: Path | None = None,
        *,
        options: Mapping[str, Any] | None = None,
        sleep: Callable[[float], None] = time.sleep,
        draw: Callable[[], float] = random.random,
    ) -> None:
        """Open a registry.

        Args:
            url: a folder, or a URL that fsspec knows.
            cache: where generations of an object store are put; the workers of a host share it.
            options: fsspec's options for the store.
            sleep: waits a number of seconds.
            draw: gives numbers from 0 to 1.

        Raises:
            ArtefactError: fsspec cannot open such a URL.
        """
        try:
            self._store, self._root = fsspec.core.url_to_fs(url, **dict(options or {}))
        except (ValueError, ImportError, OSError) as error:
            remedy = "name a folder or a URL of an installed fsspec file system"
            raise ArtefactError("bad_registry", f"{url}: {error}", "a folder or an object store", remedy) from error
        self.url = url
        self._root = self._root.rstrip("/")
        protocol = self._store.protocol
        self._local = (protocol if isinstance(protocol, str) else protocol[0]) in _LOCAL
        self._cache = cache or Path("~/.cache/headwater/generations").expanduser()
        self._sleep = sleep
        self._draw = draw

    def ids(self) -> list[str]:
        """Give the ids of what is published, oldest first.

        Raises:
            ArtefactError: the store does not answer.
        """
        with _Store("list", self.url):
            return sorted((i for i in self._folders() if self._store.exists(self._path(i, NAME))), key=number_of)

    def latest(self) -> str | None:
        """Give the highest id that is published, or None.

        Raises:
            ArtefactError: the store does not answer.
        """
        with _Store("list", self.url):
            downwards = sorted(self._folders(), key=number_of, reverse=True)
            return next((i for i in downwards if self._store.exists(self._path(i, NAME))), None)

    def manifest(self, generation_id: str) -> Manifest:
        """Read the manifest of a generation.

        Raises:
            ArtefactError: there is no such generation, or the store does not answer.
        """
        self._check(generation_id)
        path = self._path(generation_id, NAME)
        with _Store("read", path):
            self._store.invalidate_cache()
            try:
                data = self._store.cat_file(path)
            except FileNotFoundError:
                known = ", ".join(self.ids()[-5:]) or "none"
                remedy = "name one of those; one that is being published appears when it is complete"
                raise ArtefactError("no_generation", f"{generation_id} in {self.url}", f"one of {known}", remedy) from None
        return decode_manifest(data, path)

    def publish(self, folder: Path) -> Manifest:
        """Publish a folder under the next id.

        1. The draft is read and its sums are checked: nothing unfit is copied.
        2. An id is claimed, higher than any claimed before, that no other publisher holds.
        3. The files are copied.
        4. The manifest with the id is written, whole or not at all: from now on the generation exists.

        A crash before 4 leaves a claimed id without a manifest, which is never used again. Ids rise in the order of claims.

        Returns:
            The manifest as published, with its id and the registry's URL.

        Raises:
            ArtefactError: the folder is not a complete generation, or the store does not answer.
        """
        draft = read_manifest(folder)
        check_sums(folder, {**draft.files, **draft.training})  # 1
        with _Store("write", self.url):
            generation_id = self._claim()  # 2
            for name in (*draft.files, *draft.training):  # 3
                self._store.put_file(str(folder / name), self._path(generation_id, name))
            manifest = msgspec.structs.replace(draft, id=generation_id, registry=self.url)
            self._write(self._path(generation_id, NAME), encode_manifest(manifest))  # 4
        return manifest

    def fetch_training(self, generation_id: str, name: str, folder: Path) -> Path:
        """Copy a file that only trainers need into a folder, and check its sum.

        Raises:
            ArtefactError: the generation has no such file, it is damaged, or the store does not answer.
        """
        manifest = self.manifest(generation_id)
        if name not in manifest.training:
            found = f"no {name} in {generation_id}, which has {', '.join(sorted(manifest.training)) or 'nothing to train from'}"
            raise ArtefactError(
                "no_training_file", found, name, "export a generation with this release, or name a checkpoint to begin with"
            )
        with _Store("read", self.url):
            self._store.get_file(self._path(generation_id, name), str(folder / name))
        check_sums(folder, {name: manifest.training[name]})
        return folder / name

    def fetch(self, generation_id: str) -> Path:
        """Give a local folder with the generation: the registry's own if that is a folder, else a copy in the cache.

        A copy appears whole or not at all, so that several workers of a host may fetch at once; it has no files for training.

        Raises:
            ArtefactError: there is no such generation, a copy is damaged, or the store does not answer.
        """
        manifest = self.manifest(generation_id)
        if self._local:
            return Path(self._path(generation_id))
        # Two registries may each have a g-000001: the sums tell them apart.
        place = self._cache / f"{generation_id}-{fingerprint(manifest)}"
        if _whole(place, manifest):
            os.utime(place)
            return place
        self._cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{generation_id}-", dir=self._cache) as scratch:
            copy = Path(scratch) / "copy"
            copy.mkdir()
            with _Store("read", self.url):
                for name in manifest.files:
                    self._store.get_file(self._path(generation_id, name), str(copy / name))
            check_sums(copy, manifest.files)
            (copy / NAME).write_bytes(encode_manifest(manifest))
            try:
                copy.replace(place)
            except OSError:  # the place is taken: by another worker that was first, or by a damaged copy
                if not _whole(place, manifest):
                    place.replace(Path(scratch) / "damaged")
                    copy.replace(place)
        self._tidy()
        return place

    def _tidy(self) -> None:
        """Remove copies beyond `CACHED`, those used longest ago first; one that is mapped lives on until it is let go."""
        copies = sorted(self._cache.glob("g-*-*"), key=lambda one: one.stat().st_mtime, reverse=True)
        for one in copies[CACHED:]:
            shutil.rmtree(one, ignore_errors=True)

    def remove(self, generation_id: str) -> None:
        """Remove a generation: its manifest first, so that it is none from then on, whatever happens.

        Raises:
            ArtefactError: there is no such generation, or the store does not answer.
        """
        self.manifest(generation_id)
        with _Store("remove", self._path(generation_id)):
            self._store.rm_file(self._path(generation_id, NAME))
            self._store.rm(self._path(generation_id), recursive=True)

    def remove_unfinished(self, before: str) -> list[str]:
        """Remove what publishers and removers that died have left: folders without a manifest, of ids below `before`; gives the ids.

        Ids rise, so a publisher at work has one that is higher than those of old.

        Raises:
            ArtefactError: the store does not answer.
        """
        with _Store("remove", self.url):
            left = sorted({one for one in self._folders() if number_of(one) < number_of(before)} - set(self.ids()))
            for one in left:
                self._store.rm(self._path(one), recursive=True)
        return left

    def read_mark(self, name: str) -> bytes | None:
        """Read a small object beside the generations; None where there is none.

        Raises:
            ArtefactError: the store does not answer.
        """
        with _Store("read", self._path(name)):
            self._store.invalidate_cache()
            try:
                return bytes(self._store.cat_file(self._path(name)))
            except FileNotFoundError:
                return None

    def write_mark(self, name: str, data: bytes) -> None:
        """Write a small object beside the generations, whole or not at all.

        Raises:
            ArtefactError: the store does not answer.
        """
        with _Store("write", self._path(name)):
            self._store.makedirs(self._root, exist_ok=True)
            self._write(self._path(name), data)

    def remove_mark(self, name: str) -> None:
        """Remove it, if it is there.

        Raises:
            ArtefactError: the store does not answer.
        """
        with _Store("remove", self._path(name)):
            try:
                self._store.rm_file(self._path(name))
            except FileNotFoundError:
                return

    def _claim(self) -> str:
        """Claim an id that is ours alone, with nothing but writing and listing.

        Write a claim, then list: alone, it is ours. Of two publishers the one whose claim was written later sees the other's, so never two
        have an id; that both see each other is possible, then both go on to another id after a wait drawn at random. The store must list
        what was written (S3, GCS, Azure and file systems do).
        """
        for attempt in range(TRIES):
            generation_id = f"g-{max(map(number_of, self._folders()), default=0) + 1:06d}"
            own = f"{CLAIM}{secrets.token_hex(8)}"
            self._store.makedirs(self._path(generation_id), exist_ok=True)
            self._store.pipe_file(self._path(generation_id, own), b"claimed\n")  # not empty: some stores hide empty objects
            self._store.invalidate_cache()
            names = {str(n).rsplit("/", 1)[-1] for n in self._store.ls(self._path(generation_id), detail=False)}
            if {n for n in names if n} == {own}:
                return generation_id
            self._sleep(self._draw() * 0.05 * 2 ** min(attempt, 5))
        found = f"{TRIES} ids claimed by others as well"
        raise ArtefactError("registry_busy", found, "an id of its own", "publish again", retryable=True)

    def _folders(self) -> list[str]:
        self._store.invalidate_cache()
        try:
            names = [str(n).rstrip("/").rsplit("/", 1)[-1] for n in self._store.ls(self._root, detail=False)]
        except FileNotFoundError:
            return []
        return [n for n in names if ID.match(n)]

    def _write(self, path: str, data: bytes) -> None:
        if not self._local:
            self._store.pipe_file(path, data)  # an object appears whole
            return
        part = Path(f"{path}.{secrets.token_hex(4)}.part")  # of its own: two may write a lease at once
        with part.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)

    def _path(self, *names: str) -> str:
        return "/".join((self._root, *names))

    @staticmethod
    def _check(generation_id: str) -> None:
        if not ID.match(generation_id):
            raise ArtefactError("bad_generation_id", repr(generation_id), "g- and six digits or more", "name a published generation")


class _Store:
    """Turn a store's own errors into one that says whether trying again helps."""

    def __init__(self, doing: str, where: str) -> None:
        self._doing, self._where = doing, where

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, OSError):
            found = f"could not {self._doing} {self._where}: {type(error).__name__}: {error}"
            missing = isinstance(error, FileNotFoundError | PermissionError)
            remedy = "check the URL and the rights" if missing else "try again; then check the store"
            raise ArtefactError("registry_failed", found, "a registry that answers", remedy, retryable=not missing) from error


def number_of(generation_id: str) -> int:
    """Give the number in an id.

    >>> number_of("g-000042")
    42
    """
    return int(generation_id.removeprefix("g-"))


def fingerprint(manifest: Manifest) -> str:
    """What tells a generation from another one of the same id in another registry: twelve hex digits over names and sums of its files."""
    return hashlib.blake2b(repr(sorted(manifest.files.items())).encode(), digest_size=6).hexdigest()


def _whole(place: Path, manifest: Manifest) -> bool:
    try:
        check_sums(place, manifest.files)
    except ArtefactError:
        return False
    return (place / NAME).exists()
