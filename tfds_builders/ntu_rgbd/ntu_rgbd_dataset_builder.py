"""Builder of `ntu_rgbd` from the `.skeleton` files of its authors, or from arrays of others."""

import dataclasses
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from pcm3_jax.data.formats import ntu_arrays
from pcm3_jax.data.formats.ntu_arrays import Form, Row
from pcm3_jax.data.formats.ntu_rgbd import MAX_SLOTS, Recording, parse, parse_name
from pcm3_jax.data.formats.raw_files import BadFile, Found, RawFile
from pcm3_jax.data.normalization import select_bodies
from pcm3_jax.errors import UserError
from tfds_builders import workers
from tfds_builders.file_groups import Clip, FileGroup, StoredClip, group_files
from tfds_builders.recorded_builder import SECOND_ONLY, Record, RecordedBuilder, second_only
from tfds_builders.skeleton_builder import SkeletonConfig

_FOLDER = Path(__file__).parent
ACTIONS = tuple((_FOLDER / "actions.txt").read_text().splitlines())
# Recordings whose skeletons the authors list as missing or incomplete.
MISSING = frozenset((_FOLDER / "missing.txt").read_text().split())

TRAIN_SUBJECTS = frozenset(
    # NTU RGB+D 60
    [1, 2, 4, 5, 8, 9, 13, 14, 15, 16, 17, 18, 19, 25, 27, 28, 31, 34, 35, 38]
    # and 120
    + [45, 46, 47, 49, 50, 52, 53, 54, 55, 56, 57, 58, 59, 70, 74, 78, 80, 81, 82, 83, 84, 85, 86]
    + [89, 91, 92, 93, 94, 95, 97, 98, 100, 103]
)
TRAIN_CAMERAS = frozenset([2, 3])
# NTU RGB+D 60 is set-ups 1 to 17 with actions 1 to 60; the other set-ups have the other actions.
LAST_SETUP_OF_60 = 17
# Recordings of each action: of actions 1 to 60, and of actions 61 to 120.
_TAKES_OF_60, _TAKES_OF_REST = 948, 960

_SHORT = {"subject": "xsub", "camera": "xview", "setup": "xset"}
_ROWS_OF_A_GROUP = 256
_AUTHORS_FILE = "train_data_joint.npy"
_CTRGCN_FILES = {
    "ntu60_xsub": "NTU60_CS.npz", "ntu60_xview": "NTU60_CV.npz",
    "ntu120_xsub": "NTU120_CSub.npz", "ntu120_xset": "NTU120_CSet.npz",
}  # fmt: skip
_PYSKL_FILES = {
    actions: [f"ntu{number}_{kind}.pkl" for number in numbers for kind in ("3danno", "3d")]
    for actions, numbers in {60: (60, 120), 120: (120,)}.items()
}
# What the skeletons of each form can be stored as: CTR-GCN's are centred, the authors' normalised.
_COORDINATES: dict[Form, tuple[str, ...]] = {
    "authors": ("normalized",),
    "ctrgcn": ("normalized", "centered"),
    "pyskl": ("normalized", "centered", "recorded"),
}


@dataclasses.dataclass(eq=False, kw_only=True)
class Protocol(SkeletonConfig):
    """The recordings of a benchmark and their split.

    Attributes:
        actions: number of actions, 60 or 120.
        split_by: "subject", "camera" or "setup".
        train, test: examples that a complete download gives.
        form: the form of the arrays that it is built from; None for `.skeleton` files.
    """

    actions: int
    split_by: str
    train: int
    test: int
    form: Form | None = None

    @property
    def benchmark(self) -> str:
        """The name without form and coordinates."""
        return f"ntu{self.actions}_{_SHORT[self.split_by]}"

    def split_of(self, recording: Recording) -> str:
        """The split of a recording, "train" or "test"."""
        is_train = {
            "subject": recording.performer in TRAIN_SUBJECTS,
            "camera": recording.camera in TRAIN_CAMERAS,
            "setup": recording.setup % 2 == 0,
        }[self.split_by]
        return "train" if is_train else "test"


def _with_forms(protocols: list[Protocol]) -> list[Protocol]:
    """The protocols, and each of them built from each form of arrays."""
    return protocols + [
        dataclasses.replace(  # type: ignore[call-arg]  # TFDS has no types
            protocol,
            name=f"{protocol.name}@{form}",
            description=f"{protocol.description} From the arrays of {form}.",
            form=form,
        )
        for form in _COORDINATES
        for protocol in protocols
    ]


