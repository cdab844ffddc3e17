"""The page: one HTML file with embedded style, scripts and data."""

from __future__ import annotations

import html
import json
from importlib import resources
from pathlib import Path
from string import Template
from typing import Any

from pcm3_jax.runtime.files import replaced

# In order of dependence.
_SCRIPTS = ("dom.js", "charts.js", "skeletons.js", "encoders.js", "sections.js")


def write(out: Path, contents: dict[str, Any]) -> None:
    """Writes the page atomically.

    Raises:
      UserError: it cannot be written there.
    """
    # Folder names may be invalid UTF-8.
    text = render(contents).encode("utf-8", "replace")
    with replaced(out) as partial:
        partial.write_bytes(text)


def render(contents: dict[str, Any]) -> str:
    """The page as text.

    Contents cannot inject HTML: their JSON has no "<", so it cannot close its script element, and
    the scripts insert it as text only.
    """
    names = ", ".join(run["name"] for run in contents["runs"])
    return Template(_asset("page.html")).substitute(
        title=html.escape(f"{names} – PCM³ report" if names else "PCM³ report"),
        style=_asset("page.css"),
        data=_embedded_json(contents),
        script="\n".join(map(_asset, _SCRIPTS)),
    )


def _embedded_json(content: Any) -> str:
    """JSON that is safe inside a script element; non-finite numbers become null."""
    finite = json.loads(json.dumps(content), parse_constant=lambda _: None)
    text = json.dumps(finite, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _asset(name: str) -> str:
    return (resources.files(__package__) / "page" / name).read_text(encoding="utf-8")
