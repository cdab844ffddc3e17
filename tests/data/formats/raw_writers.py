"""Writes raw files in the form in which NTU RGB+D and PKU-MMD are distributed."""

import io
from collections.abc import Iterable, Sequence

import numpy as np

FIRST_ID = 72057594037944738  # beyond 2**53: float64 cannot hold it
_ENDS = (3, 15, 19, 21, 22, 23, 24)  # joints without an orientation


def skeleton_text(frames: Sequence[Sequence[np.ndarray]], crlf: bool = False) -> bytes:
    """An NTU RGB+D `.skeleton` file.

    Args:
        frames: for each frame its bodies, each (25, 3) metres; written with 7 significant digits,
            as the genuine files are. What follows x y z is made up.
        crlf: ends lines with CRLF instead of LF.
    """
    lines = [str(len(frames))]
    for bodies in frames:
        lines.append(str(len(bodies)))
        for slot, body in enumerate(bodies):
            lines += [f"{FIRST_ID + slot} 0 1 1 1 1 0 0.01119184 -0.256052 2", "25"]
            lines += [_joint_line(joint, xyz) for joint, xyz in enumerate(body)]
    return _joined(lines, crlf)


def _joint_line(joint: int, xyz: np.ndarray) -> str:
    x, y, z = map(float, xyz)
    across, down = x / max(z, 0.5), -y / max(z, 0.5)  # through the lens, in focal lengths
    pixels = (256 + 366 * across, 212 + 366 * down, 960 + 1060 * across, 540 + 1060 * down)
    orientation = "0 0 0 0" if joint in _ENDS else "-0.2218947 0.03421978 0.968875 -0.1042736"
    return f"{' '.join(f'{value:.7G}' for value in (x, y, z, *pixels))} {orientation} 2"


def video_text(skeleton: np.ndarray, crlf: bool = False) -> bytes:
    """A PKU-MMD skeleton file of a (T, 2, 25, 3) video, 7 significant digits."""
    frames = [" ".join(f"{value:.7g}" for value in frame.ravel().tolist()) for frame in skeleton]
    return _joined([f" {frame}" if i else frame for i, frame in enumerate(frames)], crlf)


def labels_text(rows: Iterable[Sequence[int]], crlf: bool = False) -> bytes:
    """A PKU-MMD label file of rows (1-based action, start, end, confidence)."""
    return _joined([",".join(map(str, row)) for row in rows], crlf)


def split_text(train: Sequence[str], test: Sequence[str], crlf: bool = False) -> bytes:
    """A PKU-MMD split file; its headings as published, its first list with a trailing comma."""
    lists = (", ".join(train) + ", ", ", ".join(test))
    return _joined(["Training videos:", lists[0], "Validataion videos:", lists[1]], crlf)


def _joined(lines: Sequence[str], crlf: bool) -> bytes:
    return "".join(line + ("\r\n" if crlf else "\n") for line in lines).encode()


def array_bytes(array, save=np.save, **options):
    """The content of an array file."""
    buffer = io.BytesIO()
    save(buffer, array, **options)
    return buffer.getvalue()


def claimed(shape):
    """The content of an array file whose header declares more data than it has."""
    return array_bytes(np.zeros(1)).replace(
        b"(1,), }" + b" " * 20, f"{shape}, }}".encode().ljust(27)
    )
