"""The lexical index: what is found by which words, and that it is a function of the catalogue alone. Not the mix with vectors and taste."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rapidfuzz.distance import OSA

from engine.lexical import QUERY_WORDS, LexicalIndex
from engine.records import Item
from engine.vocabulary import ENDING, MANY, TWO, Vocabulary
from engine.words import LONGEST, words

GAMES = (
    Item("i0", "The Lost Lantern", "A brass lamp lies in the caves below grandmother's house.", ("Fantasy",), ("cave", "lamp"), "Ann Élan"),
    Item("i1", "Photopia", "Colours, and a girl who babysits.", ("Slice of life",), (), "Adam Cadre"),
    Item("i2", "1893: A Fair", "Detectives at the exposition in Chicago.", ("Mystery",), ("detective",), "Peter Nepstad"),
    Item("i3", "東京の夜", "夜の街を歩く。", (), ("冒険",), "山田"),
    Item("i4", "Пещера", "Фонарь в тёмной пещере.", (), (), "Анна"),
    Item("i5", "हिन्दी खेल", "एक गुफा में दीपक।", (), (), ""),
    Item("i6", "A Detective Story", "She solves a murder.", (), (), ""),
)
texts = st.text(st.one_of(st.sampled_from("abcdé éß東京の-'🐉  "), st.characters(codec="utf-8")), max_size=30)
items = st.builds(
    Item,
    item_id=st.just("any"),
    title=texts.map(lambda text: text or "x"),
    description=texts,
    categories=st.lists(texts, max_size=2).map(tuple),
    tags=st.lists(texts, max_size=3).map(tuple),
    creator=texts,
)


def indexed(catalogue: dict[int, Item]) -> LexicalIndex:
    """An index made anew, in the order of the places."""
    index = LexicalIndex()
    for place in sorted(catalogue):
        index.change(place, None, catalogue[place])
    return index


def found(query: str) -> list[str]:
    """Ids of the games that fit at all, best first."""
    scores = indexed(dict(enumerate(GAMES))).fit(query, len(GAMES)).scores
    return [GAMES[at].item_id for at in np.argsort(-scores, kind="stable") if scores[at] > 0]


@pytest.mark.parametrize(
    "query, best",
    [
        ("photopia", "i1"),
        ("PHOTOPIA!!", "i1"),
        ("photobia", "i1"),  # another letter
        ("photpia", "i1"),  # one left out
        ("phottopia", "i1"),  # doubled
        ("hpotopia", "i1"),  # swapped
        ("photo", "i1"),  # the beginning of a word
        ("grandmoter huose", "i0"),
        ("lanterns", "i0"),  # plural
        ("elan", "i0"),  # accent
        ("colour", "i1"),
        ("chicago 1893", "i2"),
        ("京の夜", "i3"),
        ("ПЕЩЕРЫ", "i4"),
        ("тёмной", "i4"),
        ("темной", "i4"),
        ("गुफा", "i5"),
    ],
)
def test_found_by(query: str, best: str) -> None:
    """Rule: typing errors, parts of words, plurals, accents and case hide nothing, in any script."""
    assert found(query)[0] == best


def test_a_title_weighs_more_than_a_description() -> None:
    """Rule: of two items with a word, the one that has it in its title goes first; all of a query's words go before one of them."""
    assert found("detective") == ["i6", "i2"]
    assert found("detective chicago")[0] == "i2"


def test_numbers_are_not_typing_errors() -> None:
    """Rule: a year is not another year."""
    assert found("1993") == []


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 5), st.one_of(st.none(), items)), max_size=14), st.lists(texts, min_size=1, max_size=3))
def test_changed_is_as_made_anew(changes: list[tuple[int, Item | None]], queries: list[str]) -> None:
    """Rule: after any changes the scores are those of an index made anew, bit for bit, and so is the number of words."""
    index, catalogue = LexicalIndex(), dict[int, Item]()
    for place, item in changes:
        index.change(place, catalogue.pop(place, None), item)
        if item is not None:
            catalogue[place] = item
    anew = indexed(catalogue)
    assert (len(index.vocabulary), index.items) == (len(anew.vocabulary), len(catalogue))
    for query in [*queries, *(item.title for item in catalogue.values())]:
        one, other = index.fit(query, 6), anew.fit(query, 6)
        assert np.array_equal(one.scores, other.scores)
        assert one.possible == other.possible