class Builder(RecordedBuilder):
    """NTU RGB+D 60 and 120, trimmed recordings."""

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES = {"1.0.0": "First release."}
    MANUAL_DOWNLOAD_INSTRUCTIONS = (
        "Ask the ROSE Lab (https://rose1.ntu.edu.sg/dataset/actionRecognition) for the 3D "
        "skeletons of NTU RGB+D and, for the 120 actions, of NTU RGB+D 120; manual_dir holds the "
        "zip archives or the unpacked .skeleton files, at any depth. For configs with an @ it "
        "holds the arrays of others, as tfds_builders/ntu_rgbd/README.md says."
    )
    BUILDER_CONFIGS = _with_forms([
        Protocol(
            name="ntu60_xsub", description="60 actions, cross-subject (20 of 40 for training).",
            actions=60, split_by="subject", train=40091, test=16487,
        ),
        Protocol(
            name="ntu60_xview", description="60 actions, cross-view (cameras 2, 3 for training).",
            actions=60, split_by="camera", train=37646, test=18932,
        ),
        Protocol(
            name="ntu120_xsub", description="120 actions, cross-subject (53 of 106 for training).",
            actions=120, split_by="subject", train=63026, test=50919,
        ),
        Protocol(
            name="ntu120_xset", description="120 actions, cross-setup (even for training).",
            actions=120, split_by="setup", train=54468, test=59477,
        ),
    ])  # fmt: skip
    HOMEPAGE = "https://rose1.ntu.edu.sg/dataset/actionRecognition"
    SUFFIX = ".skeleton"
    MAX_FRAMES = 300

    @property
    def LABELS(self) -> Sequence[str]:
        return ACTIONS[: self.builder_config.actions]

    @property
    def NORMALIZATION(self) -> str:
        # The authors' arrays are normalised already.
        return "recorded" if self.builder_config.form == "authors" else super().NORMALIZATION

    @classmethod
    def config_named(cls, name: str | None) -> tfds.core.BuilderConfig:
        config = super().config_named(name)
        if config.form and config.coordinates not in _COORDINATES[config.form]:
            kept = " or ".join(_COORDINATES[config.form])
            raise UserError(
                f"{cls.name}/{name} cannot be built: the arrays of {config.form} do not have these "
                f"coordinates, only {kept} ones; use another config."
            )
        return config

    def _find_files(self) -> Found:
        protocol = self.builder_config
        names = {
            None: [],
            "authors": [_AUTHORS_FILE],
            "ctrgcn": [_CTRGCN_FILES[protocol.benchmark]],
            "pyskl": _PYSKL_FILES[protocol.actions],
        }[protocol.form]
        if not names:
            return super()._find_files()
        found = ntu_arrays.find(self.manual_dir, names, _SHORT[protocol.split_by])
        paths = [found]
        if protocol.form == "authors":
            paths = [path for some in ntu_arrays.authors_files(found).values() for path in some]
        return Found([RawFile(str(path), ntu_arrays.stamp(path)) for path in paths], [], [])

    def _file_groups(self, files: Sequence[RawFile]) -> list[FileGroup]:
        if self.builder_config.form:
            self.tables = list(files)
            return self._array_groups(Path(files[0].file))
        wanted = []
        for name, file in self._by_name(files).items():
            try:
                recording = parse_name(name)
            except BadFile as flaw:
                self._refuse(BadFile(file.file, None, flaw.reason))
                continue
            if self._is_wanted(recording):
                wanted.append(file)
        # A group has the same set-up, camera and subject: SsssCcccPppp.
        return group_files(wanted, lambda file: file.name[:12], parse_file)

    def _array_groups(self, file: Path) -> list[FileGroup]:
        rows = self._wanted_rows(file)
        chunks = [
            rows[start : start + _ROWS_OF_A_GROUP]
            for start in range(0, len(rows), _ROWS_OF_A_GROUP)
        ]
        # The fingerprint keeps the groups of different files apart.
        return [
            FileGroup(
                f"{rows[0].form}-{workers.fingerprint(str(file.absolute()), chunk[0].name)}",
                tuple((row,) for row in chunk),
                parse_row,
            )
            for chunk in chunks
        ]

    def _wanted_rows(self, file: Path) -> list[Row]:
        """The recordings of an array file that this config has."""
        protocol, refuse = self.builder_config, self._refuse
        rows = {
            "authors": lambda: ntu_arrays.authors_rows(file, refuse),
            "ctrgcn": lambda: ntu_arrays.ctrgcn_rows(file, protocol.actions, refuse),
            "pyskl": lambda: ntu_arrays.pyskl_rows(file, _SHORT[protocol.split_by], refuse),
        }[protocol.form]()
        wanted: dict[str, Row] = {}
        moved = 0
        for row in rows:
            if row.name in wanted:
                refuse(BadFile(row.file, None, f"another recording has the name {row.name}"))
                continue
            if protocol.form != "ctrgcn":
                recording = _recording(row.name)
                if not self._is_wanted(recording):
                    continue
                moved += row.split not in (None, protocol.split_of(recording))
            wanted[row.name] = row
        if moved:
            self.report.notes.append(
                f"{moved:,} recordings are in another split of {file} than in that of "
                f"{protocol.benchmark}, which is used"
            )
        return list(wanted.values())

    def _is_wanted(self, recording: Recording) -> bool:
        """Whether the config has the recording; reports one that it has not."""
        if self.builder_config.actions == 60 and recording.setup > LAST_SETUP_OF_60:
            self.report.leave_out(recording.name, "not part of NTU RGB+D 60")
        elif recording.name in MISSING:
            reason = "listed by the authors as missing or incomplete"
            self.report.leave_out(recording.name, reason)
        else:
            return True
        return False

    def _records(self, clips: Iterable[StoredClip]) -> Iterator[tuple[str, Record]]:
        protocol = self.builder_config
        self.report.expected_splits = {"train": protocol.train, "test": protocol.test}
        self.report.expected_classes = {
            name: (_TAKES_OF_60 if label < 60 else _TAKES_OF_REST) - _MISSING_OF_CLASS[label]
            for label, name in enumerate(self.LABELS)
        }
        crowded = []
        for clip in clips:
            if protocol.form == "ctrgcn":  # which does not name recordings
                split = clip.name.partition("_")[0]
                fields = {"label": clip.info["label"], "subject": 0, "camera": 0, "setup": 0}
            else:
                recording = _recording(clip.name)
                split = protocol.split_of(recording)
                fields = {
                    "label": recording.action - 1,
                    "subject": recording.performer,
                    "camera": recording.camera,
                    "setup": recording.setup,
                }
            yield split, Record(clip, 0, clip.frames, {"name": clip.name, **fields})
            if clip.info["bodies"] > MAX_SLOTS:
                crowded.append(clip.name)
            if clip.info["second_only"]:
                self.report.note(clip.name, SECOND_ONLY)
        if crowded:
            self.report.notes.append(
                f"{len(crowded):,} recordings have frames with more than {MAX_SLOTS} bodies; only "
                f"the first {MAX_SLOTS} are used: {', '.join(crowded)}"
            )


