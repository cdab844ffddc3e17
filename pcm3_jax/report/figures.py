"""A report's figures for papers: curves, confusions and maps as PNG, skeletons as GIF."""

from __future__ import annotations

import base64
import re
from pathlib import Path
from typing import Any

import matplotlib

from pcm3_jax.errors import UserError
from pcm3_jax.runtime.files import replaced, shown

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.animation import FuncAnimation, PillowWriter
from matplotlib.figure import Figure

# Those of Okabe and Ito, less the ones too light for lines on white.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#a67c00", "#56b4e9", "#5b4bb0", "#6b6b6b")
_MARKERS = "os^Dv"
_PREDICTED, _TRUNK, _LEFT, _RIGHT = "#b5267f", "#4a5058", COLOURS[0], COLOURS[1]
_DOTS, _GIF_DOTS, _GIF_RATE = 200, 110, 15
_STYLE: dict[Any, Any] = {"font.size": 8, "axes.spines.top": False, "axes.spines.right": False}


def write(folder: Path, contents: dict[str, Any]) -> list[Path]:
    """Writes every figure of a report.

    Args:
      folder: made if it is not there.
      contents: of the report, from `contents.contents`.

    Returns:
      The files written.

    Raises:
      UserError: they cannot be written there.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{shown(str(folder))} cannot be made: {error.strerror}.") from error
    names = [run["name"] for run in contents["runs"]]
    written = []
    with plt.rc_context(_STYLE):
        for group in contents["charts"].values():
            for chart in group:
                written.append(_png(folder, f"curve_{chart['name']}", curves(chart)))
        for one in contents["confusions"]:
            name = f"confusion_{names[one['run']]}_{one['by']}"
            written.append(_png(folder, name, confusion(one)))
        for one in contents["encoders"]:
            name = names[one["run"]]
            written.append(_png(folder, f"map_{name}", class_map(one["map"])))
            if one["gallery"]:
                panels = _gallery_panels(one["gallery"])
                written.append(_gif(folder, f"neighbours_{name}", contents, panels))
        for one in contents["masked"]:
            for row in one["rows"]:
                name = f"masked_{names[one['run']]}_{row['name']}"
                panels = [_masked_panels(row, one["steps"])]
                written.append(_gif(folder, name, contents, panels))
        for one in contents["views"]:
            panels = [[(p["title"], p["sequence"], p["hidden"], False) for p in one["panels"]]]
            written.append(_gif(folder, f"views_{names[one['run']]}", contents, panels))
    return written


def curves(chart: dict[str, Any]) -> Figure:
    """One quantity of all runs over the optimizer's steps, or of benchmarks over a step's size."""
    figure, axes = plt.subplots(figsize=(3.4, 2.3), layout="constrained")
    for one in chart["series"]:
        steps, values = zip(*one["points"], strict=True)
        style = ("-", "--", ":", "-.")[one["run"] // len(COLOURS) % 4]
        marker = "o" if len(steps) < 12 else None
        colour = COLOURS[one["run"] % len(COLOURS)]
        label = one["label"].replace("$", r"\$")
        axes.plot(steps, values, style, color=colour, marker=marker, ms=3, lw=1.3, label=label)
    unit = f" ({chart['unit']})" if chart["unit"] else ""
    axes.set(xlabel=chart["across"], ylabel=(chart["title"] + unit).replace("$", r"\$"))
    axes.legend(frameon=False)
    return figure


def confusion(one: dict[str, Any]) -> Figure:
    """Counts, coloured by their share of the row."""
    matrix = np.array(one["matrix"])
    shares = matrix / np.maximum(matrix.sum(1, keepdims=True), 1)
    classes = [_label(name) for name in one["classes"]]
    size = 1.6 + 0.26 * min(len(classes), 60)
    figure, axes = plt.subplots(figsize=(size + 1, size), layout="constrained")
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    places = np.arange(len(classes))
    small: dict[str, Any] = {"fontsize": 8 if len(classes) <= 20 else 5}
    axes.set_xticks(places, classes, rotation=90, **small)
    axes.set_yticks(places, classes, **small)
    axes.set(xlabel=f"found by the {one['by']}", ylabel="true class")
    if len(classes) <= 20:
        for row, column in np.argwhere(matrix):
            colour = "white" if shares[row, column] > 0.5 else "black"
            axes.text(
                column, row, matrix[row, column], ha="center", va="center", fontsize=6, color=colour
            )
    return figure


def class_map(one: dict[str, Any]) -> Figure:
    """The embeddings on a plane, coloured by class."""
    figure, axes = plt.subplots(figsize=(5, 3.3), layout="constrained")
    x, y, label = (np.array(one[key]) for key in ("x", "y", "label"))
    for number, name in enumerate(one["classes"]):
        rows = label == number
        axes.scatter(
            x[rows], y[rows], s=7, linewidths=0, alpha=0.85, label=_label(name),
            color=COLOURS[number % len(COLOURS)], marker=_MARKERS[number % len(_MARKERS)],
        )  # fmt: skip
    axes.set(xticks=[], yticks=[], xlabel=one["method"])
    if len(one["classes"]) <= 20:
        axes.legend(frameon=False, loc="center left", bbox_to_anchor=(1, 0.5), markerscale=1.6)
    return figure


# (title, number of the sequence, flags of hidden joints, whether these are predictions)
_Panel = tuple[str, int, str | None, bool]


def _gallery_panels(gallery: list[dict[str, Any]], rows: int = 4) -> list[list[_Panel]]:
    return [
        [(_label(query["label"]), query["sequence"], None, False)]
        + [
            (f"{'✓' if n['right'] else '✗'} {_label(n['label'])}", n["sequence"], None, False)
            for n in query["neighbours"]
        ]
        for query in gallery[:: -(-len(gallery) // rows)]
    ]


def _masked_panels(row: dict[str, Any], steps: list[int]) -> list[_Panel]:
    predicted = [
        (f"step {step}", sequence, row["hidden"], True)
        for step, sequence in zip(steps, row["predicted"], strict=True)
    ]
    truth = row["truth"]
    return [
        ("masked input", truth, row["hidden"], False), *predicted, ("truth", truth, None, False)
    ]  # fmt: skip


def _gif(folder: Path, name: str, contents: dict[str, Any], panels: list[list[_Panel]]) -> Path:
    """An animation of rows of skeletons."""
    sequences, skeleton = contents["sequences"], contents["skeleton"]
    columns = max(map(len, panels))
    figure, grid = plt.subplots(
        len(panels), columns, figsize=(1.35 * columns, 1.75 * len(panels)), squeeze=False
    )
    figure.subplots_adjust(0.01, 0.01, 0.99, 0.9, 0.02, 0.15)
    drawn = []
    for line, row in zip(grid, panels, strict=True):
        # Predictions are on the scale of the truth, which comes last.
        shared = any(predicted for *_, predicted in row)
        for axes, (title, number, hidden, predicted) in zip(line, row, strict=True):
            axes.set_title(title.replace("$", r"\$"), fontsize=6, wrap=True)
            _frame(axes, unpacked(sequences[row[-1][1] if shared else number]))
            poses = unpacked(sequences[number])
            drawn.append(_Skeleton(axes, poses, skeleton, hidden, predicted))
    seconds = max(sequences[panel[1]]["seconds"] for row in panels for panel in row)
    frames = max(2, round(min(seconds, 6) * _GIF_RATE))

    def draw(frame: int):
        return [line for one in drawn for line in one.draw(frame / (frames - 1))]

    animation = FuncAnimation(figure, draw, frames=frames, blit=False)
    path = folder / f"{_file_name(name)}.gif"
    with replaced(path) as partial:
        whole = partial.with_suffix(".gif")
        try:
            animation.save(whole, PillowWriter(fps=_GIF_RATE), dpi=_GIF_DOTS)
            whole.replace(partial)
        finally:
            whole.unlink(missing_ok=True)
    plt.close(figure)
    return path


def _frame(axes, poses: np.ndarray) -> None:
    """Makes room for all that poses (T, M, V, 2) reach, one scale for both axes."""
    low, high = poses.min((0, 1, 2)), poses.max((0, 1, 2))
    reach = max(*(high - low), 0.3) * 0.56
    x, y = (low + high) / 2
    axes.set(xlim=(x - reach, x + reach), ylim=(y - reach, y + reach))
    axes.set_aspect("equal")
    axes.axis("off")


class _Skeleton:
    """One panel of an animation: bones as lines that follow a share of the time."""

    def __init__(self, axes, poses: np.ndarray, skeleton, hidden: str | None, predicted: bool):
        self._poses, self._parents = poses, skeleton["parents"]
        flags = np.zeros((len(poses), poses.shape[2]), bool)
        if hidden:
            flags = np.frombuffer(base64.b64decode(hidden), np.uint8).reshape(flags.shape) > 0
        self._hidden, self._predicted = flags, predicted
        self._colours = [
            _LEFT if j in skeleton["left"] else _RIGHT if j in skeleton["right"] else _TRUNK
            for j in range(poses.shape[2])
        ]
        self._lines = [
            [axes.plot([], [], lw=1.4, solid_capstyle="round")[0] for _ in self._parents]
            for _ in range(poses.shape[1])
        ]

    def draw(self, share: float) -> list[Any]:
        frame = round(share * (len(self._poses) - 1))
        for person, lines in enumerate(self._lines):
            pose = self._poses[frame, person]
            hidden = self._hidden[frame] if person == 0 else np.zeros(len(pose), bool)
            for joint, (line, parent) in enumerate(zip(lines, self._parents, strict=True)):
                gone = hidden[joint] or hidden[parent]
                line.set_visible(self._predicted or not gone)
                line.set_data(pose[[joint, parent], 0], pose[[joint, parent], 1])
                line.set_color(_PREDICTED if gone else self._colours[joint])
        return [line for lines in self._lines for line in lines]


def unpacked(sequence: dict[str, Any], yaw: float = 0.45) -> np.ndarray:
    """A page's sequence as seen by a reader: (T, M, V, 2), across and up, in metres."""
    raw = np.frombuffer(base64.b64decode(sequence["data"]), "<i2").astype(np.float32)
    poses = raw.reshape(sequence["frames"], sequence["persons"], -1, 3) * sequence["scale"]
    x, y, z = np.moveaxis(poses, -1, 0)
    across, up, depth = (-x, z, y) if sequence["up"] == 2 else (x, y, -z)
    return np.stack([across * np.cos(yaw) - depth * np.sin(yaw), up], axis=-1)


def _png(folder: Path, name: str, figure: Figure) -> Path:
    path = folder / f"{_file_name(name)}.png"
    with replaced(path) as partial:
        figure.savefig(partial, format="png", dpi=_DOTS)
    plt.close(figure)
    return path


def _file_name(name: str) -> str:
    return re.sub(r"[^\w@.-]+", "_", name)[:120]


def _label(name: str) -> str:
    # A dollar would begin a formula.
    return name.replace("_", " ").replace("$", r"\$")
