"""Tables of figures as Markdown. It knows no figures; a page around them is made by whoever has them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from engine.bootstrap import Difference


def table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A table whose first column is text, and the others numbers; decimals as `decimal` writes them, None as nothing.

    >>> print(table(["", "NDCG@10"], [["list", 0.0703], ["random", None]]))
    |  | NDCG@10 |
    |---|--:|
    | list | .0703 |
    | random |  |
    """
    head = f"| {' | '.join(columns)} |\n|---|{'--:|' * (len(columns) - 1)}"
    return "\n".join([head, *(f"| {' | '.join(_cell(value) for value in row)} |" for row in rows)])


def _cell(value: object) -> str:
    return "" if value is None else decimal(value) if isinstance(value, float) else str(value).replace("|", "\\|")


def decimal(value: float) -> str:
    """Four decimals, without a leading zero.

    >>> decimal(0.07031), decimal(-0.5), decimal(12.5)
    ('.0703', '-.5000', '12.5000')
    """
    text = f"{value:.4f}"
    return text.replace("0.", ".", 1) if text.lstrip("-").startswith("0.") else text


def interval(one: Difference) -> str:
    """A difference and its interval; bold where zero is outside.

    >>> interval(Difference(500, 60, 0.1, 0.12, 0.011, 0.031))
    '**+.0200** (+.0110 to +.0310)'
    """
    if not one.cases:
        return ""
    middle = signed(one.difference)
    return f"{f'**{middle}**' if one.sure else middle} ({signed(one.low)} to {signed(one.high)})"


def signed(value: float) -> str:
    """A difference with its sign.

    >>> signed(0.02), signed(-0.0213)
    ('+.0200', '-.0213')
    """
    return ("" if value < 0 else "+") + decimal(value)
