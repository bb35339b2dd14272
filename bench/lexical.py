"""Lexical indexes side by side: `python -m bench.lexical`. Quality on known-item queries, CPU time, memory; each in a process of its own.

Beside `engine.lexical`: SQLite's FTS5 (words, and trigrams), tantivy, bm25s, and bm25s behind symspellpy's corrections. The last three are
left out where they are not installed (`pip install tantivy bm25s symspellpy`): Headwater does not use them. docs/decisions has the outcome.
"""

from __future__ import annotations

import argparse
import json
import re
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from importlib.util import find_spec
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from engine.dataset import read
from engine.known_item import LENGTHS, KnownItems
from engine.lexical import WEIGHTS, LexicalIndex, texts_of
from engine.records import Item
from engine.words import words

ROOT = Path(__file__).resolve().parent.parent
QUERIES = 500
"""Items that are looked for, with a query of each length."""
TIMED = 200
DEPTH = 10
NEW = 0.01
"""Share of the words of simulated items that no other item has: names, typing errors. 1,000,000 items have some 600,000 of them."""
FIELDS = ("title", "creator", "categories", "tags", "description")
Search = Callable[[str], Sequence[int]]


def own(items: Iterable[Item]) -> tuple[Search, Callable[[int, Item, Item], None]]:
    """`engine.lexical`."""
    index, count = LexicalIndex(), 0
    for count, item in enumerate(items, 1):
        index.change(count - 1, None, item)

    def search(query: str) -> list[int]:
        scores = index.fit(query, count).scores
        best = np.argpartition(-scores, DEPTH)[:DEPTH]
        return [int(at) for at in best[np.argsort(-scores[best], kind="stable")] if scores[at] > 0]

    return search, index.change


def fts5(items: Iterable[Item], tokenize: str, terms: Callable[[str], Iterable[str]]) -> tuple[Search, Callable[[int, Item, Item], None]]:
    """SQLite in memory; a query's terms joined by OR, weighted columns."""
    base = sqlite3.connect(":memory:")
    base.execute(f"CREATE VIRTUAL TABLE t USING fts5({', '.join(FIELDS)}, content='', tokenize=\"{tokenize}\")")
    insert = f"INSERT INTO t(rowid, {', '.join(FIELDS)}) VALUES (?, ?, ?, ?, ?, ?)"  # noqa: S608 - constants
    base.executemany(insert, ((at, *flat(item)) for at, item in enumerate(items)))
    weights = ", ".join(map(str, WEIGHTS.tolist()))

    def search(query: str) -> list[int]:
        match = " OR ".join(dict.fromkeys(terms(query)))
        if not match:
            return []
        found = base.execute(f"SELECT rowid FROM t WHERE t MATCH ? ORDER BY bm25(t, {weights}) LIMIT {DEPTH}", (match,))  # noqa: S608
        return [row[0] for row in found]

    def change(at: int, before: Item, after: Item) -> None:
        base.execute(f"INSERT INTO t(t, rowid, {', '.join(FIELDS)}) VALUES ('delete', ?, ?, ?, ?, ?, ?)", (at, *flat(before)))  # noqa: S608
        base.execute(insert, (at, *flat(after)))

    return search, change


def fts5_words(items: Iterable[Item]) -> tuple[Search, Callable[[int, Item, Item], None]]:
    """FTS5 with words, stemmed (English), the query's words also as prefixes."""
    return fts5(items, "porter unicode61 remove_diacritics 2", lambda query: [f'"{word}"*' for word in words(query)])


def fts5_trigrams(items: Iterable[Item]) -> tuple[Search, Callable[[int, Item, Item], None]]:
    """FTS5 with trigrams: what is mistyped shares most of them."""
    return fts5(items, "trigram", lambda query: [f'"{word[at : at + 3]}"' for word in words(query) for at in range(len(word) - 2)])