_MISSING_OF_CLASS = Counter(int(name[-3:]) - 1 for name in MISSING)


def _recording(name: str) -> Recording:
    return parse_name(f"{name}{Builder.SUFFIX}")


def parse_file(file: RawFile) -> Clip:
    """The clip of one file; raises BadFile."""
    parsed = parse(file.read(), file.file)
    skeleton = select_bodies(parsed.skeleton)
    _refuse_empty(skeleton, file.file)
    return Clip(parse_name(file.name).name, skeleton, _info(skeleton, parsed.bodies))


def parse_row(row: Row) -> Clip:
    """The clip of one recording in an array file; raises BadFile."""
    skeleton = ntu_arrays.load(row)
    _refuse_empty(skeleton, row.file)
    return Clip(row.name, skeleton, _info(skeleton, skeleton.shape[1]) | {"label": row.label})


def _info(skeleton: np.ndarray, bodies: int) -> dict[str, Any]:
    return {"bodies": bodies, "second_only": second_only(skeleton[: Builder.MAX_FRAMES])}


def _refuse_empty(skeleton: np.ndarray, file: str) -> None:
    if not skeleton[: Builder.MAX_FRAMES].any():
        raise BadFile(
            file,
            None,
            f"found no body in the first {Builder.MAX_FRAMES} frames; later ones are not used",
        )
