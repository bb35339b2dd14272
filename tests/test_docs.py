"""The docs can't rot: settings are those of the code, every command is told of, every link and heading that is linked to is there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from streams.settings import Settings
from streams.settings_page import page
from tests.test_readme import commands

ROOT = Path(__file__).resolve().parent.parent
DOCUMENTS = {
    str(path.relative_to(ROOT)): path.read_text(encoding="utf-8")
    for path in (*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), ROOT / "data" / "README.md")
}
DECISION = re.compile(r"# \d{4} .+\n\d{4}-\d\d-\d\d\n\n## Context\n.+\n## Decision\n.+\n## Consequences\n", re.DOTALL)


def anchors(text: str) -> set[str]:
    """The anchors that a page's headings have."""
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_the_settings_page_is_that_of_the_code() -> None:
    """Rule: docs/settings.md is what `headwater config --markdown` prints, and has every setting once."""
    assert DOCUMENTS["docs/settings.md"] == page(), "run: headwater config --markdown > docs/settings.md"
    named = re.findall(r"^\| `HEADWATER_(\w+)` \|", DOCUMENTS["docs/settings.md"], re.MULTILINE)
    assert sorted(named) == sorted(name.upper() for name in Settings.model_fields)


@pytest.mark.parametrize("command", sorted(commands()))
def test_every_command_is_told_of(command: str) -> None:
    """Rule: someone who reads README and docs meets every command."""
    assert any(f"headwater {command}" in text for text in DOCUMENTS.values())


@pytest.mark.parametrize("document", DOCUMENTS)
def test_links_lead_somewhere(document: str) -> None:
    """Rule: every linked file, and every linked heading, is there."""
    base = (ROOT / document).parent
    for target, _, anchor in (link.partition("#") for link in re.findall(r"\]\((?!https?:)([^)\s]+)\)", DOCUMENTS[document])):
        path = (base / target).resolve() if target else ROOT / document
        assert path.exists(), target
        if anchor:
            assert anchor in anchors(path.read_text(encoding="utf-8")), f"{target}#{anchor}"


def test_decisions_have_one_form() -> None:
    """Rule: a decision is a page with a date, context, decision and consequences, and stands in the index."""
    index = DOCUMENTS["docs/decisions/README.md"]
    pages = {name: text for name, text in DOCUMENTS.items() if re.fullmatch(r"docs/decisions/\d{4}-.+\.md", name)}
    assert pages
    for name, text in pages.items():
        assert DECISION.match(text), name
        title = text.splitlines()[0].removeprefix("# ")
        assert f"[{title[:4]}]({Path(name).name}) | {title[5:]} |" in index, name
        assert len(text.splitlines()) <= 45, f"{name}: a page"