def tantivy(items: Iterable[Item], *, fuzzy: bool) -> tuple[Search, Callable[[int, Item, Item], None]]:
    """Tantivy in memory, one thread; a disjunction of each word in each field, none boosted: with the weights MRR is .31 for two words."""
    import tantivy as t  # noqa: PLC0415 - may be missing

    made = t.SchemaBuilder()
    made.add_unsigned_field("at", stored=True, indexed=True)
    for field in FIELDS:
        made.add_text_field(field)
    schema = made.build()
    index = t.Index(schema)
    writer = index.writer(num_threads=1)

    def put(at: int, item: Item) -> None:
        document = t.Document(**dict(zip(FIELDS, flat(item), strict=True)))
        document.add_unsigned("at", at)
        writer.add_document(document)

    for at, item in enumerate(items):
        put(at, item)
    writer.commit()
    writer.wait_merging_threads()
    index.reload()
    writer = index.writer(num_threads=1)
    errors = {4: 1, 8: 2}

    def of(field: str, word: str) -> Any:
        most = max((found for least, found in errors.items() if len(word) >= least), default=0) if fuzzy else 0
        return t.Query.fuzzy_term_query(schema, field, word, most) if most else t.Query.term_query(schema, field, word)

    def search(query: str) -> list[int]:
        parts = [(t.Occur.Should, of(field, word)) for word in dict.fromkeys(words(query)) for field in FIELDS]
        searcher = index.searcher()
        return [searcher.doc(place)["at"][0] for _, place in searcher.search(t.Query.boolean_query(parts), DEPTH).hits] if parts else []

    def change(at: int, before: Item, after: Item) -> None:
        del before
        writer.delete_documents_by_query(t.Query.term_query(schema, "at", at))
        put(at, after)
        writer.commit()
        index.reload()

    return search, change


def bm25s(items: Iterable[Item], *, corrected: bool) -> tuple[Search, Callable[[int, Item, Item], None] | None]:
    """bm25s over all fields in one, each as often as it weighs; what changes means another index. Perhaps with words corrected before."""
    import bm25s as b  # noqa: PLC0415 - may be missing

    numbers: dict[str, int] = {}
    held: Counter[str] = Counter()
    texts = []
    for item in items:
        own = [w for part, weight in zip(flat(item), WEIGHTS, strict=True) for w in words(part) * round(2 * weight)]
        held.update(set(own))
        texts.append([numbers.setdefault(word, len(numbers)) for word in own])
    index = b.BM25(k1=1.2, b=0.6)
    index.index((texts, numbers), show_progress=False)
    correct = corrector(held) if corrected else None

    def search(query: str) -> list[int]:
        own = [word if correct is None or word in numbers else correct(word) for word in dict.fromkeys(words(query))]
        known = [numbers[word] for word in own if word in numbers]
        if not known:
            return []
        scores = index.get_scores_from_ids(known)
        best = np.argpartition(-scores, DEPTH)[:DEPTH]
        return [int(at) for at in best[np.argsort(-scores[best], kind="stable")] if scores[at] > 0]

    return search, None


def corrector(held: Counter[str]) -> Callable[[str], str]:
    """symspellpy: a word to the nearest known one, the most frequent of these."""
    import symspellpy as s  # noqa: PLC0415 - may be missing

    spelling = s.SymSpell(max_dictionary_edit_distance=2)
    for word, count in held.items():
        spelling.create_dictionary_entry(word, count)

    def correct(word: str) -> str:
        most = 0 if len(word) < 4 else 1 if len(word) < 8 else 2  # noqa: PLR2004 - as elsewhere
        found = spelling.lookup(word, s.Verbosity.TOP, max_edit_distance=most)
        return found[0].term if found else word

    return correct


CONTENDERS: dict[str, tuple[Callable[[Iterable[Item]], Any], str]] = {
    "own": (own, "engine"),
    "fts5 words": (fts5_words, "sqlite3"),
    "fts5 trigrams": (fts5_trigrams, "sqlite3"),
    "tantivy": (lambda items: tantivy(items, fuzzy=False), "tantivy"),
    "tantivy fuzzy": (lambda items: tantivy(items, fuzzy=True), "tantivy"),
    "bm25s": (lambda items: bm25s(items, corrected=False), "bm25s"),
    "bm25s + symspell": (lambda items: bm25s(items, corrected=True), "symspellpy"),
}


def flat(item: Item) -> list[str]:
    """The fields as texts."""
    return [part if isinstance(part, str) else ", ".join(part) for part in texts_of(item)]


