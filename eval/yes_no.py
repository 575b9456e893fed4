"""Reading an answer as yes or no; everything else has a rule's name and is never taken for a no.

    neither                                      words that are no answer to the question
    refusal, empty, unfinished                   the model's doing
    html, not_chat, bad_request,                 the server's doing: another start asks again
    picture_too_large, no_answer

An answer is its first word, whatever follows it: "No, the cup is green." A heading "Answer:" and
marks of typesetting before it are passed over. "Yes and no" is neither.
"""

from __future__ import annotations

import re
from typing import Final

YES, NO, NEITHER = "yes", "no", "neither"

_WORD: Final = re.compile(r"[^\W_]+(?:['’][^\W_]+)*")  # noqa: RUF001
_HEADING: Final = re.compile(
    r"^\W*(?:the\s+)?(?:final\s+)?answer(?:\s+is)?\W*", re.IGNORECASE | re.UNICODE
)


def read_answer(text: str, *, rule: str | None) -> str:
    """Return `yes`, `no`, or the rule by which an answer is neither.

    Args:
        text: The model's words.
        rule: Rule that the answer breaks already.
    """
    if rule is not None:
        return rule
    words = [word.casefold() for word in _WORD.findall(_HEADING.sub("", text, count=1))]
    if not words or words[0] not in (YES, NO):
        return NEITHER
    other = NO if words[0] == YES else YES
    is_both = words[1:2] in (["and"], ["or"]) and words[2:3] == [other]
    return NEITHER if is_both or words[1:2] == [other] else words[0]


def truth(verdict: str) -> bool | None:
    """Return True for yes, False for no, None for everything else."""
    return {YES: True, NO: False}.get(verdict)
