"""Fine-tunes a BERT checkpoint on what users took one after the other. Not which events these are (`export.slice`), and no export.

Contrastive learning as lists are made: the decayed mean of what a user took before, against what the user took next, among all items of the
batch (in-batch softmax; each candidate's logit less the logarithm of how often it occurs, Bengio & Senécal 2008, Yi et al., RecSys 2019:
otherwise popular items, which are in every batch, would be pushed away). Vectors are pooled, made unit and centred as where they serve.

Only the last layers learn (tuning the last two of BERT loses almost nothing: Wu et al., SIGIR 2021), whole or by low-rank adapters (LoRA,
Hu et al., 2022, through peft). What comes out of the frozen ones is worked out once per text and kept in a file.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from engine.errors import ArtefactError, shorten
from engine.kernels import STEPS
from export.archive import write_settings
from export.checkpoint import Checkpoint
from export.onnx import quiet, require_extra

Method = Literal["layers", "lora"]
LORA_RANK, LORA_ALPHA = 16, 32
LORA_TARGETS = ["query", "key", "value", "dense"]
TUNABLE = ("bert", "roberta", "xlm-roberta", "electra", "camembert")
"""Kinds of checkpoint whose layers are known to take (hidden states, mask)."""
TEXTS_AT_ONCE = 32
CACHE_BYTES = 4_000_000_000
"""Of frozen layers' output on disk, at most: 80,000 texts of 64 tokens x 384 x 2 bytes. Beyond, it is worked out again each time."""
CENTRE_TEXTS = 2_048
"""Texts of which the centre is the mean: beyond, it moves by less than a hundredth."""
WARM_STEPS = 20
LEAST_RATE = 0.05
"""Share of the learning rate that is left at the last step."""
CLIP = 1.0
NEVER = -1e9
Watch = Callable[[str, int, int], None]


class Tuning(msgspec.Struct, frozen=True, kw_only=True):
    """How to tune. `layers`: how many, from the last; `rate`: AdamW's; `temperature`: cosines are divided by it; `batch`: windows in a
    step, of up to `window` items; `most_steps` ends it early; `most_tokens`: of a text; `threads`: 0 for torch's own choice.
    """

    method: Method = "layers"
    layers: int = 2
    epochs: int = 1
    rate: float = 1e-4
    decay: float = 0.01
    temperature: float = 0.07
    batch: int = 32
    window: int = 8
    most_steps: int = 2_000
    most_tokens: int = 64
    threads: int = 0
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Tuned:
    """What tuning did; `losses`: the mean over each tenth of the steps; `learned`: parameters that did."""

    steps: int
    texts: int
    learned: int
    losses: tuple[float, ...]
    seconds: float


