"""What a list costs inside one worker's model, and what is lost where candidates take the place of a whole catalogue. On one core.

Everything is simulated (`bench.simulated`) and seeded. `python -m bench.ranking` runs each size in a process of its own, prints tables, and
writes bench/ranking.json; some fifteen minutes, most of it for a million items, and 8 GB of memory. `--items` takes some sizes only.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from bench.simulated import EXAMPLES, NOW, Simulated, simulated, trained
from engine import kernels, work
from engine import model as ranking
from engine.candidates import Candidates
from engine.catalogue import FRESH
from engine.cosines import Cosines
from engine.lexical import LexicalIndex
from engine.model import WHOLE, Ask, Model, Prepared
from engine.records import Item
from engine.retrieval import EFFORT, Retrieval
from engine.space import Floats
from engine.textindex import EXPANSION, TextIndex

ROOT = Path(__file__).resolve().parent.parent
REPORT = ROOT / "bench" / "ranking.json"
SIZES = (4_000, 50_000, 1_000_000)
DIMS = 384
RERANKED = (100, 300)
REQUESTS = 400
USERS = {4_000: 2_000, 50_000: 600, 1_000_000: 400}
BATCH = 32
EXACT = {4_000: 0, 50_000: 200, 1_000_000: 40}
"""Users whose lists are made of the whole catalogue, too, to see what the candidates miss."""
QUERIES = 200
NEAR = (10, 100)
STEPS = ("candidates", "world", "features", "networks", "choose", "reasons", "Python")
"""What a list is made of: what is looked at; the arrays of it; the loops over it; what the networks add; the order; why; and the rest."""
ONE_CORE = dict.fromkeys(("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"), "1")
Say = Callable[[str], None]


def main(arguments: Sequence[str]) -> int:
    """Run what the arguments ask for; the exit status."""
    parser = argparse.ArgumentParser(prog="python -m bench.ranking", description=__doc__)
    parser.add_argument("--items", type=int, action="append", help="a catalogue of this size; may be given again")
    parser.add_argument("--one", type=int, help=argparse.SUPPRESS)  # in a process of its own: prints JSON
    options = parser.parse_args(arguments)
    if options.one:
        print(json.dumps(sized(options.one, _to_stderr)))
        return 0
    report = measured(options.items or SIZES, print)
    REPORT.write_text(json.dumps(report, indent=1) + "\n")
    print(f"written to {REPORT.relative_to(ROOT)}")
    return 0


def measured(sizes: Sequence[int], say: Say) -> dict[str, Any]:
    """Each size in a process of its own, so that memory is its own, and on one core."""
    report: dict[str, Any] = {}
    for items in sizes:
        say(f"{items:,} simulated items, one core")
        command = [sys.executable, "-m", "bench.ranking", "--one", str(items)]
        done = subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, env={**os.environ, **ONE_CORE})
        report[str(items)] = found = json.loads(done.stdout)
        tell(found, say)
    return report


def sized(
    items: int, say: Say, *, dims: int = DIMS, examples: int = EXAMPLES, requests: int = REQUESTS, whole: int = WHOLE
) -> dict[str, Any]:
    """All figures of one size; `examples`, of a small catalogue, that the ranker learns first; `whole`: see `Model`."""
    began = time.perf_counter()
    ranker = trained(simulated(min(items, SIZES[0]), 300, dims), examples)
    users = USERS.get(items, 100)
    world = simulated(items, users, dims)
    world.model.whole = whole
    say(f"simulated in {time.perf_counter() - began:.0f} s; networks {'trusted' if ranker.network.trusted else 'not trusted'}")
    before, built, text = resident(), time.process_time(), None
    space = world.model.catalogue.space
    if items > world.model.whole:
        text = TextIndex(space, world.model.catalogue.hashes)
    built = time.process_time() - built
    say(f"text index in {built:.0f} s of CPU")
    cosines = Cosines(space, world.model.catalogue)
    if text is None:
        cosines.prepare(items)
    world.model.use(Prepared("simulated", space, cosines, ranker, text))
    report: dict[str, Any] = {"rerank": {}}
    for count in RERANKED:
        if count <= items:
            report["rerank"][str(count)] = reranked(world, count, requests)
    report["lists"] = listed(world)
    say(json.dumps(report))
    report["memory_mb"] = {"resident": resident(), "vectors": megabytes(space.vectors[:items].nbytes)}
    lists = world.model.stats.neighbours
    report["memory_mb"]["neighbours"] = megabytes(int(lists.length[:items].sum()) * (4 + lists.weights.itemsize * lists.weights.shape[1]))
    if text is not None:
        index = {"build_cpu_s": round(built, 1), "graph_mb": megabytes(text.graph_bytes), "resident_mb": round(resident() - before, 1)}
        report["index"] = {**index, **nearest(world, text, min(QUERIES, users))}
        say(json.dumps(report["index"]))
        report["candidates"] = missed(world, EXACT.get(items, 20))
        report["as_long_as_the_catalogue"] = upkeep(world)
    return report


def reranked(world: Simulated, count: int, requests: int) -> dict[str, Any]:
    """Requests to rank so many given candidates, with reasons, one at a time, each after an item was used."""
    rng, model = np.random.default_rng(3), world.model
    asks = []
    for number in range(requests):
        taste = world.tastes[number % len(world.tastes)]
        own = world.cluster[[model.catalogue.index[key] for key in taste.recent]]
        near = np.flatnonzero(np.isin(world.cluster, own))
        some = rng.permutation(np.concatenate([rng.choice(near, count // 2), rng.integers(0, len(world.ids), count)]))
        asks.append(Ask(replace(taste, now=NOW + number), candidates=tuple(dict.fromkeys(world.ids[at] for at in some))[:count]))
    took, cpu, spent = [], [], defaultdict[str, float](float)
    model.rank(asks[:3])
    for number, ask in enumerate(asks):
        world.used(rng.integers(0, len(world.ids), 1), number)
        before = time.process_time()
        with timed(spent, model) as seconds:
            model.rank([ask])
        cpu.append(time.process_time() - before)
        took.append(seconds[0])
    return times(took, cpu, spent)


def listed(world: Simulated) -> dict[str, Any]:
    """Lists of ten with reasons, for batches of users, each after as many items were used. Each user had a list before the last click."""
    rng, model = np.random.default_rng(4), world.model
    batches = [world.tastes[start : start + BATCH] for start in range(0, len(world.tastes), BATCH)]
    took, cpu, spent = list[float](), list[float](), defaultdict[str, float](float)
    for tastes in batches:
        model.rank([Ask(replace(taste, recent=taste.recent[1:], ids=taste.ids[1:])) for taste in tastes])
    for number, tastes in enumerate(batches):
        world.used(rng.integers(0, len(world.ids), BATCH), number)
        asks = [Ask(taste) for taste in tastes]
        before = time.process_time()
        with timed(spent, model) as seconds:
            model.rank(asks)
        if number:  # what is made once was made for the first
            cpu.append((time.process_time() - before) / len(asks))
            took.append(seconds[0] / len(asks))
        else:
            spent.clear()
    return {"per_s": round(1.0 / float(np.mean(cpu)), 1), **times(took, cpu, spent)}


def times(took: Sequence[float], cpu: Sequence[float], spent: dict[str, float]) -> dict[str, Any]:
    """Quantiles of how long it took and of the CPU's part of it, which is less where others wanted the core; and each step's share."""
    total = sum(spent.values())
    quantiles = {f"{name}_ms": quantile(took, q) for name, q in (("p50", 0.5), ("p99", 0.99))}
    quantiles |= {f"cpu_{name}_ms": quantile(cpu, q) for name, q in (("p50", 0.5), ("p99", 0.99))}
    return {**quantiles, "shares": {step: round(spent[step] / total, 3) for step in STEPS}}


def nearest(world: Simulated, text: TextIndex, queries: int) -> dict[str, Any]:
    """Recall of the text index against comparing with all, for users' vectors and for items', and the time of a search."""
    catalogue, rng = world.model.catalogue, np.random.default_rng(5)
    vectors, n = catalogue.space.vectors, len(catalogue)
    of_users = [unit(sum(0.9**slot * vectors[catalogue.index[key]] for slot, key in enumerate(t.recent))) for t in world.tastes[:queries]]
    report: dict[str, Any] = {}
    for name, rows, effort in (("users", np.array(of_users), EXPANSION), ("items", vectors[rng.integers(0, n, queries)], EFFORT)):
        exact = [np.argsort(-(vectors[:n] @ row))[: max(NEAR)] for row in rows]
        began = time.perf_counter()
        for k in NEAR:
            found = [text.nearest(row, k, catalogue.hashes, effort) for row in rows]
            shares = [len(np.intersect1d(one, all_[:k])) / k for one, all_ in zip(found, exact, strict=True)]
            report[f"recall_{name}_at_{k}"] = round(float(np.mean(shares)), 4)
        report[f"search_{name}_ms"] = round((time.perf_counter() - began) / len(NEAR) / len(rows) * 1000, 2)
    return report


def missed(world: Simulated, users: int) -> dict[str, Any]:
    """How many of the ten that the whole catalogue gives the candidates have, and their number."""
    model, tastes = world.model, world.tastes[:users]
    shares, sizes = [], []
    for taste in tastes:
        found = model.rank([Ask(taste, reasons=False)])[0]
        sizes.append(len(model.candidates.retrieval.pool(model.catalogue.known(taste.recent), taste.now)))
        whole, model.whole = model.whole, len(model.catalogue)
        exact = model.rank([Ask(taste, reasons=False)])[0]
        model.whole = whole
        shares.append(len({one.item_id for one in found.items} & {one.item_id for one in exact.items}) / max(1, len(exact.items)))
    return {"share_of_exact_top_10": round(float(np.mean(shares)), 4), "mean": round(float(np.mean(sizes))), "most": int(max(sizes))}


def upkeep(world: Simulated) -> dict[str, float]:
    """What takes as long as the catalogue is, in ms, and how often it is done: see docs/decisions/0013."""
    model, rng = world.model, np.random.default_rng(6)
    catalogue, taste, found = model.catalogue, world.tastes[0], dict[str, float]()

    def clock(name: str, work: Callable[[], object]) -> None:
        began = time.process_time()
        work()
        found[name] = round((time.process_time() - began) * 1000, 1)

    recent = catalogue.known(taste.recent)
    clock("channels made", lambda: Retrieval(catalogue, model.stats).pool(recent, taste.now))
    for at in rng.integers(0, len(world.ids), len(world.ids) // FRESH + 1).tolist():
        catalogue.put(catalogue.items[at] or Item(world.ids[at], ""))
    clock("terms made", catalogue.filed.terms)
    clock("groups made", lambda: model.rank([Ask(taste)]))
    clock("what is open", lambda: model.open_to(taste.now))
    title = (catalogue.items[0] or Item("", "")).title
    clock("a filter with few items that no index has", lambda: model.rank([Ask(taste, filters={"title": title})]))
    words = LexicalIndex()
    words.change(0, None, catalogue.items[0])
    words.fit(title, len(catalogue))
    clock("words of a search", lambda: words.fit(title, len(catalogue)))
    return found


@contextmanager
def timed(spent: dict[str, float], model: Model) -> Iterator[list[float]]:
    """Add up what the steps take, and give how long all of it took, in seconds."""
    patched: list[tuple[Any, str, Any]] = []
    told, seconds = {"reasons": False}, [0.0]

    def watch(owner: Any, name: str, step: str) -> None:
        function = getattr(owner, name)

        def called(*args: Any, **kwargs: Any) -> Any:
            began = time.perf_counter()
            try:
                return function(*args, **kwargs)
            finally:
                own = "reasons" if told["reasons"] else step
                spent[own] += time.perf_counter() - began
                told["reasons"] = name == "look_again" or (told["reasons"] and name == "forward")

        patched.append((owner, name, function))
        setattr(owner, name, called)

    watch(Candidates, "of", "candidates")
    watch(ranking, "world_of", "world")
    watch(type(model._shared), "at", "world")  # noqa: SLF001 - what is measured is inside
    watch(work, "forward", "networks")
    for name, step in (("pick", "features"), ("choose", "choose"), ("look_again", "reasons"), ("tell", "reasons")):
        watch(kernels, name, step)
    before, began = sum(spent.values()), time.perf_counter()
    try:
        yield seconds
    finally:
        seconds[0] = time.perf_counter() - began
        spent["Python"] += seconds[0] - (sum(spent.values()) - before)
        for owner, name, function in reversed(patched):
            setattr(owner, name, function)


def tell(report: dict[str, Any], say: Say) -> None:
    """Print the figures of one size."""
    rows = [(f"rerank {count}", found, "") for count, found in report["rerank"].items()]
    rows.append(("lists of 10", report["lists"], f"{report['lists']['per_s']:>8.1f}"))
    say(f"  {'':12} {'p50 ms':>7} {'p99 ms':>7} {'p50 CPU':>7} {'p99 CPU':>7} {'per s':>8}  " + "  ".join(f"{step:>10}" for step in STEPS))
    for name, found, rate in rows:
        shares = "  ".join(f"{found['shares'][step]:>10.0%}" for step in STEPS)
        took = "  ".join(f"{found[name]:>6.2f}" for name in ("p50_ms", "p99_ms", "cpu_p50_ms", "cpu_p99_ms"))
        say(f"  {name:12}  {took} {rate:>8}  {shares}")
    say("  MB: " + ", ".join(f"{name} {value:,.0f}" for name, value in report["memory_mb"].items()))
    if "index" in report:
        say("  text index: " + ", ".join(f"{name} {value:g}" for name, value in report["index"].items()))
        say("  candidates: " + ", ".join(f"{name} {value:g}" for name, value in report["candidates"].items()))
        say("  ms of CPU: " + ", ".join(f"{name} {value:g}" for name, value in report["as_long_as_the_catalogue"].items()))


def quantile(seconds: Sequence[float], q: float) -> float:
    """A quantile in ms."""
    return round(float(np.quantile(seconds, q)) * 1000, 3)


def unit(vector: Any) -> Floats:
    """A vector of length 1."""
    made: Floats = (vector / np.linalg.norm(vector)).astype(np.float32)
    return made


def resident() -> float:
    """This process's resident memory in MB."""
    return megabytes(int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE"))


def megabytes(size: int) -> float:
    """Bytes as MB of 1,000,000."""
    return round(size / 1e6, 1)


def _to_stderr(line: str) -> None:
    print(f"  {line}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
