"""Builds a data set: `pcm3 build NAME[/CONFIG] --data_dir=DIR`.

A data set is written to a temporary folder and moved to its final place when complete. Building an
existing data set changes nothing, and is an error if --manual_dir holds other files than those that
it was built from; an interrupted build resumes where it stopped. Two builds of one data set must
not run at once. Parsed raw files stay in DIR/.staging, for the other configs of the data set; that
folder may be deleted at any time.
"""

import argparse
import contextlib
import io
import os
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from tensorflow_datasets.core.constants import INCOMPLETE_PREFIX

from pcm3_jax.errors import UserError
from tfds_builders import BUILDERS, Provider
from tfds_builders.recorded_builder import RecordedBuilder
from tfds_builders.skeleton_builder import SkeletonBuilder


def load_builder(name: str) -> type[SkeletonBuilder]:
    """The builder class of that name. Raises UserError if there is none."""
    if name not in BUILDERS:
        raise UserError(f"there is no builder {name!r}; use one of {', '.join(BUILDERS)}.")
    return Provider().get_builder_cls(name)


def build(
    dataset: str,
    data_dir: Path,
    manual_dir: Path | None = None,
    *,
    processes: int = 1,
    skip_bad_files: bool = False,
) -> SkeletonBuilder:
    """Builds `NAME[/CONFIG]` under `data_dir` unless it exists; returns its builder.

    Args:
        dataset: name of the builder and, after a slash, of its config.
        data_dir: holds all data sets; created if missing.
        manual_dir: folder or archive with the raw data, for builders that need it.
        processes: number of processes; the result does not depend on it.
        skip_bad_files: leave out and report unusable raw files instead of raising an error.

    Raises:
        UserError: for anything the user can correct.
    """
    name, _, config = dataset.partition("/")
    builder_class = load_builder(name)
    builder = builder_class(
        data_dir=data_dir,
        config=builder_class.config_named(config or None),
        manual_dir=manual_dir,
        processes=processes,
        skip_bad_files=skip_bad_files,
    )
    if manual_dir is not None and not manual_dir.exists() and builder.NEEDS_MANUAL_DIR:
        raise UserError(f"--manual_dir={manual_dir} does not exist; correct the path.")
    if is_built(builder):
        note = _compare_inputs(dataset, builder) if manual_dir is not None else ""
        place = f"{builder.data_path}{note}"
        print(f"{dataset} is already built in {place}; delete it to build it again.")
        return builder
    if manual_dir is None and builder.NEEDS_MANUAL_DIR:
        how = builder.MANUAL_DOWNLOAD_INSTRUCTIONS
        raise UserError(f"{name} is built from raw files: give --manual_dir. {how}")
    folder = Path(builder.data_path)
    for leftover in folder.parent.glob(f"{INCOMPLETE_PREFIX}*_{folder.name}"):  # of killed builds
        shutil.rmtree(leftover)
    try:
        # TFDS creates a download folder and prints messages, although nothing is downloaded.
        with (
            contextlib.redirect_stdout(io.StringIO()),
            tempfile.TemporaryDirectory() as download_dir,
        ):
            builder.download_and_prepare(download_dir=download_dir)
    except OSError as error:
        raise UserError(f"cannot write {dataset} to {data_dir}: {error}.") from error
    counts = ", ".join(
        f"{split} {info.num_examples}" for split, info in builder.info.splits.items()
    )
    print(f"{dataset} is built in {folder}: {counts} examples.")
    if isinstance(builder, RecordedBuilder):
        print(f"{builder.report.text()}\nThe complete report is {folder / 'report.json'}.")
    return builder


def _compare_inputs(dataset: str, builder: SkeletonBuilder) -> str:
    """A remark on whether the raw files are those that the existing data set was built from.

    Raises:
        UserError: they are not; says what differs.
    """
    if not isinstance(builder, RecordedBuilder):
        return ""
    changes = builder.changes()
    if changes is None:
        return " by an older version, which did not note its raw files, so they are not compared"
    if changes:
        raise UserError(
            f"{dataset} is built in {builder.data_path} already, but not from the files that "
            f"{builder.manual_dir} holds now: {changes}; delete the data set to build it again, or "
            f"{builder.BESIDE} to keep both."
        )
    return " from the same files"


def is_built(builder: SkeletonBuilder) -> bool:
    """Whether the data set exists. Raises UserError if it is incomplete."""
    folder = Path(builder.data_path)
    if not folder.exists():
        return False
    missing = [folder / "dataset_info.json", folder / "features.json"]
    if missing[0].is_file():
        missing += [Path(p) for info in builder.info.splits.values() for p in info.filepaths]
    missing = [path for path in missing if not path.is_file()]
    if missing:
        raise UserError(f"{folder} is incomplete: {missing[0].name} is missing; delete the folder.")
    return True


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command and returns its exit code; errors are one sentence on standard error."""
    parser = argparse.ArgumentParser(prog="pcm3 build", description=__doc__)
    parser.add_argument("dataset", metavar="NAME[/CONFIG]", help=f"NAME: {', '.join(BUILDERS)}")
    parser.add_argument("--data_dir", type=Path, required=True, help="folder of the data sets")
    parser.add_argument("--manual_dir", type=Path, help="folder or archive with the raw data")
    parser.add_argument("--workers", type=int, default=os.cpu_count(), help="number of processes")
    parser.add_argument(
        "--on_bad_file",
        choices=("fail", "skip"),
        default="fail",
        help="whether a raw file that cannot be used ends the build or is left out and reported",
    )
    arguments = parser.parse_args(argv)
    try:
        if arguments.workers < 1:
            raise UserError(f"--workers={arguments.workers} must be 1 or more.")
        build(
            arguments.dataset,
            arguments.data_dir,
            arguments.manual_dir,
            processes=arguments.workers,
            skip_bad_files=arguments.on_bad_file == "skip",
        )
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"interrupted: {arguments.dataset} is not built.", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
