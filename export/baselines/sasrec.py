"""SASRec, a transformer over a user's sequence of items (Kang & McAuley 2018), trained with what is known to make it strong. In PyTorch.

- The loss is a softmax over sampled items, corrected for how many there are, not one negative with binary cross-entropy: with that SASRec
  beats BERT4Rec (Klenitskiy & Vasilev 2023; Petrov & Macdonald 2023).
- What is asked is what is trained: an item that the user had before is no target, and where lists are asked for at the start of a session,
  the target at each place is an item of the user's next session, drawn anew each time.
- Each place knows how long it is from its event to the moment that a list is asked for.
- Attention knows how long ago an event was (HSTU, Zhai et al. 2024), and events of equal time come in an order drawn anew each time.
- Item embeddings begin as the leading eigenvectors of the items' co-occurrence, those of items that come later as means of what these are
  used with: small logs are too small to learn them from nothing.
- Newer targets may count more. A refit goes on from the weights of the last one, over all events so far.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
import scipy.sparse as sp
import torch
from numpy.typing import NDArray
from scipy.sparse.linalg import eigsh
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from engine.space import Floats
from export.baselines.log import DAY_S, Asked, Ints, Log
from export.baselines.rows import cooccurrence

Target = Literal["item", "session"]
TARGETS: tuple[Target, ...] = ("item", "session")
Start = Literal["random", "history", "session"]
STARTS: tuple[Start, ...] = ("random", "history", "session")
"""What the first embeddings come from: nothing, or co-occurrence in histories or sessions."""
SPREAD = 0.02
"""Standard deviation of embeddings that begin at random, and thrice of those that do not: then they speak at once."""
GAPS = 34
"""Times from an event to the question, by their logarithm to base 2 in seconds: the last is 2^33 s, 272 years."""
CLIP = 1.0


@dataclass(frozen=True, slots=True)
class Sequences:
    """A log by user: events (E,) sorted by user and time. `start` (E,): where the event's user begins. `low`, `high` (E,): what may be the
    target after this event lies in `pool[low:high]`; `asked` (E,) s: when that is asked for.
    """

    items: Ints
    times: NDArray[np.float64]
    start: Ints
    low: Ints
    high: Ints
    asked: NDArray[np.float64]
    pool: Ints
    weights: Floats


def sequences(log: Log, target: Target, rng: np.random.Generator, *, repeats: bool, half_life_d: float | None) -> Sequences:
    """Sort a log by user, and find what follows each event: the next item, or the items of the next session; new to the user but with
    `repeats`. A place without a target has low = high. Events of equal time have no order of their own: it is drawn by `rng`.
    """
    order = np.lexsort((rng.random(len(log)), log.times, log.sessions, log.users))
    users, items, times, sessions = log.users[order], log.items[order], log.times[order], log.sessions[order]
    count = len(items)
    places = np.arange(count)
    starts = np.flatnonzero(np.r_[True, users[1:] != users[:-1]]) if count else places
    start = np.repeat(starts, np.diff(np.r_[starts, count]))
    fresh = np.zeros(count, bool)
    fresh[np.unique(users * log.size + items, return_index=True)[1]] = True
    if repeats:
        fresh[:] = True
    pool_at = np.r_[0, np.cumsum(fresh)]  # places in the pool of events that may be targets
    if target == "item":
        first, last = places + 1, places + 2
    else:
        changes = np.flatnonzero(np.r_[True, (sessions[1:] != sessions[:-1]) | (users[1:] != users[:-1])]) if count else places
        number = np.searchsorted(changes, places, "right") - 1
        ends = np.r_[changes[1:], count, count]
        first, last = ends[number], ends[number + 1]
    end_of_user = np.repeat(np.r_[starts[1:], count], np.diff(np.r_[starts, count])) if count else places
    inside = first < end_of_user
    first, last = np.where(inside, first, 0), np.where(inside, np.minimum(last, end_of_user), 0)
    asked = np.where(inside, times[np.minimum(first, count - 1)], 0.0)
    newest = float(times.max()) if count else 0.0
    weights = np.ones(count) if half_life_d is None else np.exp2((asked - newest) / (half_life_d * DAY_S))
    return Sequences(items, times, start, pool_at[first], pool_at[last], asked, items[fresh], weights.astype(np.float32))


class Block(nn.Module):  # type: ignore[misc] # torch is skipped: nn.Module is Any
    """Causal self-attention and a position-wise network, normalised before each (pre-LN). What is attended to also depends on how long
    ago it was, by a learned bias for each head (as in HSTU, Zhai et al. 2024). No dropout inside of attention: on a CPU it costs too much.
    """

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.before, self.between = nn.LayerNorm(width), nn.LayerNorm(width)
        self.project, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.ages = nn.Embedding(GAPS, heads)
        nn.init.zeros_(self.ages.weight)
        self.network = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width), nn.Dropout(dropout))

    def forward(self, x: Tensor, ages: Tensor, later: Tensor) -> Tensor:
        """(B, L, W) to the same. `ages` (B, L, L): bucket of the time from each event to each question; `later` (L, L) bool: not to be
        seen. Padding stands at the end, so that no place attends to it.
        """
        batch, length, width = x.shape
        query, key, value = self.project(self.before(x)).view(batch, length, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        scores = query @ key.transpose(-1, -2) / math.sqrt(width / self.heads) + self.ages(ages).permute(0, 3, 1, 2)
        attended = scores.masked_fill(later, -torch.inf).softmax(-1) @ value
        x = x + self.out(attended.transpose(1, 2).reshape(batch, length, width))
        return x + self.network(self.between(x))


class Network(nn.Module):  # type: ignore[misc] # as above
    """Items, their place in the sequence and the time until the question in, a vector for each place out. Item embeddings are tied."""

    def __init__(self, size: int, width: int, length: int, layers: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.items, self.places, self.gaps = nn.Embedding(size + 1, width), nn.Embedding(length, width), nn.Embedding(GAPS, width)
        self.bias = nn.Embedding(size + 1, 1)
        for table in (self.items, self.places, self.gaps):
            nn.init.normal_(table.weight, std=SPREAD)
        nn.init.zeros_(self.bias.weight)
        self.scale = math.sqrt(width)  # as Vaswani et al. 2017: without it places and gaps drown the items
        self.drop = nn.Dropout(dropout)
        self.blocks = nn.ModuleList(Block(width, heads, dropout) for _ in range(layers))
        self.norm = nn.LayerNorm(width)

    def forward(self, items: Tensor, ages: Tensor) -> Tensor:
        """(B, L) items, oldest first, and (B, L, L) buckets of the times from each event (last axis) to each question, to (B, L, W)."""
        length = items.shape[1]
        gaps = self.gaps(ages.diagonal(dim1=1, dim2=2))
        x = self.drop(self.items(items) * self.scale + self.places.weight[:length] + gaps)
        later = torch.ones(length, length, dtype=torch.bool).triu(1)
        for block in self.blocks:
            x = block(x, ages, later)
        found: Tensor = self.norm(x)
        return found


def buckets(seconds: NDArray[np.float64]) -> Ints:
    """Which embedding of time.

    >>> buckets(np.array([0.0, 1.0, 3600.0, -5.0])).tolist()
    [0, 1, 11, 0]
    """
    found: Ints = np.minimum(np.log2(1 + np.maximum(seconds, 0)).astype(np.int64), GAPS - 1)
    return found


@dataclass
class SASRec:
    """`epochs`: times that the first fit goes through the log; each later one `refit` times as often. `negatives`: items drawn for a batch,
    all at or above the number that have been used; `batch`: events, about.
    """

    width: int = 64
    length: int = 50
    layers: int = 2
    heads: int = 2
    dropout: float = 0.3
    learning_rate: float = 2e-3
    weight_decay: float = 0.0
    negatives: int = 512
    batch: int = 500
    epochs: float = 20.0
    refit: float = 0.25
    target: Target = "item"
    start: Start = "random"
    half_life_d: float | None = None
    repeats: bool = False
    seed: int = 0
    threads: int = 1

    def __post_init__(self) -> None:
        self.network: Network | None = None
        self.unknown = np.ones(0, bool)

    def fit(self, log: Log) -> None:
        """Train on all sequences, from the last weights if there are any."""
        torch.set_num_threads(self.threads)
        self.size = log.size
        first = self.network is None
        if self.network is None:
            torch.manual_seed(self.seed)
            self.rng = np.random.default_rng(self.seed)
            self.network = Network(log.size, self.width, self.length, self.layers, self.heads, self.dropout)
        before = None if first else ~self.unknown
        counts = log.counts()
        self.unknown = counts == 0
        known = np.flatnonzero(counts)
        if self.start != "random":
            _place(self.network, cooccurrence(log, self.start), known, before)
        self._train(log, known, self.epochs * (1.0 if first else self.refit))

    def _train(self, log: Log, known: Ints, epochs: float) -> None:
        network = self.network
        if network is None:
            return
        optimizer = torch.optim.AdamW(network.parameters(), self.learning_rate, betas=(0.9, 0.98), weight_decay=self.weight_decay)
        steps = math.ceil(epochs * len(log) / self.batch)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: rate_at(step, steps))
        taken = 0
        network.train()
        while taken < steps:
            found = sequences(log, self.target, self.rng, repeats=self.repeats, half_life_d=self.half_life_d)
            for windows in self._batches(found):
                loss = self._loss(network, found, known, windows)
                taken += 1
                if loss is not None:
                    optimizer.zero_grad(set_to_none=True)
                    loss.backward()
                    nn.utils.clip_grad_norm_(network.parameters(), CLIP)
                    optimizer.step()
                schedule.step()
                if taken == steps:
                    break
        network.eval()

    def _batches(self, found: Sequences) -> list[list[tuple[int, int]]]:
        """Windows of about the same length together, so that little is padding; in an order drawn anew."""
        windows = sorted(self._windows(found), key=lambda one: (one[1] - one[0], self.rng.random()))
        batches, filled = [list[tuple[int, int]]()], 0
        for window in windows:
            if filled >= self.batch:
                batches.append([])
                filled = 0
            batches[-1].append(window)
            filled += window[1] - window[0]
        return [batches[n] for n in self.rng.permutation(len(batches))]

    def _windows(self, found: Sequences) -> Iterator[tuple[int, int]]:
        """Pieces of at most `length` events that cover each sequence once, cut at places drawn anew."""
        starts = np.unique(found.start)
        for start, end in zip(starts.tolist(), [*starts[1:].tolist(), len(found.items)], strict=True):
            at = end
            cut = int(self.rng.integers(1, self.length + 1)) if end - start > self.length else self.length
            while at > start:
                begin = max(start, at - cut)
                yield begin, at
                at, cut = begin, self.length

    def _loss(self, network: Network, found: Sequences, known: Ints, windows: list[tuple[int, int]]) -> Tensor | None:
        length = max(end - begin for begin, end in windows)
        places = np.full((len(windows), length), -1, np.int64)
        for row, (begin, end) in enumerate(windows):
            places[row, : end - begin] = np.arange(begin, end)
        there = places >= 0
        choices = np.where(there, found.high[places] - found.low[places], 0)
        chosen = choices > 0
        if not chosen.any():
            return None
        items = np.where(there, found.items[places], self.size)
        asked, times = np.where(there, found.asked[places], 0.0), np.where(there, found.times[places], 0.0)
        ages = buckets(asked[:, :, None] - times[:, None, :])
        drawn = found.low[places[chosen]] + (self.rng.random(int(chosen.sum())) * choices[chosen]).astype(np.int64)
        targets = torch.from_numpy(found.pool[drawn])
        weights = torch.from_numpy(found.weights[places[chosen]])
        vectors = network(torch.from_numpy(items), torch.from_numpy(ages))[torch.from_numpy(chosen)]  # (T, W)
        every = self.negatives >= len(known)
        drawn_negatives = known if every else self.rng.choice(known, self.negatives, replace=False)
        negatives = torch.from_numpy(drawn_negatives)
        own = (vectors * network.items(targets)).sum(1) + network.bias(targets)[:, 0]
        others = vectors @ network.items(negatives).T + network.bias(negatives)[:, 0]
        others = others + math.log(len(known) / len(negatives))  # each stands for so many
        others = others.masked_fill(negatives[None, :] == targets[:, None], -torch.inf)
        scores = torch.cat([own[:, None], others], 1)
        losses = cross_entropy(scores, torch.zeros(len(scores), dtype=torch.long), reduction="none")
        return (losses * weights).sum() / weights.sum().clamp_min(1e-6)

    @torch.inference_mode()  # type: ignore[untyped-decorator] # as above
    def scores(self, asked: Asked) -> Floats:
        """The vector of the newest place times the items' embeddings."""
        network = self.network
        if network is None:
            raise ValueError("found no fit, expected fit() before scores()")
        depth = min(self.length, asked.items.shape[1])
        lengths = (asked.items[:, :depth] >= 0).sum(1)
        at = lengths[:, None] - 1 - np.arange(depth)  # oldest first, padding at the end
        there = at >= 0
        at = np.maximum(at, 0)
        rows = np.arange(len(lengths))[:, None]
        items = np.where(there, asked.items[rows, at], self.size)
        ages = buckets(until(asked, depth, self.target)[rows, at][:, :, None] - asked.times[rows, at][:, None, :])
        vectors = network(torch.from_numpy(items), torch.from_numpy(ages))[torch.arange(len(lengths)), torch.from_numpy(lengths - 1)]
        found: Floats = (vectors @ network.items.weight[: self.size].T + network.bias.weight[: self.size, 0]).numpy()
        found[:, self.unknown] = -np.inf
        return found


