"""Pages: single HTML files with embedded style, scripts and data."""

from __future__ import annotations

import html
import json
from importlib import resources
from pathlib import Path
from string import Template
from typing import Any

from pcm3_jax.runtime.files import replaced

# The scripts of each kind of page, in order of dependence.
REPORT = ("dom.js", "layout.js", "charts.js", "skeletons.js", "encoders.js", "sections.js")
RECORDINGS = ("dom.js", "layout.js", "skeletons.js", "recordings.js")


def write(out: Path, contents: dict[str, Any], scripts: tuple[str, ...] = REPORT) -> None:
    """Writes a page atomically.

    Args:
      out: the file.
      contents: what `render` shows.
      scripts: `REPORT` or `RECORDINGS`.

    Raises:
      UserError: it cannot be written there.
    """
    # Folder names may be invalid UTF-8.
    text = render(contents, scripts).encode("utf-8", "replace")
    with replaced(out) as partial:
        partial.write_bytes(text)


def render(contents: dict[str, Any], scripts: tuple[str, ...] = REPORT) -> str:
    """The page as text; ``contents["title"]`` is its title in the browser.

    Contents cannot inject HTML: their JSON has no "<", so it cannot close its script element, and
    the scripts insert it as text only.
    """
    return Template(_asset("page.html")).substitute(
        title=html.escape(contents["title"]),
        style=_asset("page.css"),
        data=_embedded_json(contents),
        script="\n".join(map(_asset, scripts)),
    )


def _embedded_json(content: Any) -> str:
    """JSON that is safe inside a script element; non-finite numbers become null."""
    finite = json.loads(json.dumps(content), parse_constant=lambda _: None)
    text = json.dumps(finite, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _asset(name: str) -> str:
    return (resources.files(__package__) / "page" / name).read_text(encoding="utf-8")
