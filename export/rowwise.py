"""int8 with a scale for each token: closer to fp32 than one scale for a call, and no text's vector depends on others. Not Optimum's.

Each product x·W becomes (x / m) → int8 per token → u8 × s8 → float, with W·m in int8 per column, where m moves the large channels of the
activations into the weights (SmoothQuant, Xiao et al., arXiv 2211.10438). Optimum's dynamic forms have one scale for a whole tensor;
`headwater export` prints how much of the fp32 ranking each of them keeps.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from engine.errors import ArtefactError, shorten

MIGRATION = 0.7
"""SmoothQuant's alpha: how much of the activations' range moves into the weights; of .5 to .85 none kept more of the demo's ranking."""
ZERO = np.uint8(128)
"""Zero point of the activations: fixed, so that only the scale differs by token."""
_LEVELS = {False: 127, True: 63}
"""Largest weight; with a reduced range 2 × 255 × 63 stays below 2^15, where CPUs without VNNI saturate."""
_TINY = 1e-5


def quantize_rowwise(graph: Path, token_ids: Sequence[Sequence[int]], target: Path, *, reduce_range: bool) -> Path:
    """Write the int8 form of a plain fp32 graph.

    Products that narrow (the second half of a feed-forward layer) stay fp32: their inputs, behind the GELU, have the largest outliers.

    Args:
        graph: the fp32 graph.
        token_ids: tokens of some texts of the catalogue, to see the range of each channel.
        target: the file to write.
        reduce_range: weights of 7 bits, for x64 CPUs without VNNI.

    Raises:
        ArtefactError: the graph cannot be read, run or written.
    """
    import onnx  # noqa: PLC0415 - only an exporter has it

    try:
        model = onnx.load(str(graph))
        weights = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
        products = [node for node in model.graph.node if _widens(node, weights)]
        users: dict[str, list[Any]] = {}
        for node in products:
            users.setdefault(node.input[0], []).append(node)
        _rewrite(onnx, model, weights, users, _ranges(onnx, graph, list(users), token_ids), _LEVELS[reduce_range])
        onnx.save(model, str(target))
    except Exception as error:  # onnx and ONNX Runtime share no class of errors
        found = f"row-wise int8: {type(error).__name__}: {shorten(str(error), 300)}"
        raise ArtefactError("quantize_failed", found, "a plain fp32 graph", "serve fp32") from error
    return target


def smoothing(activations: NDArray[np.float32], weights: NDArray[np.float32], migration: float = MIGRATION) -> NDArray[np.float32]:
    """Give m, by which activations are divided and weights multiplied, per channel, of the largest absolute value of each.

    >>> smoothing(np.float32([16, 1]), np.float32([1, 1]), 0.5).tolist()
    [4.0, 1.0]
    """
    scale = np.maximum(activations, _TINY) ** migration / np.maximum(weights, _TINY) ** (1 - migration)
    return np.maximum(scale, _TINY).astype(np.float32)


def _widens(node: Any, weights: Mapping[str, NDArray[Any]]) -> bool:
    weight = weights.get(node.input[1]) if node.op_type == "MatMul" else None
    return weight is not None and weight.ndim == len(("in", "out")) and weight.shape[0] <= weight.shape[1]


def _ranges(onnx: Any, graph: Path, names: list[str], token_ids: Iterable[Sequence[int]]) -> dict[str, NDArray[np.float32]]:
    """Largest absolute value of each channel of the named tensors, over the texts."""
    model = onnx.load(str(graph))
    there = {output.name for output in model.graph.output}
    model.graph.output.extend(onnx.helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, None) for n in names if n not in there)
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    wanted = {i.name for i in session.get_inputs()}
    largest: dict[str, NDArray[np.float32]] = {}
    for tokens in token_ids:
        ids = np.array([tokens], np.int64)
        feed = {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": np.zeros_like(ids)}
        for name, value in zip(names, session.run(names, {k: v for k, v in feed.items() if k in wanted}), strict=True):
            seen = np.abs(value).reshape(-1, value.shape[-1]).max(axis=0)
            largest[name] = np.maximum(largest.get(name, seen), seen)
    return largest


def _rewrite(
    onnx: Any,
    model: Any,
    weights: Mapping[str, NDArray[Any]],
    users: Mapping[str, list[Any]],
    ranges: Mapping[str, NDArray[np.float32]],
    levels: int,
) -> None:
    nodes: list[Any] = []
    tensors: list[Any] = []

    def constant(name: str, value: Any) -> str:
        tensors.append(onnx.numpy_helper.from_array(np.asarray(value), name))
        return name

    def add(kind: str, inputs: list[str], output: str, **more: Any) -> str:
        nodes.append(onnx.helper.make_node(kind, inputs, [output], name=output, **more))
        return output

    one, zero = constant("rowwise_one", np.float32(1)), constant("rowwise_zero", ZERO)
    step, tiny = constant("rowwise_step", np.float32(1 / 127)), constant("rowwise_tiny", np.float32(1e-8))
    last = constant("rowwise_last_axis", np.array([-1], np.int64))
    moved: dict[str, NDArray[np.float32]] = {}
    gone = set()
    for node in model.graph.node:
        source = node.input[0] if node.input else ""
        if all(node.output[0] != user.output[0] for user in users.get(source, ())):
            nodes.append(node)
            continue
        if source not in moved:
            moved[source] = smoothing(ranges[source], np.max([np.abs(weights[u.input[1]]).max(axis=1) for u in users[source]], axis=0))
            smooth = add("Mul", [source, constant(f"{source}_inverse", 1 / moved[source])], f"{source}_smooth")
            largest = add("ReduceMax", [add("Abs", [smooth], f"{source}_abs"), last], f"{source}_largest", keepdims=1)
            scale = add("Max", [add("Mul", [largest, step], f"{source}_step"), tiny], f"{source}_scale")
            add("QuantizeLinear", [add("Div", [smooth, scale], f"{source}_steps"), one, zero], f"{source}_int8")
        name = node.output[0]  # a node's own name may be empty
        weight = weights[node.input[1]] * moved[source][:, None]
        scales = np.maximum(np.abs(weight).max(axis=0) / levels, 1e-12).astype(np.float32)
        whole = constant(f"{name}_int8", np.rint(weight / scales).clip(-levels, levels).astype(np.int8))
        inputs = [f"{source}_int8", whole, one, constant(f"{name}_scales", scales), zero]
        product = add("MatMulIntegerToFloat", inputs, f"{name}_product", domain="com.microsoft")
        nodes.append(onnx.helper.make_node("Mul", [product, f"{source}_scale"], list(node.output), name=f"{name}_scaled"))
        gone.add(node.input[1])
    still_used = {used for node in nodes for used in node.input}
    kept = [tensor for tensor in model.graph.initializer if tensor.name not in gone or tensor.name in still_used]
    for field, content in ((model.graph.node, nodes), (model.graph.initializer, [*kept, *tensors])):
        copies = [type(part).FromString(part.SerializeToString()) for part in content]  # protobuf parts die with the list they stand in
        del field[:]
        field.extend(copies)
    if all(opset.domain != "com.microsoft" for opset in model.opset_import):
        model.opset_import.append(onnx.helper.make_opsetid("com.microsoft", 1))