def tune(
    checkpoint: Checkpoint,
    texts: Sequence[str],
    windows: Sequence[NDArray[np.int32]],
    counts: NDArray[np.int64],
    how: Tuning,
    target: Path,
    watch: Watch,
) -> Tuned:
    """Write a tuned checkpoint to `target`; the same on the same machine for the same arguments.

    Args:
        checkpoint: where to begin.
        texts: of all items, by place in the catalogue.
        windows: places of items taken one after the other, each (2..how.window,).
        counts: (items,) how often each was taken.
        how: how.
        target: a folder that is not there yet.
        watch: told of progress.

    Raises:
        ArtefactError: the checkpoint can't be tuned, or learning does not converge.
    """
    require_extra()
    import torch  # noqa: PLC0415 - seconds, and gigabytes that a worker does not have

    began = time.perf_counter()
    if how.threads:
        torch.set_num_threads(how.threads)
    torch.manual_seed(how.seed)
    learner = _Learner(checkpoint, texts, how, target.parent)
    steps = list(_batches(len(windows), how))
    losses = []
    log_share = np.log((counts + 1.0) / (counts + 1.0).sum()).astype(np.float32)
    learner.prepare(np.unique(np.concatenate(windows)).tolist() if windows else [], watch)
    optimizer = torch.optim.AdamW(learner.parameters, lr=how.rate, weight_decay=how.decay)
    for n, batch in enumerate(steps):
        if n % max(1, len(steps) // how.epochs) == 0:
            learner.recentre()
        for group in optimizer.param_groups:
            group["lr"] = how.rate * min(1.0, (n + 1) / WARM_STEPS) * max(LEAST_RATE, 1 - n / len(steps))
        loss = _loss(learner, [windows[at] for at in batch], log_share, how)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(learner.parameters, CLIP)
        optimizer.step()
        losses.append(float(loss.detach()))
        if not np.isfinite(losses[-1]):
            found = f"a loss of {losses[-1]} at step {n + 1}"
            raise ArtefactError("not_converging", found, "a finite loss", "lower the learning rate, or look at the checkpoint's weights")
        watch("tune", n + 1, len(steps))
    learned = sum(p.numel() for p in learner.parameters)
    learner.save(target)
    parts = np.array_split(np.array(losses), min(10, len(losses))) if losses else []
    told = tuple(round(float(part.mean()), 4) for part in parts)
    return Tuned(len(steps), learner.prepared, learned, told, round(time.perf_counter() - began, 2))


def _batches(count: int, how: Tuning) -> Iterator[NDArray[np.int64]]:
    """Which windows make a step."""
    rng = np.random.default_rng(how.seed)
    left = how.most_steps
    for _ in range(how.epochs):
        order = rng.permutation(count)
        for start in range(0, count, how.batch):
            if not left:
                return
            left -= 1
            yield order[start : start + how.batch]


def _loss(learner: _Learner, batch: Sequence[NDArray[np.int32]], log_share: NDArray[np.float32], how: Tuning) -> Any:
    """Mean over all places but the first of all windows of -log softmax of the item taken there, among the items of the batch."""
    import torch  # noqa: PLC0415

    items, place = np.unique(np.concatenate(batch), return_inverse=True)
    vectors = learner.vectors(items.tolist())
    weights, wanted, own = [], [], []
    start = 0
    for window in batch:
        at = place[start : start + len(window)]
        start += len(window)
        for n in range(1, len(window)):
            row = np.zeros(len(items), np.float32)
            row[at[:n]] = STEPS[:n][::-1]
            weights.append(row)
            wanted.append(at[n])
            mask = np.zeros(len(items), bool)
            mask[at] = True
            mask[at[n]] = False
            own.append(mask)
    users = torch.nn.functional.normalize(torch.from_numpy(np.array(weights)) @ vectors, dim=-1)
    logits = users @ vectors.T / how.temperature - torch.from_numpy(log_share[items])
    logits = logits.masked_fill(torch.from_numpy(np.array(own)), NEVER)
    return torch.nn.functional.cross_entropy(logits, torch.from_numpy(np.array(wanted, np.int64)))


class _Learner:
    """The checkpoint in torch: texts to vectors, with gradients through the last layers only."""

    def __init__(self, checkpoint: Checkpoint, texts: Sequence[str], how: Tuning, scratch: Path) -> None:
        import torch  # noqa: PLC0415
        from transformers import AutoModel, AutoTokenizer  # noqa: PLC0415

        if checkpoint.model_type not in TUNABLE:
            remedy = "tune it elsewhere, and name it with --checkpoint --as-it-is"
            raise ArtefactError("not_tunable", f"{checkpoint.name}: {checkpoint.model_type or 'no kind'}", ", ".join(TUNABLE), remedy)
        self._torch, self._checkpoint, self._scratch = torch, checkpoint, scratch
        try:
            with quiet():
                model = AutoModel.from_pretrained(str(checkpoint.folder), local_files_only=True)
                self._tokenizer = AutoTokenizer.from_pretrained(str(checkpoint.folder), local_files_only=True)
        except Exception as error:  # torch and transformers share no class of errors
            found = f"{checkpoint.name}: {type(error).__name__}: {shorten(str(error), 300)}"
            raise ArtefactError(
                "bad_checkpoint", found, "a checkpoint that transformers loads", "save model and tokenizer again"
            ) from error
        model.eval()  # no dropout: these weights are near where they should be, and it would make every run another
        layers = model.encoder.layer
        count = min(how.layers, len(layers))
        self._frozen = len(layers) - count
        for parameter in model.parameters():
            parameter.requires_grad_(False)
        self._peft: Any = None
        if how.method == "lora":
            from peft import LoraConfig, get_peft_model  # noqa: PLC0415

            config = LoraConfig(
                r=LORA_RANK,
                lora_alpha=LORA_ALPHA,
                target_modules=LORA_TARGETS,
                layers_to_transform=list(range(self._frozen, len(layers))),
                layers_pattern="layer",
            )
            self._peft = get_peft_model(model, config)
            self._peft.eval()
        else:
            for layer in layers[self._frozen :]:
                for parameter in layer.parameters():
                    parameter.requires_grad_(True)
        self._model, self._layers = model, model.encoder.layer
        self.parameters = [p for p in (self._peft or model).parameters() if p.requires_grad]
        budget = min(how.most_tokens, checkpoint.max_tokens)
        self._ids = [self._tokenizer(text, truncation=True, max_length=budget)["input_ids"] for text in texts]
        self._cache: NDArray[np.float16] | None = None
        self._starts: dict[int, int] = {}
        self._centre: Any = None
        self.prepared = 0

    def prepare(self, items: Sequence[int], watch: Watch) -> None:
        """Work out what the frozen layers make of these items' texts."""
        ordered = sorted(items, key=lambda at: len(self._ids[at]))
        self._known, self.prepared = ordered, len(items)
        tokens = sum(len(self._ids[at]) for at in ordered)
        if not tokens or tokens * self._checkpoint.dims * 2 > CACHE_BYTES:
            return
        self._cache = np.memmap(self._scratch / "frozen.f16", np.float16, "w+", shape=(tokens, self._checkpoint.dims))
        filled = 0
        for start in range(0, len(ordered), TEXTS_AT_ONCE):
            part = ordered[start : start + TEXTS_AT_ONCE]
            hidden = self._below(part)
            for row, at in enumerate(part):
                count = len(self._ids[at])
                self._cache[filled : filled + count] = hidden[row, :count].numpy().astype(np.float16)
                self._starts[at] = filled
                filled += count
            watch("prepare", start + len(part), len(ordered))

    def recentre(self) -> None:
        """Take the mean of the items' vectors, as they are now, for the centre."""
        step = max(1, len(self._known) // CENTRE_TEXTS)
        with self._torch.no_grad():
            self._centre = None
            self._centre = self.vectors(self._known[::step]).mean(dim=0)

    def vectors(self, items: Sequence[int]) -> Any:
        """(len(items), D) centred unit rows; texts of similar length share a call, so that little is padded."""
        torch = self._torch
        order = sorted(range(len(items)), key=lambda n: len(self._ids[items[n]]))
        parts = [order[start : start + TEXTS_AT_ONCE] for start in range(0, len(order), TEXTS_AT_ONCE)]
        rows = torch.cat([self._pooled([items[n] for n in part]) for part in parts])
        rows = rows[torch.from_numpy(np.argsort(order))]
        return rows if self._centre is None else torch.nn.functional.normalize(rows - self._centre, dim=-1)

    def save(self, target: Path) -> None:
        """Write a checkpoint folder as the first one was: pooling and limits are the same."""
        if self._peft is not None:
            self._model = self._peft.merge_and_unload()
        target.mkdir(parents=True)
        with quiet():
            self._model.save_pretrained(str(target), safe_serialization=True)
            self._tokenizer.save_pretrained(str(target))
        write_settings(self._checkpoint, target)
        if isinstance(self._cache, np.memmap):
            self._cache = None
            (self._scratch / "frozen.f16").unlink()

    def _pooled(self, items: Sequence[int]) -> Any:
        torch = self._torch
        lengths = [len(self._ids[at]) for at in items]
        mask = torch.from_numpy((np.arange(max(lengths)) < np.array(lengths)[:, None]).astype(np.float32))
        if self._cache is None:
            hidden = self._below(items)
        else:
            padded = np.zeros((len(items), max(lengths), self._checkpoint.dims), np.float32)
            for row, (at, length) in enumerate(zip(items, lengths, strict=True)):
                padded[row, :length] = self._cache[self._starts[at] : self._starts[at] + length]
            hidden = torch.from_numpy(padded)
        hidden = self._through(hidden, mask, self._layers[self._frozen :])
        if self._checkpoint.pooling == "cls":
            rows = hidden[:, 0]
        elif self._checkpoint.pooling == "max":
            rows = hidden.masked_fill(mask[:, :, None] == 0, -torch.inf).amax(dim=1)
        else:
            rows = (hidden * mask[:, :, None]).sum(dim=1) / mask.sum(dim=1, keepdim=True)
        return torch.nn.functional.normalize(rows, dim=-1)

    def _below(self, items: Sequence[int]) -> Any:
        torch = self._torch
        longest = max(len(self._ids[at]) for at in items)
        ids, mask = np.zeros((len(items), longest), np.int64), np.zeros((len(items), longest), np.float32)
        for row, at in enumerate(items):
            ids[row, : len(self._ids[at])], mask[row, : len(self._ids[at])] = self._ids[at], 1
        with torch.no_grad():
            return self._through(self._model.embeddings(torch.from_numpy(ids)), torch.from_numpy(mask), self._layers[: self._frozen])

    def _through(self, hidden: Any, mask: Any, layers: Any) -> Any:
        hide = (1.0 - mask[:, None, None, :]) * NEVER
        for layer in layers:
            made = layer(hidden, hide)
            hidden = made[0] if isinstance(made, tuple) else made
        return hidden
