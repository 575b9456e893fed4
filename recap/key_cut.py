r"""The key cut out of whatever a server says, however its JSON escapes it.

A server that quotes the key may write `+` as `\u002B` and `/` as `\/`, and escape it again where
JSON lies in a text of JSON. Such a text is no key until it is parsed, so it is cut where it stands.
"""

from __future__ import annotations

import json
import re
from typing import Any, Final

CUT: Final = "[key]"
"""What stands in the key's place."""

_ESCAPE: Final = r"(?:\\(?:u005[cC])?)+"
"""Backslashes, each perhaps escaped itself."""


class KeyCut:
    """Cuts one key out of texts.

    Args:
        key: Printable ASCII; None cuts nothing.
    """

    def __init__(self, key: str | None) -> None:
        self._pattern = None if key is None else re.compile("".join(map(_forms, key)))

    def text(self, said: str) -> str:
        """Cut the key and its escaped forms out of a text."""
        return said if self._pattern is None else self._pattern.sub(CUT, said)

    def body(self, raw: str) -> str:
        """Cut the key out of a reply: out of its text, and of the strings that it is read as."""
        raw = self.text(raw)
        if self._pattern is None:
            return raw
        try:
            read = json.loads(raw)
            clean = self._value(read)
            return raw if clean == read else json.dumps(clean, ensure_ascii=True)
        except (ValueError, RecursionError):
            return raw  # no JSON: nobody reads strings in it

    def _value(self, read: Any) -> Any:
        if isinstance(read, dict):
            return {self.text(name): self._value(below) for name, below in read.items()}
        if isinstance(read, list):
            return [self._value(below) for below in read]
        return self.text(read) if isinstance(read, str) else read


def _forms(letter: str) -> str:
    """Return a pattern of a letter as it is and as JSON may write it."""
    code = "".join(f"[{c}{c.upper()}]" if c.isalpha() else c for c in f"{ord(letter):04x}")
    # A letter after a backslash means something else, a sign the same.
    plain = re.escape(letter) if letter.isalnum() else f"(?:{_ESCAPE})?{re.escape(letter)}"
    return f"(?:{plain}|{_ESCAPE}u{code})"
