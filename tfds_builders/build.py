"""Builds a data set: `pcm3 build NAME[/CONFIG] --data_dir=DIR`.

A data set is written to a temporary folder and moved to its final place when complete. Building an
existing data set changes nothing, and is an error if --manual_dir holds other files than those that
it was built from; --verify also checks every byte of it. An interrupted build resumes where it
stopped; of two builds of one data set at once, the second is an error. Parsed raw files stay in
DIR/.staging, for the other configs of the data set; that folder may be deleted between builds.
"""

import argparse
import contextlib
import io
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

from tensorflow_datasets.core.constants import INCOMPLETE_PREFIX

from pcm3_jax.data import built
from pcm3_jax.errors import UserError, reason, shortage
from pcm3_jax.runtime import commands
from pcm3_jax.runtime.files import lock
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
    verify: bool = False,
) -> SkeletonBuilder:
    """Builds `NAME[/CONFIG]` under `data_dir` unless it exists; returns its builder.

    Args:
        dataset: name of the builder and, after a slash, of its config.
        data_dir: holds all data sets; created if missing.
        manual_dir: folder or archive with the raw data, for builders that need it.
        processes: number of processes; the result does not depend on it.
        skip_bad_files: leave out and report unusable raw files instead of raising an error.
        verify: whether to check every byte of a data set that exists.

    Raises:
        UserError: for anything the user can correct.
    """
    name, _, config = dataset.partition("/")
    builder_class = load_builder(name)
    chosen = builder_class.config_named(config or None)
    # TFDS reads the data set, if it exists, on construction.
    with built.named_if_damaged(data_dir / name / chosen.name / str(builder_class.VERSION)):
        builder = builder_class(
            data_dir=data_dir,
            config=chosen,
            manual_dir=manual_dir,
            processes=processes,
            skip_bad_files=skip_bad_files,
        )
    if manual_dir is not None and not manual_dir.exists() and builder.NEEDS_MANUAL_DIR:
        raise UserError(f"--manual_dir={manual_dir} does not exist; correct the path.")
    if is_built(builder, verify=verify):
        note = _compare_inputs(dataset, builder) if manual_dir is not None else ""
        place = f"{builder.data_path}{note}"
        place += ", and every byte is as it was built" if verify else ""
        print(f"{dataset} is already built in {place}; delete it to build it again.")
        return builder
    if manual_dir is None and builder.NEEDS_MANUAL_DIR:
        how = builder.MANUAL_DOWNLOAD_INSTRUCTIONS
        raise UserError(f"{name} is built from raw files: give --manual_dir. {how}")
    folder = Path(builder.data_path)
    with _locked(builder), contextlib.redirect_stdout(io.StringIO()):
        for leftover in folder.parent.glob(f"{INCOMPLETE_PREFIX}*_{folder.name}"):
            shutil.rmtree(leftover)  # of a killed build
        # TFDS creates a download folder and prints messages, although nothing is downloaded.
        with tempfile.TemporaryDirectory() as download_dir:
            builder.download_and_prepare(download_dir=download_dir)
    counts = ", ".join(
        f"{split} {info.num_examples}" for split, info in builder.info.splits.items()
    )
    print(f"{dataset} is built in {folder}: {counts} examples.")
    if isinstance(builder, RecordedBuilder):
        print(f"{builder.report.text()}\nThe complete report is {folder / 'report.json'}.")
    return builder


@contextlib.contextmanager
def _locked(builder: SkeletonBuilder) -> Iterator[None]:
    """Locks a data set, all configs of which share a folder, against other builds.

    Raises:
        UserError: another process builds the data set, or this one cannot.
    """
    try:
        builder.staging.mkdir(parents=True, exist_ok=True)
        with lock(builder.staging / ".lock") as free:
            if not free:
                raise UserError(
                    f"another process builds {builder.name} in {builder.data_dir_root}; wait for "
                    "it, or give another --data_dir."
                )
            yield
    except UserError:
        raise
    except BrokenProcessPool as error:
        raise UserError(
            f"{builder.name} cannot be built: a worker process has ended, perhaps for lack of "
            "memory; give fewer --workers."
        ) from error
    except Exception as error:
        lacking = shortage(error)
        if lacking is None and not isinstance(error, OSError):
            raise
        place = builder.data_dir_root
        raise UserError(
            f"cannot write {builder.name} to {place}: {lacking or reason(error)}."
        ) from error


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


def is_built(builder: SkeletonBuilder, *, verify: bool = False) -> bool:
    """Whether the data set exists.

    Raises:
        UserError: it is incomplete or damaged, as far as its small files tell or, to `verify`,
            every byte of it; or there is nothing to verify.
    """
    folder = Path(builder.data_path)
    if not folder.exists():
        if verify:
            raise UserError(f"{folder} does not exist, so it cannot be verified; build it first.")
        return False
    missing = [folder / "dataset_info.json", folder / "features.json"]
    if missing[0].is_file():
        missing += [Path(p) for info in builder.info.splits.values() for p in info.filepaths]
    missing = [path for path in missing if not path.is_file()]
    if missing:
        raise UserError(f"{folder} is incomplete: {missing[0].name} is missing; delete the folder.")
    if verify and not (folder / built.CHECKSUMS_FILE).exists():
        raise UserError(f"{folder} was built without checksums, by an older version; build anew.")
    built.check(folder, shards=verify)
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
    parser.add_argument("--verify", action="store_true", help="check every byte of a data set")
    commands.open_streams()
    try:
        arguments = parser.parse_args(argv)
        if arguments.workers < 1:
            raise UserError(f"--workers={arguments.workers} must be 1 or more.")
        build(
            arguments.dataset,
            arguments.data_dir,
            arguments.manual_dir,
            processes=arguments.workers,
            skip_bad_files=arguments.on_bad_file == "skip",
            verify=arguments.verify,
        )
        sys.stdout.flush()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        commands.close_output()
        print(f"error: {commands.unusable(error)}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"interrupted: {arguments.dataset} is not built.", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
