"""Recordings as animated skeletons, on one self-contained page.

`pcm3_jax.show` is the command line.
"""

from __future__ import annotations

import argparse
import datetime
import sys
from pathlib import Path
from typing import Any

import pcm3_jax
from pcm3_jax.data.normalization import normalize_sequence
from pcm3_jax.errors import UserError
from pcm3_jax.inference import model as library
from pcm3_jax.inference import skeleton_files
from pcm3_jax.report import bodies, entries, page, recognition
from pcm3_jax.report.entries import Entries
from pcm3_jax.report.sequences import SKELETON, Pool
from pcm3_jax.runtime.files import shown


def run(flags: argparse.Namespace) -> None:
    """Runs `pcm3 show`.  Raises UserError if files cannot be read or written."""
    _check_outputs(flags.out, flags.gif)
    model = library.load(flags.model, flags.persons) if flags.model else None
    normalization = recognition.normalization(model) if model else normalize_sequence
    skeleton_files.print_layout_note(flags.model, flags.layout)
    found = entries.read(
        flags.files,
        flags.data_dir,
        flags.layout,
        normalized=flags.normalized,
        search=model is not None,
    )
    pool = Pool()
    described = [bodies.describe(entry, normalization, pool) for entry in found.shown]
    notes = recognition.add(described, found, model, pool) if model else []
    for one in described:
        for warning in one["warnings"]:
            print(f"note: {shown(one['name'])}: {warning}", file=sys.stderr)
    page.write(flags.out, _contents(found, described, notes, pool), page.RECORDINGS)
    size = flags.out.stat().st_size / 1e6
    print(f"{shown(str(flags.out))}: {_count(len(described))}, {size:.1f} MB")
    if flags.gif:
        from pcm3_jax.report import gif

        band = (described[0].get("labels") or {}).get("band", [])
        gif.write(flags.gif, bodies.views(found.shown[0], normalization), band)
        print(f"{shown(str(flags.gif))}: {shown(found.shown[0].name)}")


def _check_outputs(page: Path, gif: Path | None) -> None:
    """Raises UserError if a file cannot be written, before anything is read."""
    if page.is_dir():
        raise UserError(f"--out={shown(str(page))} is a folder; name a file.")
    if gif is None:
        return
    if gif.suffix.lower() != ".gif":
        raise UserError(f"--gif={shown(str(gif))} must end in .gif.")
    try:
        import PIL  # noqa: F401
    except ModuleNotFoundError as error:
        raise UserError('--gif needs pillow; pip install "pcm3_jax[report]".') from error


def _contents(
    found: Entries, described: list[dict[str, Any]], notes: list[str], pool: Pool
) -> dict[str, Any]:
    """What the page's scripts read."""
    names = list(dict.fromkeys(entry.data or entry.title for entry in found.shown))
    heading, rest = _count(found.count), found.count - len(described)
    if rest:
        heading = f"{len(described)} of {heading}"
        notes = [f"The other {rest:,} are not shown.", *notes]
    return {
        "title": names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1} more",
        "heading": heading,
        "lead": " ".join(notes),
        "created": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "version": pcm3_jax.__version__,
        "skeleton": SKELETON,
        "recordings": described,
        "sequences": pool.sequences,
    }


def _count(number: int) -> str:
    return f"{number:,} recording{'s' * (number != 1)}"
