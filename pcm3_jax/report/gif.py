"""An animated GIF of a recording, drawn as on the page."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from pcm3_jax.data.skeleton import BODY_PARTS, PARENTS
from pcm3_jax.report.bodies import View
from pcm3_jax.report.sequences import FRAME_RATE, unseen
from pcm3_jax.runtime.files import replaced

# Pixels of a view; drawn larger, then reduced, for smooth lines.
_WIDTH, _HEIGHT, _LARGER = 320, 360, 3
_YAW = 0.45
# Pictures a second and in all, for which longer recordings are played faster; seconds at the end.
_RATE, _MOST_FRAMES, _PAUSE = 20, 200, 0.6
_COLOURS = {"trunk": "#4a5058", "left": "#0072b2", "right": "#c4560a"}
_PAPER, _TEXT = "#ffffff", "#5a616b"


def write(path: Path, views: list[View], band: list[dict[str, Any]]) -> None:
    """Writes an animation of the views of one recording, side by side.

    Args:
      path: the file.
      views: of the recording.
      band: stretches of frames with a label, which is written below while they last.

    Raises:
      UserError: the file cannot be written.
    """
    frames = len(views[0].sequence.poses)
    count = min(max(2, round(frames / FRAME_RATE * _RATE)), _MOST_FRAMES)
    times = np.linspace(0, frames - 1, count).round().astype(int)
    drawn = [_projected(view) for view in views]
    pictures = [
        _picture(views, [joints[t] for joints in drawn], _label(band, t)) for t in times.tolist()
    ]
    # One palette for all frames.
    first = pictures[0].quantize(32)
    paletted = [picture.quantize(palette=first, dither=Image.Dither.NONE) for picture in pictures]
    durations = [1000 / _RATE] * (count - 1) + [1000 * _PAUSE]
    with replaced(path) as partial:
        paletted[0].save(
            partial, "GIF", save_all=True, append_images=paletted[1:], duration=durations, loop=0
        )


def _projected(view: View) -> np.ndarray:
    """(T, 2, 25, 2) pixels, NaN where a joint is missing; as `projection` of the page's scripts."""
    poses, visible = view.sequence
    missing = (unseen(poses) | ~visible)[..., None]
    x, y, z = np.moveaxis(np.where(missing, np.nan, poses), -1, 0)
    across, up, depth = (-x, z, y) if view.up == 2 else (-x, y, -z)
    low, high = np.nanmin(up), np.nanmax(up)
    across, depth = (v - (np.nanmin(v) + np.nanmax(v)) / 2 for v in (across, depth))
    reach = max(0.2, float(np.nanmax(np.hypot(across, depth))))
    scale = 0.9 * min(_WIDTH / (2 * reach), (_HEIGHT - 24) / (high - low + 0.05))
    across = across * np.cos(_YAW) - depth * np.sin(_YAW)
    pixels = [_WIDTH / 2 + across * scale, _HEIGHT / 2 + 12 - (up - (low + high) / 2) * scale]
    return np.stack(pixels, axis=-1)


def _label(band: list[dict[str, Any]], time: int) -> str:
    """The label of a frame; "" without one."""
    labels = (part["label"] for part in band if part["start"] <= time <= part["stop"])
    return next((label for label in labels if label), "")


def _picture(views: list[View], joints: list[np.ndarray], label: str) -> Image.Image:
    """One frame: the joints (2, 25, 2) of every view, and the frame's label."""
    size = _WIDTH * len(views), _HEIGHT
    large = Image.new("RGB", (size[0] * _LARGER, size[1] * _LARGER), _PAPER)
    pen = ImageDraw.Draw(large)
    for column, persons in enumerate(joints):
        for person in persons:
            _draw(pen, (person + [column * _WIDTH, 0]) * _LARGER)
    picture = large.resize(size, Image.Resampling.BOX)
    pen = ImageDraw.Draw(picture)
    for column, view in enumerate(views):
        pen.text((column * _WIDTH + 12, 8), view.title, fill=_TEXT)
    pen.text((size[0] / 2, _HEIGHT - 14), label, fill=_TEXT, anchor="mm", font_size=16)
    return picture


def _draw(pen: ImageDraw.ImageDraw, joints: np.ndarray) -> None:
    seen = ~np.isnan(joints[:, 0])
    for joint, parent in enumerate(PARENTS.tolist()):
        if not seen[joint]:
            continue
        x, y = joints[joint].tolist()
        colour = _colour(joint)
        while not seen[parent] and PARENTS[parent] != parent:
            parent = int(PARENTS[parent])
        if seen[parent]:
            pen.line([(x, y), tuple(joints[parent].tolist())], colour, round(2.6 * _LARGER))
        radius = (4.5 if joint == 3 else 2.1) * _LARGER
        pen.ellipse((x - radius, y - radius, x + radius, y + radius), colour)


def _colour(joint: int) -> str:
    part = next(name for name, joints in BODY_PARTS.items() if joint in joints)
    return _COLOURS[part.partition("_")[0]]
