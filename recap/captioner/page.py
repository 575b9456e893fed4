"""A page to read beside the figures: what a captioner says of pictures it was not trained on.

B pictures, H height and width of a picture
"""

from __future__ import annotations

import base64
import io
from pathlib import Path
from typing import Any

from jaxtyping import UInt8
from torch import Tensor

from launch.manifest import write_bytes
from recap.captioner.validation import HeldOut, alt_retrieval, figures

PAGE = "validation.html"

TEMPLATE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<title>Captions of kind {{ kind }}</title>
<style>
body { font: 16px/1.5 sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem }
table { border-collapse: collapse }
th, td { text-align: left; vertical-align: top; padding: .3rem 1rem .3rem 0 }
img { width: 10rem; image-rendering: pixelated }
</style>
<h1>Captions of kind {{ kind }}</h1>
<p>Measured on {{ num_pictures }} pictures of the test split, with averaged weights.</p>
{% if num_with_claims %}
<p>Claims are compared with the truth of {{ num_with_claims }} of them, of which it is known.</p>
{% endif %}
{% if towers %}<p>{{ towers }}</p>{% endif %}
{% if curve %}
<table>
<tr><th>samples seen</th>{% for name in names %}<th>{{ name }}</th>{% endfor %}</tr>
{% for point in curve %}
<tr><td>{{ point.samples_seen }}</td>
{% for name in names %}
<td>{{ "%.4f"|format(point[name]) if name in point else "" }}</td>
{% endfor %}
</tr>
{% endfor %}
</table>
{% endif %}
<h2>What it says</h2>
<table>
<tr><th>picture</th><th>written</th><th>held-out caption</th></tr>
{% for sample in samples %}
<tr><td><img src="{{ sample.uri }}" alt="{{ sample.sample_id }}"></td>
<td>{{ sample.text }}</td><td>{{ sample.reference or "none" }}</td></tr>
{% endfor %}
</table>
</html>
"""


def write_page(folder: Path, found: dict[str, Any], held_out: HeldOut, *, kind: str) -> str:
    """Write `validation.html`, which needs no other file, and return its name.

    Args:
        folder: Folder of the captioner.
        found: What `validation.json` holds.
        held_out: What was measured on.
        kind: Kind of caption that was learned.
    """
    from jinja2 import Environment, StrictUndefined

    references = held_out.captions or held_out.alt
    examples = found.get("written", {}).get("examples", [])
    samples = [
        {**example, "uri": _data_uri(pixels), "reference": reference}
        for example, pixels, reference in zip(examples, held_out.pixels, references, strict=False)
    ]
    now = figures(found)
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    html = environment.from_string(TEMPLATE).render(
        kind=kind,
        num_pictures=found["num_pictures"],
        num_with_claims=_partly_known(found.get("written", {})),
        towers=alt_retrieval(found),
        names=list(now),
        curve=found.get("curve") or [{"samples_seen": "all", **now}],
        samples=samples,
    )
    write_bytes(folder / PAGE, html.encode())
    return PAGE


def _partly_known(written: dict[str, Any]) -> int | None:
    """Return of how many pictures claims are known, if of some only."""
    known: int | None = written.get("num_with_claims")
    return None if known == written.get("num_captions") else known


def _data_uri(pixels: UInt8[Tensor, "H H 3"]) -> str:
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(pixels.numpy()).save(file, format="PNG")
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()
