"""Settings of the rules for a bad caption."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import ClassVar, Literal

from launch.errors import ConfigError

RULE_NAMES = (
    "empty",
    "too_short",
    "too_long",
    "loop",
    "unfinished",
    "broken_text",
    "refusal",
    "boilerplate",
    "digits_only",
    "wrong_script",
    "missing_words",
    "same_text",
)
"""Rules for a bad caption, as `recap/gates.py` has them."""


SCRIPTS = ("arabic", "cjk", "cyrillic", "devanagari", "greek", "hebrew", "latin", "thai")
"""Families of scripts that a caption may have to be written in, as `recap/gates.py` has them."""

SCRIPTS_WITHOUT_BLANKS = ("cjk", "thai")
"""Those of them whose letters count as words, because no blank stands between words."""


@dataclass(frozen=True, kw_only=True)
class GateConfig:
    """Named rules that quarantine a bad caption."""

    NOT_IN_RECIPE: ClassVar = frozenset({"max_gated_share"})
    ALSO_IN_RECIPE: ClassVar = ("words",)

    rules: list[str] | None = None
    """Rules that are applied, by name; None applies them all."""

    min_words: int = 1
    """Fewer words than this: rule `too_short`."""

    max_words: int = 200
    """More words than this: rule `too_long`."""

    max_repeats: int = 4
    """A phrase repeated this often in a row: rule `loop`."""

    script: str | None = None
    """Family of scripts that captions are written in, such as `latin`; another: rule
    `wrong_script`. None is off. Texts without blanks between words need `cjk` or `thai`: every
    letter of such a script counts as a word then, in all rules that count or look for words, but
    not Korean, which has blanks. Otherwise a whole sentence counts as one word."""

    max_other_script_share: float = 0.2
    """Share of a caption's letters that another script may have."""

    required_words: list[str] = field(default_factory=list)
    """Words or phrases of which none may be missing: rule `missing_words`."""

    max_pictures_per_text: int | None = None
    """One text on more pictures of a part than this: rule `same_text`. None is off: where pictures
    are simple, short captions that are right are often equal."""

    max_gated_share: float = 0.2
    """Share of gated captions above which the job stops."""

    @property
    def words(self) -> Literal["letters"] | None:
        """What counts as a word where it is not what stands between blanks."""
        return "letters" if self.script in SCRIPTS_WITHOUT_BLANKS else None

    def __post_init__(self) -> None:
        for rule in self.rules or []:
            if rule not in RULE_NAMES:
                raise ConfigError(
                    f"gates.rules: unknown rule {rule!r}; expected some of {', '.join(RULE_NAMES)}"
                )
        if self.max_repeats < 2:
            raise ConfigError(f"gates.max_repeats must be at least 2, got {self.max_repeats}")
        if self.script is not None and self.script not in SCRIPTS:
            raise ConfigError(
                f"gates.script: got {self.script!r}, expected one of {', '.join(SCRIPTS)}"
            )
        if not 0 <= self.max_other_script_share <= 1:
            raise ConfigError(
                "gates.max_other_script_share must lie in [0, 1], got "
                f"{self.max_other_script_share:g}"
            )
        if not all(re.search(r"\w", word) for word in self.required_words):
            raise ConfigError(
                f"gates.required_words: every entry needs a word, got {self.required_words}"
            )
        if self.max_pictures_per_text is not None and self.max_pictures_per_text < 1:
            raise ConfigError(
                "gates.max_pictures_per_text must be at least 1, got "
                f"{self.max_pictures_per_text}; leave it out to switch the rule off"
            )
        if not 0 <= self.max_gated_share <= 1:
            raise ConfigError(
                f"gates.max_gated_share must lie in [0, 1], got {self.max_gated_share:g}"
            )
