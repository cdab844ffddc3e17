"""The page: one HTML file with its style, its program and its data inside."""

from __future__ import annotations

import html
import json
import math
from importlib import resources
from pathlib import Path
from typing import Any

from pcm3_jax.runtime.files import replaced

# In this order: later ones use what earlier ones define.
_SCRIPTS = ("dom.js", "charts.js", "skeletons.js", "encoders.js", "sections.js")


def write(out: Path, contents: dict[str, Any]) -> None:
    """Writes the page, whole or not at all.

    Raises:
      UserError: it cannot be written there.
    """
    # Names of folders need not be UTF-8.
    text = render(contents).encode("utf-8", "replace")
    with replaced(out) as partial:
        partial.write_bytes(text)


def render(contents: dict[str, Any]) -> str:
    """The page as text.

    Whatever the contents hold, they stay data: as JSON without "<" they cannot leave their
    element, and the program puts them into the page as text only.
    """
    names = ", ".join(run["name"] for run in contents["runs"])
    parts = {
        "title": html.escape(f"{names} – PCM³ report" if names else "PCM³ report"),
        "style": _asset("page.css"),
        "data": embedded_json(contents),
        "script": "\n".join(map(_asset, _SCRIPTS)),
    }
    page = _asset("page.html")
    before, *rest = page.split("<!-- insert ")
    for piece in rest:
        name, _, after = piece.partition(" -->")
        before += parts[name] + after
    return before


def embedded_json(content: Any) -> str:
    """JSON that may stand inside a script element; numbers that are not finite become null."""
    text = json.dumps(_finite(content), allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _finite(tree: Any) -> Any:
    if isinstance(tree, dict):
        return {str(key): _finite(value) for key, value in tree.items()}
    if isinstance(tree, (list, tuple)):
        return [_finite(value) for value in tree]
    return None if isinstance(tree, float) and not math.isfinite(tree) else tree


def _asset(name: str) -> str:
    return (resources.files(__package__) / "page" / name).read_text(encoding="utf-8")
