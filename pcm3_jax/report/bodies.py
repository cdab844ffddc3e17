"""Recordings as they are stored and as networks see them, and measures of the body."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from pcm3_jax.data import plausibility
from pcm3_jax.data.joint_layouts import KINECT_V2_JOINTS
from pcm3_jax.data.normalization import no_normalization, normalize_sequence
from pcm3_jax.data.plausibility import Measures
from pcm3_jax.inference.validation import Sequence, normalize
from pcm3_jax.report.entries import Entry
from pcm3_jax.report.sequences import FRAME_RATE, Pool, spread_frames

# Frames of a recording on the page; a longer one is subsampled.
_MOST_FRAMES = 1200
_HIP, _SHOULDERS = (KINECT_V2_JOINTS.index(name) for name in ("spine_base", "spine_shoulder"))
# Right-handed axes in which y points up, for each coordinate and direction that does in a file.
_UPRIGHT = {
    (1, 1): ([0, 1, 2], [1, 1, 1]),
    (1, -1): ([0, 1, 2], [-1, -1, 1]),
    (2, 1): ([0, 2, 1], [1, 1, -1]),
    (2, -1): ([0, 2, 1], [1, -1, 1]),
}

Normalization = Callable[[np.ndarray], np.ndarray]


class View(NamedTuple):
    """Skeletons to draw.

    Attributes:
      title, text: what they are.
      sequence: poses (T, 2, 25, 3) with zeros, and visible (T, 2, 25) with False, where a joint is
        missing.
      up: the coordinate that points up, 1 or 2.
    """

    title: str
    text: str
    sequence: Sequence
    up: int


def views(entry: Entry, normalization: Normalization) -> list[View]:
    """A recording as stored and, unless it is so already, normalised."""
    if entry.stored is normalize_sequence:
        return [View("Normalised", "as stored", entry.sequence, 2)]
    found = [_as_stored(entry)]
    if normalization not in (no_normalization, entry.stored):
        title, up = "Centred", 1
        if normalization is normalize_sequence:
            title, up = "Normalised", 2
        found.append(View(title, "as networks see it", normalized(entry, normalization), up))
    return found


def normalized(entry: Entry, normalization: Normalization) -> Sequence:
    """A recording's skeletons, normalised unless they are already.

    Raises:
      UserError: they lack the joint on which they are to be centred.
    """
    if entry.stored in (normalize_sequence, normalization):
        return entry.sequence
    return normalize(entry.sequence, normalization, entry.name)


def describe(entry: Entry, normalization: Normalization, pool: Pool) -> dict[str, Any]:
    """What a page shows of a recording without a model.

    Raises:
      UserError: as `normalized`.
    """
    poses, visible = entry.sequence
    measures = plausibility.measure(np.where(visible[..., None], poses, np.nan))
    seconds = len(poses) / FRAME_RATE
    return {
        "title": entry.title,
        "name": entry.name,
        "from": entry.data or entry.name,
        "label": entry.label,
        "frames": len(poses),
        "persons": entry.persons,
        "seconds": seconds,
        "panels": [
            {"title": view.title, "text": view.text, "sequence": add(view, pool, seconds)}
            for view in views(entry, normalization)
        ],
        "measures": _rows(measures),
        "warnings": plausibility.notes(measures),
        "whole": None,
        "labels": None,
        "neighbours": [],
    }


def add(view: View, pool: Pool, seconds: float, most: int = _MOST_FRAMES) -> int:
    """Adds at most ``most`` frames to a page's sequences; returns their number."""
    poses, visible = view.sequence
    frames = spread_frames(len(poses), most)
    return pool.add(poses[frames], view.up, seconds, visible[frames])


def _as_stored(entry: Entry) -> View:
    """Turned by quarters, so that the axis along which the trunk rather points is drawn upwards."""
    poses, visible = entry.sequence
    trunk = poses[:, 0, _SHOULDERS] - poses[:, 0, _HIP]
    seen = visible[:, 0, _SHOULDERS] & visible[:, 0, _HIP]
    _, y, z = np.median(trunk[seen], axis=0) if seen.any() else (0, 1, 0)
    up, length = (1, y) if abs(y) >= abs(z) else (2, z)
    sign = -1 if length < 0 else 1
    axes, signs = _UPRIGHT[up, sign]
    text = f"as stored, {'−' * (sign < 0)}{'xyz'[up]} upwards"
    turned = Sequence(poses[..., axes] * np.array(signs, np.float32), visible)
    return View("Recorded" if entry.raw else "Centred", text, turned, 1)


def _rows(measures: Measures) -> list[list[str]]:
    """Measures as [name, metres]."""
    limbs = [
        [f"{name}s, left · right", f"{_metres(left)} · {_metres(right)}"]
        for name, (left, right) in measures.limbs.items()
    ]
    return [
        ["trunk", _metres(measures.trunk)],
        ["height", _metres(measures.height)],
        *limbs,
        ["ankles below hips", _metres(measures.feet)],
        ["extent, x · y · z", " · ".join(map(_metres, measures.extent))],
    ]


def _metres(length: float) -> str:
    return "–" if math.isnan(length) else f"{length:.2f}"