def test_removal_removes() -> None:
    """Rule: what is removed or renamed is not found by what it was called."""
    index = indexed(dict(enumerate(GAMES)))
    index.change(1, GAMES[1], None)
    index.change(0, GAMES[0], Item("i0", "The Found Lantern"))
    assert not index.fit("photopia cadre", 7).scores.any()
    assert not index.fit("grandmother", 7).scores.any()
    assert index.fit("lantern", 7).scores.argmax() == 0
    for at, item in enumerate((Item("i0", "The Found Lantern"), None, *GAMES[2:])):
        index.change(at, item, None)
    assert (len(index.vocabulary), index.items) == (0, 0)
    assert index.fit("lantern", 7).coverage == 0.0


@settings(max_examples=80, deadline=None)
@given(st.one_of(texts, st.text(max_size=200)))
def test_any_query_is_answered(query: str) -> None:
    """Rule: scores are finite and none is below zero, and none above what is possible, whatever is asked."""
    fit = indexed(dict(enumerate(GAMES))).fit(query, len(GAMES))
    assert fit.scores.shape == (len(GAMES),)
    assert np.isfinite(fit.scores).all()
    assert (fit.scores >= 0).all()
    assert 0.0 <= fit.coverage <= 1.0


@pytest.mark.parametrize("query", ["", " ", "🐉🐉", "the of and a", "\x00\n", "a" * 10_000, "word " * 2_000, "' OR 1=1 --", "東" * 10_000])
def test_odd_queries(query: str) -> None:
    """Rule: nothing, symbols, 10 kB: scores, in no time."""
    assert np.isfinite(indexed(dict(enumerate(GAMES))).fit(query, 7).scores).all()


@settings(max_examples=200, deadline=None)
@given(st.lists(st.text("abcé東", min_size=3, max_size=9), min_size=1, max_size=30, unique=True), st.text("abcé東", min_size=3, max_size=9))
def test_no_word_that_may_be_meant_is_missed(known: list[str], word: str) -> None:
    """Rule: what is looked at first leaves out no word that is so few errors away or begins alike."""
    vocabulary = Vocabulary()
    for one in known:
        vocabulary.add(one)
    errors = 1 if len(word) < TWO else 2
    meant = {vocabulary.words[number] for number, _ in vocabulary.meant(word, lambda number: 1 if known[number] == word else 100)}
    wanted = {one for one in known if OSA.distance(one, word) <= errors or one.startswith(word) or one == word}
    wanted |= {one for one in known if word.startswith(one) and len(word) - len(one) <= ENDING}
    assert meant == wanted if len(wanted) <= MANY else meant < wanted


def test_work_is_bounded() -> None:
    """Rule: a query's words and what each may stand for are bounded, and so are an item's words."""
    many = {at: Item(f"i{at}", f"begin{chr(97 + at % 26)}{chr(97 + at // 26)}") for at in range(200)}
    index = indexed(many)
    assert len(index.vocabulary.meant("begin", lambda _: 1)) == MANY
    text = " ".join(f"w{chr(97 + at % 26)}{chr(97 + at // 26)}" for at in range(500))
    assert index.fit(text, 200).possible <= QUERY_WORDS * index.fit("unheard", 200).possible
    long = indexed({0: Item("i0", "x", "word " * 100_000 + " last")})
    assert not long.fit("last", 1).scores.any()
    assert max(map(len, words("x" * 100 + "é" * 100))) <= LONGEST


def test_places_beyond_those_asked_for() -> None:
    """Rule: items that came after the row's length was taken are left out, and a row may be longer than what is indexed."""
    index = indexed(dict(enumerate(GAMES)))
    assert index.fit("detective", 3).scores.nonzero()[0].tolist() == [2]
    assert index.fit("detective", 5_000).scores.nonzero()[0].tolist() == [2, 6]
    index.change(70_000, None, Item("far", "far detective"))
    assert index.fit("detective", 70_001).scores.nonzero()[0].tolist() == [2, 6, 70_000]
