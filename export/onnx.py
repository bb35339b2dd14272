"""A checkpoint made an fp32 ONNX graph by Optimum. Pooling is not in the graph (see `engine.pooling`); nothing is quantized here."""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from engine.errors import ArtefactError, shorten
from engine.manifest import TOKENIZER
from export.checkpoint import Checkpoint

GRAPH = "model.onnx"
_LOUD = ("transformers", "optimum", "torch", "onnxruntime", "onnxscript", "root")


def require_extra() -> None:
    """Make sure that torch, transformers and Optimum are installed, and that no hub is asked.

    Raises:
        ArtefactError: one of them is missing.
    """
    os.environ.setdefault("HF_HUB_OFFLINE", "1")  # read when huggingface_hub is imported
    try:
        import optimum.exporters.onnx  # noqa: F401, PLC0415 - seconds, and gigabytes that a worker does not have
    except ImportError as error:
        found = f"no module {error.name}"
        raise ArtefactError("no_export_extra", found, "torch, transformers and Optimum", "pip install 'headwater[export]'") from error


def export_fp32(checkpoint: Checkpoint, folder: Path) -> Path:
    """Write the graph and the tokenizer of a checkpoint into a folder; Optimum compares the graph's outputs with torch's.

    Returns:
        The graph's path: inputs (B, L) int64, output `last_hidden_state` (B, L, D) float32, batch and length dynamic.

    Raises:
        ArtefactError: the export extra is missing, Optimum cannot export the checkpoint, or it has no fast tokenizer.
    """
    require_extra()
    from optimum.exporters.onnx import main_export  # noqa: PLC0415

    try:
        with quiet():
            main_export(
                str(checkpoint.folder),
                str(folder),
                task="feature-extraction",
                library_name="transformers",
                framework="pt",
                do_validation=True,
                local_files_only=True,
            )
    except Exception as error:  # torch, transformers and Optimum share no class of errors
        found = f"{checkpoint.name}: {type(error).__name__}: {shorten(str(error), 300)}"
        raise ArtefactError("export_failed", found, "a BERT checkpoint that Optimum can export", "load it with transformers") from error
    if not (folder / TOKENIZER).exists():
        raise ArtefactError("no_fast_tokenizer", checkpoint.name, TOKENIZER, "save the tokenizer with AutoTokenizer(use_fast=True)")
    return folder / GRAPH


@contextmanager
def quiet() -> Iterator[None]:
    """Keep what these libraries say about themselves from the progress bars; errors are still raised."""
    levels = {name: logging.getLogger(name).level for name in _LOUD}
    try:
        for name in levels:
            logging.getLogger(name).setLevel(logging.ERROR)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)
