"""A checkpoint as one file beside its generation, from which the next one is trained. Not the generation, and never loaded here."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from collections.abc import Iterator
from pathlib import Path

from engine.errors import ArtefactError
from engine.generation import sha256_of
from export.checkpoint import TOKENIZERS, WEIGHTS, Checkpoint

SWITCHES = {"mean": "pooling_mode_mean_tokens", "cls": "pooling_mode_cls_token", "max": "pooling_mode_max_tokens"}
_KEPT = (
    "config.json",
    *WEIGHTS,
    *TOKENIZERS,
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "merges.txt",
    "sentencepiece.bpe.model",
)
_SHARDS = ("model-*-of-*.safetensors", "pytorch_model-*-of-*.bin")


def settings_of(checkpoint: Checkpoint) -> Iterator[tuple[str, bytes]]:
    """The small files that say how token vectors become one, as sentence-transformers has them: (name, bytes)."""
    modules = (("Transformer", ""), ("Pooling", "1_Pooling"), ("Normalize", "2_Normalize"))
    listed = [
        {"idx": n, "name": str(n), "path": path, "type": f"sentence_transformers.models.{kind}"} for n, (kind, path) in enumerate(modules)
    ]
    pooling = {"word_embedding_dimension": checkpoint.dims, SWITCHES[checkpoint.pooling]: True}
    for name, value in (
        ("modules.json", listed),
        ("1_Pooling/config.json", pooling),
        ("sentence_bert_config.json", {"max_seq_length": checkpoint.max_tokens}),
    ):
        yield name, json.dumps(value, indent=1).encode()


def write_settings(checkpoint: Checkpoint, folder: Path) -> None:
    """Write these files into a folder."""
    for name, data in settings_of(checkpoint):
        path = folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(data)


def pack(checkpoint: Checkpoint, path: Path) -> None:
    """Write a checkpoint's files as a tar, the same bytes for the same files.

    Raises:
        OSError: a file can't be read or written.
    """
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as tar:
        for file in _files_of(checkpoint):
            with file.open("rb") as data:
                info = tarfile.TarInfo(file.name)
                info.size = file.stat().st_size
                tar.addfile(info, data)
        for name, data_ in settings_of(checkpoint):
            info = tarfile.TarInfo(name)
            info.size = len(data_)
            tar.addfile(info, io.BytesIO(data_))


def contents_of(checkpoint: Checkpoint) -> list[tuple[str, str]]:
    """What `pack` would write, (name, sha256): other weights, tokens or settings in the same folder are another checkpoint.

    Raises:
        OSError: a file can't be read.
    """
    found = [(file.name, sha256_of(file)) for file in _files_of(checkpoint)]
    return found + [(name, hashlib.sha256(data).hexdigest()) for name, data in settings_of(checkpoint)]


def unpack(path: Path, folder: Path) -> Path:
    """Write a packed checkpoint's files into a folder, and give it.

    Raises:
        ArtefactError: it is no such file, or one that would write elsewhere.
    """
    try:
        with tarfile.open(path) as tar:
            tar.extractall(folder, filter="data")
    except (OSError, tarfile.TarError) as error:
        raise ArtefactError("bad_checkpoint", f"{path.name}: {error}", "a packed checkpoint", "export the generation again") from error
    return folder


def _files_of(checkpoint: Checkpoint) -> list[Path]:
    found = {p for name in _KEPT if (p := checkpoint.folder / name).is_file()}
    return sorted(found | {p for shape in _SHARDS for p in checkpoint.folder.glob(shape)})
