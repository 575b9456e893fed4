"""Arms of a study: they may differ in their captions and in nothing else."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from launch.config import Tree
from launch.errors import ConfigError

CAPTION_FOLDERS = frozenset({"captions", "further_text_states"})
"""Settings that an arm may have of its own, and roles of inputs in which arms may differ: where its
captions lie, beside its mix."""


def checked_arms(tree: Tree) -> dict[str, Tree]:
    """Return the arms, refusing those that differ in anything but their captions.

    Raises:
        ConfigError: An arm has another key, no mix, or captions of a kind that the study lacks.
    """
    arms = tree.get("arms") or {}
    if not isinstance(arms, dict):
        raise ConfigError("arms must be name -> {caption_mix: {kind: probability}}")
    known = tree.get("kinds")
    for name, arm in arms.items():
        if not re.fullmatch(r"[\w.+-]+", str(name)):
            raise ConfigError(
                f"arms.{name}: an arm names folders; use letters, digits, and . _ + - alone"
            )
        extra = sorted(set(arm or {}) - {"caption_mix"})
        if extra:
            raise ConfigError(
                f"arms.{name}.{extra[0]}: arms of a study may differ in `caption_mix` alone. "
                "Set it for all arms in the step, or make it another study."
            )
        mix = (arm or {}).get("caption_mix")
        if not isinstance(mix, dict) or not mix:
            raise ConfigError(f"arms.{name}: needs caption_mix: {{kind: probability}}")
        for kind in mix:
            if known is not None and kind not in known:
                raise ConfigError(
                    f"arms.{name}.caption_mix.{kind}: this study has captions of kind "
                    f"{', '.join(known)}; use one of these."
                )
    return arms


def check_primary(tree: Tree, arms: Mapping[str, Tree]) -> None:
    """Refuse a headline comparison of arms that the study does not have.

    Raises:
        ConfigError: One of the two is no arm.
    """
    primary = tree.get("primary")
    if not isinstance(primary, dict) or not arms:
        return
    for key in ("better", "than"):
        if primary.get(key) not in arms:
            raise ConfigError(
                f"primary.{key}: {primary.get(key)!r} is no arm of this study; its arms are "
                f"{', '.join(arms)}."
            )


def settings_of_arm(
    step: str, spec: Tree, point: Mapping[str, Any], arms: Mapping[str, Tree]
) -> Tree:
    """Return the settings that a step has for its arm alone.

    Raises:
        ConfigError: They are of no arm, or of more than where captions lie.
    """
    per_arm = spec.get("per_arm") or {}
    for arm, own in per_arm.items():
        if arm not in arms or "arm" not in (spec.get("foreach") or []):
            raise ConfigError(
                f"steps.{step}.per_arm.{arm}: expected one of {', '.join(arms)}, in a step with "
                "foreach: [arm]"
            )
        if extra := sorted(set(own or {}) - CAPTION_FOLDERS):
            raise ConfigError(
                f"steps.{step}.per_arm.{arm}.{extra[0]}: arms of a study may differ in where their "
                f"captions lie ({', '.join(sorted(CAPTION_FOLDERS))}) and in nothing else. Set it "
                "for all arms in `set`."
            )
    own = per_arm.get(point.get("arm"))
    return dict(own or {})