def simulated(known: Sequence[Item], count: int, seed: int = 0) -> Iterator[Item]:
    """Items with as many words in each field as known ones, drawn as often as these have them; some words are new."""
    rng = np.random.default_rng(seed)
    pools = [np.array([w for item in known for w in words(flat(item)[field])], object) for field in range(len(FIELDS))]
    sizes = np.array([[len(words(part)) for part in flat(item)] for item in known])
    for at in range(count):
        parts = []
        for pool, size in zip(pools, sizes[rng.integers(len(sizes))], strict=True):
            own = pool[rng.integers(0, len(pool), size)]
            parts.append([coined(rng) if new else word for word, new in zip(own, rng.random(size) < NEW, strict=True)])
        title, creator, categories, tags, description = parts
        yield Item(f"s{at}", " ".join(title) or "x", " ".join(description), tuple(categories), tuple(tags), " ".join(creator))


def coined(rng: np.random.Generator) -> str:
    """A word that hardly any other item has."""
    return "".join("aeioubcdfghklmnprst"[n] for n in rng.integers(0, 19, int(rng.integers(5, 11))))


class Timed:
    """Items, and the CPU time that making them took."""

    def __init__(self, items: Iterable[Item]) -> None:
        self._items, self.spent = items, 0.0

    def __iter__(self) -> Iterator[Item]:
        began = time.process_time()
        for item in self._items:
            self.spent += time.process_time() - began
            yield item
            began = time.process_time()


def resident() -> float:
    """Resident memory of this process, MB."""
    found = re.search(r"VmRSS:\s+(\d+)", Path("/proc/self/status").read_text())
    return int(found[1]) / 1024 if found else 0.0


def measured(name: str, folder: Path, count: int) -> dict[str, Any]:
    """Figures of one contender at one size; 0: the data set itself."""
    known = read(folder).items
    source: Iterable[Item] = known if not count else simulated(known, count)
    sample = KnownItems(known if not count else list(islice(simulated(known, count), 4_000)))
    CONTENDERS[name][0](known[:200])[0]("some words")  # compile, import
    made = Timed(source)
    before, began = resident(), time.process_time()
    search, change = CONTENDERS[name][0](made)
    spent = time.process_time() - began - made.spent
    found: dict[str, Any] = {"build_s": round(spent, 2), "mb": round(resident() - before)}
    if change is not None and not count:
        one, other = known[5], known[6]
        change(6, other, one)
        began = time.process_time()
        for _ in range(20):
            change(6, one, other)
            change(6, other, one)
        found["change_ms"] = round((time.process_time() - began) / 40 * 1e3, 3)
        change(6, one, other)
    places = np.random.default_rng(1).permutation(len(known) if not count else 4_000)[:QUERIES]
    times, gains = [], []
    for length in LENGTHS:
        ranks = []
        for at in places[: TIMED // len(LENGTHS)] if count else places:
            query = sample.query(int(at), length, f"bench:{at}")
            began = time.process_time()
            listed = list(search(query))
            times.append(time.process_time() - began)
            ranks.append(1 / (listed.index(at) + 1) if at in listed else 0.0)
        gains.append(float(np.mean(ranks)))
    found["ms_p50"], found["ms_p99"] = (round(float(np.percentile(times, q)) * 1e3, 2) for q in (50, 99))
    found["mrr"] = [round(gain, 3) for gain in gains]
    return found


def main(arguments: Sequence[str]) -> int:
    """Run it; the exit status."""
    parser = argparse.ArgumentParser(prog="python -m bench.lexical", description=__doc__)
    parser.add_argument("--dataset", type=Path, default=ROOT / "data" / "ifdb-played")
    parser.add_argument("--sizes", type=int, nargs="*", default=[0, 100_000], help="simulated items; 0: the data set")
    parser.add_argument("--only", action="append", choices=CONTENDERS, help="only this one; may be given again")
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.one:
        print(json.dumps(measured(options.only[0], options.dataset, options.sizes[0])))
        return 0
    for size in options.sizes:
        for name in options.only or CONTENDERS:
            if find_spec(CONTENDERS[name][1]) is None:
                print(f"{size or 'dataset'}  {name}: {CONTENDERS[name][1]} is not installed")
                continue
            command = [
                sys.executable,
                "-m",
                "bench.lexical",
                "--one",
                "--only",
                name,
                "--sizes",
                str(size),
                "--dataset",
                str(options.dataset),
            ]
            done = subprocess.run(command, check=False, capture_output=True, text=True)
            print(f"{size or 'dataset'}  {name}: {done.stdout.strip() or done.stderr[-600:]}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
