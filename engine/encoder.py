"""Texts to vectors through ONNX Runtime, the same vector for the same text always. Not the export of a model, and no torch."""

from __future__ import annotations

import contextlib
import ctypes
import io
import logging
import sys
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray
from tokenizers import Tokenizer  # type: ignore[import-untyped, unused-ignore]

from engine.errors import ArtefactError, shorten
from engine.manifest import CENTRE, TOKENIZER, Manifest, Variant
from engine.pooling import Pooling, centre_rows, pool, unit

CPU, CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"
GROUP_TOKENS = {CPU: 2048, CUDA: 16384}
"""Most tokens of one call: 32 texts of 64 tokens. On a CPU more texts in a call are not faster, and their activations take memory."""
_TRIAL = "a short text to try the encoder with"
_ERRORS_ONLY = 3
_log = logging.getLogger(__name__)


def cuda_driver() -> bool:
    """Say whether this machine has a CUDA driver: ONNX Runtime lists the provider of its build, not of the machine."""
    try:
        ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
    except OSError:
        return False
    return True


def load_cuda() -> str:
    """Load the CUDA libraries that pip has installed, which no path leads to; what ONNX Runtime says of those it did not find."""
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        ort.preload_dlls()
    return " ".join(said.getvalue().split())


def choose_provider(
    wanted: Sequence[str] | None, listed: Iterable[str], variant: Variant, has_driver: Callable[[], bool] = cuda_driver
) -> tuple[str, str]:
    """Choose CUDA where it can serve this variant, else the CPU; and say why.

    >>> choose_provider(None, [CUDA, CPU], Variant(), lambda: True)
    ('CUDAExecutionProvider', 'listed, and the machine has a CUDA driver')
    >>> choose_provider(None, [CUDA, CPU], Variant(precision="int8", batching="single"), lambda: True)[1]
    'int8 kernels are for the CPU'
    >>> choose_provider(None, [CUDA, CPU], Variant(), lambda: False)
    ('CPUExecutionProvider', 'CUDA is listed, but the machine has no CUDA driver')
    """
    if wanted is not None and CUDA not in wanted:
        return CPU, "asked for"
    if CUDA not in listed:
        return CPU, "this build of ONNX Runtime has no CUDA"
    if variant.precision == "int8":
        return CPU, "int8 kernels are for the CPU"
    if not has_driver():
        return CPU, "CUDA is listed, but the machine has no CUDA driver"
    return CUDA, "listed, and the machine has a CUDA driver"


