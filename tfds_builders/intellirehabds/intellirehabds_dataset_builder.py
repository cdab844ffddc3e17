"""Builder of `intellirehabds` from the text files of its authors (simplified joint positions)."""

import functools
import re
import tarfile
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import tensorflow_datasets as tfds
from tqdm import tqdm

from pcm3_jax.errors import UserError
from tfds_builders.skeleton_builder import Example, Shard, SkeletonBuilder, make_example

GESTURES = (
    "elbow_flexion_left",
    "elbow_flexion_right",
    "shoulder_flexion_left",
    "shoulder_flexion_right",
    "shoulder_abduction_left",
    "shoulder_abduction_right",
    "shoulder_forward_elevation",
    "side_tap_left",
    "side_tap_right",
)
# Physiotherapists, patients (there is no 208), students.
SUBJECTS = (*range(101, 108), *range(201, 208), *range(209, 218), *range(301, 308))
# Alternating keeps the groups balanced: patients move differently from students.
SUBJECTS_OF_SPLIT = {"train": SUBJECTS[::2], "test": SUBJECTS[1::2]}

_SHARD_SIZE = 512
_FILE_NAME = re.compile(r"(\d+)_(\d+)_([0-8])_(\d+)_([123])_([A-Za-z-]+)\.txt")
_ARCHIVES = (".tar", ".tar.xz", ".tar.gz", ".tgz", ".txz", ".zip")
_NUMBERS = 75  # 25 joints of x, y, z


class Recording(NamedTuple):
    """One text file: `name` without its suffix, `skeleton` (T, 25, 3) float32 metres as stored."""

    name: str
    subject: int
    gesture: int
    skeleton: np.ndarray