def rate_at(step: int, steps: int) -> float:
    """The share of the learning rate at a step: up over the first tenth, then down along a cosine, to 0 behind the last.

    >>> [round(rate_at(step, 20), 3) for step in (0, 1, 2, 11, 20)]
    [0.5, 1.0, 1.0, 0.5, 0.0]
    """
    warm = max(1, steps // 10)
    return (step + 1) / warm if step < warm else 0.5 + 0.5 * math.cos(math.pi * (step - warm) / max(1, steps - warm))


@torch.no_grad()  # type: ignore[untyped-decorator] # as above
def _place(network: Network, together: sp.csr_array, known: Ints, before: NDArray[np.bool_] | None) -> None:
    """Set the embeddings of items that are new: all by the leading eigenvectors of their cosines, or those that are not in `before` (I,)
    bool by the mean of what they are used with.
    """
    table = network.items.weight
    width = table.shape[1]
    if before is None:
        if len(known) <= width + 1:
            return
        inner = together[known][:, known].astype(np.float64)
        scale = sp.diags_array(1 / np.sqrt(inner.diagonal() + 1))
        cosines = sp.csr_array(scale @ inner @ scale)
        cosines.setdiag(0)
        values, vectors = eigsh(cosines, k=width, v0=np.ones(len(known)))
        found = vectors * np.sqrt(np.abs(values))
        table[torch.from_numpy(known)] = torch.from_numpy((found * (3 * SPREAD / found.std())).astype(np.float32))
        return
    fresh = known[~before[known]]
    others = together[fresh] * before
    totals = np.asarray(others.sum(1)).ravel()
    some = totals > 0
    if some.any():
        means = (others[some] @ table[:-1].numpy()) / totals[some, None]
        table[torch.from_numpy(fresh[some])] = torch.from_numpy(means.astype(np.float32))


def until(asked: Asked, depth: int, target: Target) -> NDArray[np.float64]:
    """(B, depth) s: when the next item, or the next session, came after each event, newest first; the newest waits for the question.

    >>> from export.baselines.log import Past
    >>> asked = Asked.of([[Past(4, 0, 10.0), Past(5, 0, 20.0), Past(7, 1, 90.0)]], [100.0])
    >>> until(asked, 3, "item").tolist(), until(asked, 3, "session").tolist()
    ([[100.0, 90.0, 20.0]], [[100.0, 90.0, 90.0]])
    """
    found = np.empty((len(asked.now), depth))
    found[:, 0] = asked.now
    for place in range(1, depth):
        found[:, place] = asked.times[:, place - 1]
        if target == "session":
            same = asked.sessions[:, place] == asked.sessions[:, place - 1]
            found[same, place] = found[same, place - 1]
    return found
