"""The settings as a page of the docs, made of the class itself: no text of its own but the frame."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator, Mapping
from typing import Any

from streams.settings import ENV_PREFIX, Settings, shown, unit_of

HEAD = """\
# Settings
Made by `headwater config --markdown`; a test compares. `headwater config` prints the values in use and where each comes from.

A setting comes from a variable, or from a TOML file under its own name (`list_size = 20`) that `--config` or `HEADWATER_CONFIG` names. A
variable goes before the file, and an empty one counts as none. What is wrong is named all at once, and nothing starts. Lists are written
with commas, tables as `name=number` with commas.
"""
_LIMITS = (("minimum", "from {}"), ("exclusiveMinimum", "above {}"), ("maximum", "to {}"), ("exclusiveMaximum", "below {}"))


def page() -> str:
    """The page."""
    properties = Settings.model_json_schema()["properties"]
    lines = [HEAD]
    for section, names in _sections():
        lines += [f"## {section}", "| variable | default | unit | allowed | meaning |", "|---|---|---|---|---|"]
        for name in names:
            field = Settings.model_fields[name]
            cells = (
                f"`{ENV_PREFIX}{name.upper()}`",
                f"`{value}`" if (value := shown(field.default)) else "none",
                unit_of(name),
                _allowed(properties[name]),
                (field.description or "").replace("|", "\\|"),
            )
            lines.append("| " + " | ".join(cells) + " |")
        lines.append("")
    return "\n".join(lines)


def _sections() -> Iterator[tuple[str, list[str]]]:
    """(heading, names) as the comments of the class divide them."""
    names: list[str] = []
    title = ""
    for line in inspect.getsource(Settings).splitlines():
        if heading := re.fullmatch(r"    # (\w[\w ]*)", line):
            if names:
                yield title, names
            title, names = heading[1], []
        elif (found := re.match(r"    (\w+): ", line)) and found[1] in Settings.model_fields:
            names.append(found[1])
    yield title, names


def _allowed(schema: Mapping[str, Any]) -> str:
    """What a value may be, in words.

    >>> _allowed({"minimum": 1, "maximum": 1000}), _allowed({"enum": ["text", "json"]}), _allowed({"exclusiveMinimum": 0.0})
    ('from 1 to 1000', '`text` `json`', 'above 0')
    """
    if "enum" in schema:
        return " ".join(f"`{one}`" for one in schema["enum"])
    return " ".join(text.format(f"{schema[key]:g}" if schema[key] < 10**6 else schema[key]) for key, text in _LIMITS if key in schema)
