"""Dynamic int8 forms of an fp32 graph, as the CPU's flags allow. Whether one may be served is not decided here (see `export.fidelity`)."""

from __future__ import annotations

import platform
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from engine.errors import ArtefactError, shorten
from engine.manifest import Variant
from export.onnx import quiet, require_extra
from export.rowwise import quantize_rowwise

VNNI = frozenset({"avx512_vnni", "avx_vnni", "amx_int8"})
"""Flags of x64 CPUs that multiply u8 by s8 without saturating."""
FULL = ("MatMul", "Gather")
"""Weights and the word table; with the table the file shrinks to a quarter, without to two thirds."""
MATMUL = ("MatMul",)
_X64 = ("x86_64", "amd64")


@dataclass(frozen=True, slots=True)
class Preset:
    """One way to quantize.

    ``reduce_range``: weights of 7 bits, so that pairs of products fit into 16 bits without VNNI; ``rowwise``: see `export.rowwise`.
    """

    name: str
    operators: tuple[str, ...]
    per_channel: bool
    reduce_range: bool
    rowwise: bool = False

    def variant(self, size: int) -> Variant:
        """What a manifest says of it before it is measured; `size` in bytes."""
        how: dict[str, Any] = {"mode": "dynamic", **asdict(self), "operators": list(self.operators)}
        # With one scale for all activations of a call, texts must not share a call (microsoft/onnxruntime #10111).
        return Variant(precision="int8", batching="equal_length" if self.rowwise else "single", quantization=how, bytes=size)


def cpu_flags(path: Path = Path("/proc/cpuinfo")) -> frozenset[str]:
    """Give this machine's CPU flags; none where the system does not tell, which is taken for a CPU without VNNI."""
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return frozenset()
    words = (line.partition(":")[2].split() for line in lines if line.startswith(("flags", "Features")))
    return frozenset(next(words, []))


def presets(flags: Collection[str], machine: str | None = None) -> tuple[Preset, ...]:
    """Give what is worth trying on a CPU, the smallest file first.

    Without VNNI u8 × s8 saturates on x64 (microsoft/onnxruntime #6004, #14642): there the weights keep 7 bits.

    >>> [p.reduce_range for p in presets({"avx2"}, "x86_64")], [p.reduce_range for p in presets({"avx512_vnni"}, "x86_64")]
    ([True, True, True, True], [False, False, False, False])
    """
    narrow = (machine or platform.machine()).lower() in _X64 and not VNNI & set(flags)
    return (
        Preset("int8-full", FULL, per_channel=False, reduce_range=narrow),
        Preset("int8-full-per-channel", FULL, per_channel=True, reduce_range=narrow),
        Preset("int8-matmul-per-channel", MATMUL, per_channel=True, reduce_range=narrow),
        Preset("int8-rowwise", MATMUL, per_channel=True, reduce_range=narrow, rowwise=True),
    )


def quantize(graph: Path, preset: Preset, folder: Path, token_ids: Sequence[Sequence[int]] = ()) -> Path:
    """Write a quantized form of a plain fp32 graph (not of an optimized one: huggingface/optimum #2186) and give its path.

    Products of two activations stay fp32: they have no weights to shrink, and each would add two roundings. `token_ids` are tokens of some
    texts of the catalogue, which a row-wise form looks at, and others do not need.

    Raises:
        ArtefactError: the export extra is missing, or Optimum cannot quantize the graph.
    """
    require_extra()
    path = folder / f"{graph.stem}_{preset.name}.onnx"
    if preset.rowwise:
        return quantize_rowwise(graph, token_ids, path, reduce_range=preset.reduce_range)
    from onnxruntime.quantization import QuantFormat, QuantizationMode, QuantType  # noqa: PLC0415
    from optimum.onnxruntime import ORTQuantizer  # noqa: PLC0415
    from optimum.onnxruntime.configuration import QuantizationConfig  # noqa: PLC0415

    config = QuantizationConfig(
        is_static=False,
        format=QuantFormat.QOperator,
        mode=QuantizationMode.IntegerOps,
        activations_dtype=QuantType.QUInt8,
        weights_dtype=QuantType.QInt8,
        per_channel=preset.per_channel,
        reduce_range=preset.reduce_range,
        operators_to_quantize=list(preset.operators),
        nodes_to_exclude=_weightless(graph),
    )
    try:
        with quiet():
            ORTQuantizer.from_pretrained(graph.parent, file_name=graph.name).quantize(config, folder, file_suffix=preset.name)
    except Exception as error:  # Optimum and ONNX Runtime share no class of errors
        found = f"{preset.name}: {type(error).__name__}: {shorten(str(error), 300)}"
        raise ArtefactError("quantize_failed", found, "a plain fp32 graph", "serve fp32") from error
    return path


def _weightless(graph: Path) -> list[str]:
    import onnx  # noqa: PLC0415

    model = onnx.load(str(graph), load_external_data=False)
    weights = {tensor.name for tensor in model.graph.initializer}
    return [node.name for node in model.graph.node if node.op_type == "MatMul" and not weights & set(node.input)]
