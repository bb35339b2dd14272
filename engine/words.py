"""Text to the words it is searched by: without case, accents and punctuation. No stemming, no stop words: no language is assumed.

Scripts that put no spaces between words (Chinese, Japanese, Thai, Lao, Burmese, Khmer), and Korean, whose words take endings, give
overlapping pairs of characters, as is usual for them (Nie et al. 2000).
"""

from __future__ import annotations

import re
import unicodedata
from itertools import pairwise

LONGEST = 32
"""Characters of a word at most: a longer one, an address or noise, is cut into pieces."""
_UNSPACED = (
    "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3005\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7a3\uf900-\ufaff\U00020000-\U0003ffff"
)
_MARKS = "\u0900-\u0963\u0966-\u0dff\u0f18-\u0f39\u0f71-\u0f84"
"""Indic and Tibetan letters with their vowel signs, which `\\w` takes for ends of words; not the danda."""
_ASCII = re.compile(rf"[a-z0-9]{{1,{LONGEST}}}")
_WORD = re.compile(rf"[{_UNSPACED}]+|(?:(?![_{_UNSPACED}])[\w{_MARKS}]){{1,{LONGEST}}}")
_IS_UNSPACED = re.compile(f"[{_UNSPACED}]")
_ACCENTS = re.compile("[\u0300-\u036f\u0591-\u05c7\u0610-\u061a\u064b-\u065f\u0670]")
"""What is left out: accents of Latin, Greek and Cyrillic, points of Hebrew, vowel signs of Arabic. Signs of other scripts are letters."""


def words(text: str) -> list[str]:
    """The words in their order, with repeats.

    >>> words("Élodie's 2nd Straße_x"), words("東京都"), words("🐉 !")
    (['elodie', 's', '2nd', 'strasse', 'x'], ['東京', '京都'], [])
    """
    if text.isascii():
        return _ASCII.findall(text.lower())
    plain = _ACCENTS.sub("", unicodedata.normalize("NFKD", text.casefold()))
    found: list[str] = []
    for word in _WORD.findall(unicodedata.normalize("NFKC", plain).casefold()):
        if len(word) > 1 and _IS_UNSPACED.match(word):
            found += map("".join, pairwise(word))
        else:
            found.append(word)
    return found
