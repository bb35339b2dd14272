"""The text of an item, as the encoder reads it. Not the encoder, and no tokens: the tokenizer cuts what goes over the budget."""

from __future__ import annotations

from hashlib import blake2b

import msgspec

from engine.errors import ArtefactError
from engine.records import Item

FIELDS = ("title", "creator", "categories", "tags", "description")
"""What a text may be made of. The last of a template is cut first, since the tokenizer cuts at the end: long lists of tags must not cut the
creator off."""
MAX_CHARS = 4096
"""Most characters of a text that are looked at: 512 tokens, the most that a BERT reads, of 8 characters each; 64 tokens take about 300."""


class Template(msgspec.Struct, frozen=True):
    """How a text is put together: which fields in which order, and what stands between them."""

    fields: tuple[str, ...] = FIELDS
    separator: str = " "

    @property
    def version(self) -> str:
        """The one string that a manifest carries; texts of equal versions can be compared.

        >>> Template().version
        'v1| |title,creator,categories,tags,description'
        """
        return f"v1|{self.separator}|{','.join(self.fields)}"

    @classmethod
    def parse(cls, version: str) -> Template:
        """Read a version string.

        Raises:
            ArtefactError: this release does not know the version or one of its fields.
        """
        parts = version.split("|")
        names = tuple(parts[2].split(",")) if len(parts) == len(("version", "separator", "fields")) else ()
        if parts[0] != "v1" or not names or names[0] != "title" or not set(names) <= set(FIELDS):
            expected = f"v1|SEPARATOR|title and any of {','.join(FIELDS[1:])}"
            raise ArtefactError("unknown_text_template", version, expected, "export the generation with this release")
        return cls(names, parts[1])


DEFAULT = Template()


def item_text(item: Item, template: Template = DEFAULT) -> str:
    """Put an item's text together: its title first, empty fields left out, white space made single spaces.

    >>> item_text(Item("i1", "Zork  I", "A cave.", categories=("Fantasy",), tags=("cave", "lamp"), creator="Infocom"))
    'Zork I Infocom Fantasy cave, lamp A cave.'
    """
    texts = []
    for name in template.fields:
        value = getattr(item, name)
        text = ", ".join(value) if isinstance(value, tuple) else value
        text = " ".join(text[:MAX_CHARS].split())
        if text:
            texts.append(text)
    return template.separator.join(texts)[:MAX_CHARS]


def text_hash(text: str) -> str:
    """Give the hash by which a stored vector is known to be that of this text: BLAKE2b, 8 bytes, as hex.

    >>> text_hash("Zork I")
    '79b405f20ddf4d03'
    """
    return blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).hexdigest()
