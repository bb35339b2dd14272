"""Errors: whole wherever they go, and fit to be read."""

from __future__ import annotations

import pickle

import pytest

from engine.errors import ArtefactError, BadRecord, BadSettings, BrokerError, HeadwaterError, Problem, shorten


@pytest.mark.parametrize(
    "error",
    [
        HeadwaterError("code", "found", "expected", "remedy"),
        BrokerError("code", "found", "expected", "remedy", retryable=True),
        ArtefactError("code", "found", "expected", "remedy"),
        BadRecord([Problem("a", "missing", "nothing", "b", "c"), Problem("d", "empty", "e", "f", "g")]),
        BadSettings([Problem("a", "missing", "nothing", "b", "c")]),
    ],
)
def test_errors_survive_pickling(error: HeadwaterError) -> None:
    """Errors cross process borders with all their fields."""
    again = pickle.loads(pickle.dumps(error))  # noqa: S301 - our own
    assert type(again) is type(error)
    assert (str(again), vars(again)) == (str(error), vars(error))


def test_a_list_of_problems_is_never_empty() -> None:
    """The first problem gives the code, so there must be one."""
    with pytest.raises(ValueError, match="BadRecord needs at least one"):
        BadRecord([])


@pytest.mark.parametrize("text", ["\n" * 1000, "\x1b[31m" * 1000, "\u202e" * 1000, "a" * 81])
def test_a_found_value_neither_breaks_a_line_nor_floods_it(text: str) -> None:
    """Whatever a record holds, what an error shows of it is printable and of 80 characters."""
    assert len(shorten(text)) == 80
    assert shorten(text).isprintable()