class Builder(SkeletonBuilder):
    """IntelliRehabDS, cross-subject split, whole recordings."""

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES = {"1.0.0": "First release."}
    MANUAL_DOWNLOAD_INSTRUCTIONS = (
        "Download the simplified joint positions of IntelliRehabDS (Zenodo record 4610859); "
        "manual_dir is the archive, or a folder with the archive or its text files."
    )
    BUILDER_CONFIGS = [
        tfds.core.BuilderConfig(
            name="cross_subject", description="Subjects alternate between train and test."
        )
    ]
    LABELS = GESTURES
    HOMEPAGE = "https://doi.org/10.5281/zenodo.4610859"
    NEEDS_MANUAL_DIR = True

    def _shards(self) -> Mapping[str, Sequence[Shard]]:
        # Held in memory (70 MB): compressed archives can only be read in their own order.
        recordings = sorted(_read_all(self.manual_dir), key=lambda recording: recording.name)
        rng = np.random.default_rng(0)
        shards = {}
        for split, subjects in SUBJECTS_OF_SPLIT.items():
            chosen = [recording for recording in recordings if recording.subject in subjects]
            if not chosen:
                raise UserError(
                    f"{self.manual_dir} has no recording of a {split} subject "
                    f"({', '.join(map(str, subjects))}); give the whole data set."
                )
            order = rng.permutation(len(chosen))
            shards[split] = [
                Shard(functools.partial(_examples, [chosen[i] for i in part]), len(part))
                for part in np.array_split(order, -(-len(order) // _SHARD_SIZE))
            ]
        return shards


def _examples(recordings: Sequence[Recording]) -> Iterator[tuple[str, Example]]:
    for recording in recordings:
        skeleton = np.zeros((len(recording.skeleton), 2, 25, 3), np.float32)
        skeleton[:, 0] = bridge_lost_joints(recording.skeleton)
        yield (
            recording.name,
            make_example(
                skeleton,
                label=recording.gesture,
                name=recording.name,
                subject=recording.subject,
            ),
        )


def bridge_lost_joints(skeleton: np.ndarray) -> np.ndarray:
    """Interpolates all-zero joints over time, (T, 25, 3) to (T, 25, 3); before and after: held.

    One recording lacks the trunk in one frame. Left as it is, normalisation would leave that
    frame at the camera's origin, metres from its neighbours. A joint that is never seen, and a
    frame in which no joint is seen, stay as they are.
    """
    seen = skeleton.any(axis=-1)
    present = seen.any(axis=-1)
    bridged = skeleton.copy()
    time = np.arange(len(skeleton))
    for joint in np.flatnonzero(~seen[present].all(axis=0) & seen.any(axis=0)):
        lost = present & ~seen[:, joint]
        known = seen[:, joint]
        for axis in range(3):
            bridged[lost, joint, axis] = np.interp(
                time[lost], time[known], skeleton[known, joint, axis]
            )
    return bridged


def _read_all(source: Path) -> Iterator[Recording]:
    """Every recording of a folder or archive; raises UserError on the first flaw."""
    where_of: dict[str, str] = {}
    source = _find_source(source)
    # disable=None: shown on a terminal only.
    with tqdm(
        total=_size(source), desc="reading", unit="B", unit_scale=True, disable=None, leave=False
    ) as progress:
        try:
            for path, content, done in _read_files(source):
                recording = parse_recording(path, content)
                if recording.name in where_of:
                    raise UserError(
                        f"{path} has the same name as {where_of[recording.name]}; remove one."
                    )
                where_of[recording.name] = path
                yield recording
                progress.update(done - progress.n)
        except (tarfile.TarError, zipfile.BadZipFile, zlib.error, EOFError, OSError) as error:
            raise UserError(f"{source} cannot be read ({error}); fetch it again.") from error
    if not where_of:
        raise UserError(f"{source} holds no .txt recording; give the unpacked folder or archive.")


def parse_recording(path: str, content: bytes) -> Recording:
    """Parses one file, `SubjectId_DateId_Gesture_Repetition_Correct_Position.txt`.

    Args:
        path: where the file is, for messages; its last part is parsed.
        content: lines of 75 comma-separated numbers, 25 joints of x, y, z in metres.

    Raises:
        UserError: names file and line of the first flaw.
    """
    fields = _FILE_NAME.fullmatch(Path(path).name)
    if fields is None:
        raise UserError(
            f"{path}: the name is not SubjectId_DateId_Gesture_Repetition_Correct_Position.txt "
            "with gesture 0-8 and correct 1-3; rename or remove the file."
        )
    if int(fields[1]) not in SUBJECTS:
        raise UserError(f"{path}: no subject has the number {fields[1]}; remove the file.")
    lines = content.decode("ascii", errors="replace").splitlines()
    if not lines:
        raise UserError(f"{path} is empty; fetch it again or remove it.")
    frames = np.empty((len(lines), _NUMBERS), np.float32)
    for number, line in enumerate(lines, 1):
        values = line.split(",")
        if len(values) != _NUMBERS:
            raise UserError(
                f"{path}, line {number}: {len(values)} numbers instead of {_NUMBERS}; fetch the "
                "file again or remove it."
            )
        try:
            with np.errstate(over="ignore"):  # infinite in float32: refused below
                frames[number - 1] = list(map(float, values))
        except ValueError as error:
            raise UserError(f"{path}, line {number}: {error}; repair or remove the file.") from None
    finite = np.isfinite(frames).all(axis=1)
    if not finite.all():
        raise UserError(
            f"{path}, line {int(finite.argmin()) + 1}: a coordinate is not finite; repair or "
            "remove the file."
        )
    return Recording(
        name=Path(path).stem,
        subject=int(fields[1]),
        gesture=int(fields[3]),
        skeleton=frames.reshape(-1, 25, 3),
    )


def _find_source(manual_dir: Path) -> Path:
    """The archive, or the folder of text files, that `manual_dir` stands for."""
    if manual_dir.is_file() or next(manual_dir.rglob("*.txt"), None):
        return manual_dir
    archives = sorted(path for path in manual_dir.iterdir() if path.name.endswith(_ARCHIVES))
    if len(archives) != 1:
        raise UserError(
            f"{manual_dir} holds no .txt recording and {len(archives)} archives; put the text "
            f"files or one archive ({', '.join(_ARCHIVES)}) there."
        )
    return archives[0]


def _size(source: Path) -> int:
    """Bytes to read, for the progress bar."""
    if source.is_file():
        return source.stat().st_size
    return sum(path.stat().st_size for path in source.rglob("*.txt"))


def _read_files(source: Path) -> Iterator[tuple[str, bytes, int]]:
    """Yields (path, content, bytes of the source done) of each text file; nothing is unpacked."""
    if source.is_dir():
        done = 0
        for path in sorted(source.rglob("*.txt")):
            content = path.read_bytes()
            done += len(content)
            yield str(path), content, done
    elif source.suffix == ".zip":
        with zipfile.ZipFile(source) as archive:
            done = 0
            for entry in archive.infolist():
                done += entry.compress_size
                if entry.filename.endswith(".txt"):
                    yield f"{source}/{entry.filename}", archive.read(entry), done
    else:
        # A stream: seeking back in a compressed archive would unpack it again from the start.
        with source.open("rb") as file, tarfile.open(fileobj=file, mode="r|*") as archive:
            for entry in archive:
                if entry.isfile() and entry.name.endswith(".txt"):
                    yield f"{source}/{entry.name}", archive.extractfile(entry).read(), file.tell()
