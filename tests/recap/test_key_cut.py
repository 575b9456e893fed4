"""The key in a server's words: cut out of every form in which JSON may bring it back."""

from __future__ import annotations

import json

import pytest

from recap.answers import read_body, read_objects
from recap.key_cut import KeyCut

KEY = 'abcd+efgh/"ijkl=='
HIDDEN = KEY.replace("+", "\\u002B").replace("/", "\\/").replace('"', '\\"')


def all_strings(raw: str) -> str:
    """Return a reply, the words read from it, and the texts of the objects in these."""
    words = read_body(raw).text
    return " ".join(
        [raw, words, *(str(v) for found in read_objects(words) for v in found.values())]
    )


def reply(content: str) -> str:
    """Return a reply whose words are already written as JSON writes them."""
    return f'{{"choices": [{{"message": {{"content": "{content}"}}}}]}}'


@pytest.mark.parametrize(
    "hidden",
    [
        HIDDEN,
        "".join(f"\\u{ord(letter):04X}" for letter in KEY),
        json.dumps(json.dumps({"said": KEY}))[1:-1],
        json.dumps(f'{{"said": "your key {HIDDEN}"}}')[1:-1],
        json.dumps(f'{{"said": "{HIDDEN}"}}')[1:-1].replace("\\\\u", "\\u005c\\u0075"),
    ],
    ids=["escaped", "every letter", "in an object", "escaped in an object", "escaped escapes"],
)
def test_the_key_is_cut_out_however_json_escapes_it(hidden: str) -> None:
    raw = reply(hidden)
    assert KEY in all_strings(raw)
    clean = KeyCut(KEY).body(raw)
    assert KEY not in all_strings(clean)
    assert "[key]" in all_strings(clean)


def test_an_error_page_that_is_no_json_loses_the_key_too() -> None:
    assert KeyCut(KEY).body(f"<p>wrong key {HIDDEN}</p>") == "<p>wrong key [key]</p>"


def test_a_reply_without_the_key_stays_as_it_came() -> None:
    raw = reply("a \\u002b b \\/ abcd \\\\n")
    assert KeyCut(KEY).body(raw) == raw
    assert KeyCut(None).body(raw) == raw
