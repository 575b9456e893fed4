"""A self-contained HTML page from a template: one style, one script, no network.

Everything that comes from data passes autoescape; only figures of ours and the style and script of
this folder are marked safe. The page's content policy allows no network and no other script.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from importlib.resources import files
from typing import Any


def render(
    template: str,
    *,
    styles: Sequence[str] = ("report.css",),
    script: str = "report.js",
    **content: Any,
) -> bytes:
    """Fill a template of `eval/templates`; those with the default script extend `page.html.j2`.

    Args:
        template: File name.
        styles: Style sheets, later ones over earlier ones.
        script: The page's one script.
        content: What it shows; equal content gives equal bytes.
    """
    from jinja2 import Environment, FunctionLoader, StrictUndefined

    sources = files("eval") / "templates"
    environment = Environment(
        loader=FunctionLoader(lambda name: (sources / name).read_text(encoding="utf-8")),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=False,
    )
    style = "".join((sources / name).read_text(encoding="utf-8") for name in styles)
    code = (sources / script).read_text(encoding="utf-8")
    script_digest = base64.b64encode(hashlib.sha256(code.encode()).digest()).decode()
    html = environment.get_template(template).render(
        style=style, script=code, script_digest=script_digest, **content
    )
    return html.encode()
