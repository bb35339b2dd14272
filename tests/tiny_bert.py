"""A random BERT of two layers with a vocabulary of its own, as a checkpoint folder. Not a test, and no good at meaning."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import numpy as np

from engine.generation import sha256_of
from engine.manifest import CENTRE, ITEMS, NAME, PROBES, TOKENIZER, VECTORS, Manifest, Variant, encode_manifest
from engine.pooling import centre_rows, unit
from engine.text import Template, text_hash

WORDS = tuple(f"{a}{b}" for a in ("ka", "lo", "mi", "nu", "pe", "ra", "so", "ti") for b in ("ba", "do", "fe", "gu", "hy", "jo", "ke", "lu"))
DIMS = 32


def texts(count: int, seed: int = 3) -> list[str]:
    """Different texts of 1 to 12 words."""
    draw = np.random.default_rng(seed)
    return [f"{n} " + " ".join(draw.choice(WORDS, int(draw.integers(1, 12)))) for n in range(count)]


def write_tokenizer(path: Path) -> None:
    """Write a WordPiece tokenizer of the words, digits and letters."""
    from tokenizers import (  # type: ignore[import-untyped, unused-ignore]
        Tokenizer,
        models,
        normalizers,
        pre_tokenizers,
        processors,
    )

    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *WORDS, *"0123456789", *(f"##{d}" for d in range(10))]
    tokenizer = Tokenizer(models.WordPiece({p: n for n, p in enumerate(pieces)}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    tokenizer.save(str(path))


def write_checkpoint(folder: Path, pooling: str | None = "mean_tokens", *, dims: int = DIMS) -> Path:
    """Write a checkpoint as sentence-transformers would; wants the export extra."""
    import torch
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    folder.mkdir(parents=True)
    torch.manual_seed(1)
    config = BertConfig(
        vocab_size=len(WORDS) + 24,
        hidden_size=dims,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=2 * dims,
        max_position_embeddings=48,
        initializer_range=0.3,
    )
    BertModel(config).eval().save_pretrained(str(folder))
    write_tokenizer(folder / TOKENIZER)
    PreTrainedTokenizerFast(
        tokenizer_file=str(folder / TOKENIZER), unk_token="[UNK]", pad_token="[PAD]", cls_token="[CLS]", sep_token="[SEP]"
    ).save_pretrained(str(folder))
    if pooling:
        (folder / "1_Pooling").mkdir()
        (folder / "1_Pooling" / "config.json").write_text(json.dumps({f"pooling_mode_{pooling}": True, "word_embedding_dimension": dims}))
    return folder


def write_graph(path: Path, *, vocabulary: int = 128, dims: int = DIMS, seed: int = 5) -> None:
    """Write a graph with a BERT's inputs and output that looks words up and mixes neighbours; wants onnx only."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    draw = np.random.default_rng(seed)
    table, weights = (draw.normal(size=s).astype(np.float32) for s in ((vocabulary, dims), (dims, dims)))
    ids, mask = (helper.make_tensor_value_info(n, TensorProto.INT64, ["b", "l"]) for n in ("input_ids", "attention_mask"))
    hidden = helper.make_tensor_value_info("last_hidden_state", TensorProto.FLOAT, ["b", "l", dims])
    nodes = [
        helper.make_node("Gather", ["table", "input_ids"], ["words"]),
        helper.make_node("MatMul", ["words", "weights"], ["mixed"]),
        helper.make_node("Tanh", ["mixed"], ["last_hidden_state"]),
    ]
    tensors = [numpy_helper.from_array(table, "table"), numpy_helper.from_array(weights, "weights")]
    model = helper.make_model(
        helper.make_graph(nodes, "tiny", [ids, mask], [hidden], tensors), opset_imports=[helper.make_opsetid("", 17)], ir_version=8
    )
    onnx.save(model, str(path))


def write_generation(folder: Path, count: int = 8, *, seed: int = 5, batching: str = "equal_length") -> Path:
    """Write a draft generation around `write_graph`, with true vectors; wants onnx, no torch."""
    from engine.encoder import Encoder, open_tokenizer

    folder.mkdir(parents=True)
    write_graph(folder / "model-fp32.onnx", seed=seed)
    write_tokenizer(folder / TOKENIZER)
    variant = msgspec.convert({"file": "model-fp32.onnx", "batching": batching}, Variant)
    rows = texts(count)
    encoder = Encoder.start(
        folder / variant.file,
        open_tokenizer(folder / TOKENIZER, 24),
        variant,
        pooling="mean",
        dims=DIMS,
        providers=["CPUExecutionProvider"],
    )
    raw = encoder.embed(rows)
    centre = raw.mean(axis=0) if count else np.zeros(DIMS, np.float32)
    np.save(folder / CENTRE, centre)
    np.save(folder / VECTORS, centre_rows(unit(raw), centre).astype(np.float16))
    (folder / ITEMS).write_bytes(msgspec.json.encode([(f"i{n}", text_hash(t)) for n, t in enumerate(rows)]))
    (folder / PROBES).write_bytes(msgspec.json.encode(list(enumerate(rows))[:4]))
    manifest = Manifest(
        files={p.name: sha256_of(p) for p in sorted(folder.iterdir())},
        dims=DIMS,
        max_tokens=24,
        text_template=Template().version,
        centred=True,
        items=count,
        variants={"fp32": variant},
        serving="fp32",
    )
    (folder / NAME).write_bytes(encode_manifest(manifest))
    return folder
