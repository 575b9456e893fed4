"""How texts are cut into words, and what they quote: one way for rules, measures and judges."""

from __future__ import annotations

import re
from typing import Final

_WORD: Final = re.compile(r"\w+(?:'\w+)*")

# A single quote opens and closes words only where it is no apostrophe: not between letters.
_QUOTED: Final = re.compile(
    r'"([^"\n]+)"|“([^”\n]+)”|„([^“”\n]+)[“”]|«([^»\n]+)»|‘([^‘\n]+?)’(?!\w)'  # noqa: RUF001
    r"|(?<!\w)'([^'\n]+(?:(?<=\w)'(?=\w)[^'\n]+)*)'(?!\w)"
)


def words_of(text: str) -> list[str]:
    """Cut a text into lower-case words, without punctuation; typographic apostrophes are plain."""
    return _WORD.findall(text.replace("\N{RIGHT SINGLE QUOTATION MARK}", "'").lower())


def quotations(text: str) -> list[str]:
    """Return what stands in quotation marks of any kind, in order."""
    return [next(filter(None, found)).strip() for found in _QUOTED.findall(text)]