def groups_of(lengths: Sequence[int], variant: Variant, most_tokens: int) -> Iterator[list[int]]:
    """Split texts into calls: of equal token length, so that nothing is padded, or one by one.

    >>> list(groups_of([3, 5, 3, 3], Variant(), 6)), list(groups_of([3, 3], Variant(batching="single"), 6))
    ([[0, 2], [3], [1]], [[0], [1]])
    """
    if variant.batching == "single":
        yield from ([i] for i in range(len(lengths)))
        return
    by_length = defaultdict(list)
    for i, length in enumerate(lengths):
        by_length[length].append(i)
    for length in sorted(by_length):
        same, size = by_length[length], max(1, most_tokens // max(1, length))
        yield from (same[start : start + size] for start in range(0, len(same), size))


class Encoder:
    """One variant of a generation's encoder, opened. Safe to use from several threads."""

    def __init__(
        self,
        session: Any,
        tokenizer: Tokenizer,
        variant: Variant,
        *,
        pooling: Pooling,
        dims: int,
        centre: NDArray[np.float32] | None = None,
        threads: int = 1,
    ) -> None:
        self.dims = dims
        self.provider: str = session.get_providers()[0]
        self.variant = variant
        self.threads = max(1, threads)
        self.tokenizer = tokenizer
        self._session = session
        self._pooling: Pooling = pooling
        self._centre = centre
        self._inputs = [i.name for i in session.get_inputs()]
        outputs = [o.name for o in session.get_outputs()]
        self._output = "last_hidden_state" if "last_hidden_state" in outputs else outputs[0]

    @classmethod
    def open(
        cls, folder: Path, manifest: Manifest, *, threads: int = 1, providers: Sequence[str] | None = None, variant: str | None = None
    ) -> Encoder:
        """Open a variant of a generation, the serving one unless told, on CUDA where that works and else on the CPU.

        Args:
            folder: the generation's folder.
            manifest: its manifest.
            threads: texts encoded at a time on a CPU, each on one thread, so that their number never changes a vector.
            providers: ONNX Runtime's names of those that may be used; None for any.
            variant: a variant's name.

        Raises:
            ArtefactError: a file is missing or damaged, or does not fit the manifest.
        """
        chosen = manifest.variant(variant)
        tokenizer = open_tokenizer(folder / TOKENIZER, manifest.max_tokens)
        centre = None
        if manifest.centred:
            centre = _load(folder / CENTRE)
            if centre.shape != (manifest.dims,):
                raise _unfit(folder / CENTRE, f"shape {centre.shape}", f"({manifest.dims},)")
        return cls.start(
            folder / chosen.file,
            tokenizer,
            chosen,
            pooling=manifest.pooling,
            dims=manifest.dims,
            centre=centre,
            threads=threads,
            providers=providers,
        )

    @classmethod
    def start(
        cls,
        graph: Path,
        tokenizer: Tokenizer,
        variant: Variant,
        *,
        pooling: Pooling,
        dims: int,
        centre: NDArray[np.float32] | None = None,
        threads: int = 1,
        providers: Sequence[str] | None = None,
    ) -> Encoder:
        """Start a graph that may not be part of a generation yet, and try it with one text.

        Raises:
            ArtefactError: the graph is missing or damaged, or gives other dimensions.
        """
        provider, why = choose_provider(providers, ort.get_available_providers(), variant)
        missing = load_cuda() if provider == CUDA else ""
        for name in dict.fromkeys((provider, CPU)):
            try:
                session = _session(graph, name)
                encoder = cls(session, tokenizer, variant, pooling=pooling, dims=dims, centre=centre, threads=threads)
                encoder.embed([_TRIAL])
            except Exception as error:  # onnxruntime has no common class for "this provider can't": the CPU is tried next
                if name == CPU:
                    raise _unfit(graph, f"{type(error).__name__}: {error}", "an encoder that ONNX Runtime can run") from error
                why = f"CUDA failed: {shorten(str(error), 200)}"
                continue
            if encoder.provider == name:
                break
            why = f"CUDA could not be loaded: {shorten(missing, 200)}"  # ONNX Runtime took the CPU instead without an error
        _log.info("encoder_opened graph=%s provider=%s reason=%r threads=%d", graph.name, encoder.provider, why, encoder.threads)
        return encoder

    def tokens(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of each text, cut to the budget."""
        # One by one: `encode_batch` would start a thread per core of the machine, whatever this worker's share is.
        return [self.tokenizer.encode(text).ids for text in texts]

    def embed(self, texts: Sequence[str], progress: Callable[[int], None] | None = None) -> NDArray[np.float32]:
        """Give (N, D) float32 unit rows, not centred; `progress` is told how many more texts are done."""
        ids = self.tokens(texts)
        rows = np.zeros((len(ids), self.dims), np.float32)
        calls = list(groups_of([len(i) for i in ids], self.variant, GROUP_TOKENS.get(self.provider, GROUP_TOKENS[CPU])))
        at_a_time = 1 if self.provider != CPU else min(self.threads, len(calls))

        def one(call: list[int]) -> tuple[list[int], NDArray[np.float32]]:
            return call, self._run(np.array([ids[i] for i in call], np.int64))

        if at_a_time > 1:
            with ThreadPoolExecutor(at_a_time, "encode") as threads:
                return self._collect(rows, threads.map(one, calls), progress)
        return self._collect(rows, map(one, calls), progress)

    def encode(self, texts: Sequence[str], progress: Callable[[int], None] | None = None) -> NDArray[np.float32]:
        """Give (N, D) float32 centred unit rows; the row of a text does not depend on the others."""
        rows = self.embed(texts, progress)
        return rows if self._centre is None else centre_rows(rows, self._centre)

    def _collect(
        self, rows: NDArray[np.float32], done: Iterable[tuple[list[int], NDArray[np.float32]]], progress: Callable[[int], None] | None
    ) -> NDArray[np.float32]:
        for call, vectors in done:
            if vectors.shape[1] != self.dims:
                raise _unfit(Path(self.variant.file), f"{vectors.shape[1]} dimensions", str(self.dims))
            rows[call] = vectors
            if progress is not None:
                progress(len(call))
        return rows

    def _run(self, ids: NDArray[np.int64]) -> NDArray[np.float32]:
        mask = np.ones_like(ids)
        given = {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)}
        hidden = self._session.run([self._output], {name: given[name] for name in self._inputs})[0]
        return unit(pool(hidden, mask, self._pooling))


def open_tokenizer(path: Path, max_tokens: int) -> Tokenizer:
    """Open a tokenizer that cuts at the end and pads nothing.

    Raises:
        ArtefactError: it is missing or damaged.
    """
    try:
        tokenizer = Tokenizer.from_file(str(path))
        tokenizer.no_padding()
        tokenizer.enable_truncation(max_tokens)
    except Exception as error:  # the tokenizers library raises plain Exception
        raise _unfit(path, shorten(str(error), 200), "a tokenizer of the tokenizers library") from error
    return tokenizer


def _session(graph: Path, provider: str) -> Any:
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1  # texts run side by side instead: no thread waits for another inside a text
    options.inter_op_num_threads = 1
    options.enable_cpu_mem_arena = False  # it would grow to the largest call ever seen and never shrink
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = _ERRORS_ONLY
    # TF32 would round fp32 to 10 bits of mantissa: vectors made on a CPU and on a GPU must be the same to 1e-4.
    named: list[Any] = [(CUDA, {"use_tf32": "0"}), CPU] if provider == CUDA else [provider]
    return ort.InferenceSession(str(graph), options, providers=named)


def _load(path: Path) -> NDArray[np.float32]:
    try:
        return np.load(path, allow_pickle=False).astype(np.float32)  # type: ignore[no-any-return]
    except (OSError, ValueError, EOFError) as error:
        raise _unfit(path, str(error), "a numpy array") from error


def _unfit(path: Path, found: str, expected: str) -> ArtefactError:
    return ArtefactError("unfit_artefact", f"{path.name}: {shorten(found, 200)}", expected, "fetch or publish the generation again")
