"""Saving and restoring training state with Orbax, and the workdir's claim on its configuration.

A workdir holds ``config.json`` and ``checkpoints/STEP/``; a checkpoint counts only once Orbax
has renamed it to its final name, so an interrupted save leaves nothing that could be mistaken
for one.  Every array's checksum is saved beside it: Orbax notices missing and shortened files,
but not a changed byte.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import functools
import json
import math
import shutil
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from flax.traverse_util import flatten_dict
from ml_collections import ConfigDict
from orbax.checkpoint import checkpoint_managers

from pcm3_jax.config import complete_config
from pcm3_jax.data.skeleton import select_stream
from pcm3_jax.errors import Busy, UserError, reason, report_failure
from pcm3_jax.runtime.files import PARTIAL, write_json
from pcm3_jax.runtime.parallel import agreed, lost_process, wait_for_all

# What every start writes before its task begins.
CONFIG_FILE, PROVENANCE_FILE = "config.json", "provenance.json"
_LOCK_FILE = ".lock"
# How long a network's disk may take to show one host what another has written: NFS' default is 60.
_NETWORK_DISK_SECONDS = 90
# Fields of training states in checkpoints of earlier versions, and what they are called now.
RENAMED_LEAVES = {"healthy": "finite"}
# What may change between two starts of one run without making it another run.
FREE_KEYS = (
    "data.dir",
    "data.feed",
    "data.stream_threads",
    "mapping",
    "model.remat",
    "log_every_steps",
    "benchmark.steps",
    "benchmark.link_gigabytes",
    "benchmark.link_microseconds",
    "benchmark.memory_gigabytes",
    "peers",
    "checkpoint.every_epochs",
    "checkpoint.keep",
    "checkpoint.on_failure",
    "eval.batch_size",
    "table_cells",
    "table_runs",
    "table_seeds",
)


def check_workdir(workdir: Path, config: ConfigDict) -> None:
    """Checks that the workdir is this configuration's or still nobody's.

    A run that ended before it wrote anything, for want of data for instance, has no claim.

    Raises:
      UserError: it belongs to a run with other settings or to something else.
    """
    path = workdir / CONFIG_FILE
    try:
        names = {entry.name for entry in workdir.iterdir()}
    except FileNotFoundError:
        names = set()
    except OSError as error:
        raise UserError(f"Workdir {workdir} cannot be read: {error.strerror}.") from error
    # Processes that were killed while they wrote the claim leave parts of it only.
    found = {name for name in names if not name.startswith(PARTIAL) and name != _LOCK_FILE}
    if found <= {path.name, PROVENANCE_FILE}:
        return
    if path.name in found:
        _check_same_run(workdir, json.loads(config.to_json()))
    else:
        raise UserError(
            f"Workdir {workdir} is not empty, but holds no run ({path.name} is missing): choose "
            "another --workdir."
        )


def claim_workdir(workdir: Path, config: ConfigDict) -> None:
    """Makes the workdir this configuration's, or checks that it already is.

    Raises:
      UserError: it belongs to a run with other settings, cannot be written, or is not on a disk
        that all processes see.
    """
    check_workdir(workdir, config)
    # Nobody may write before everybody has looked.
    wait_for_all("claim_workdir")
    if jax.process_index() == 0:
        with _writing(workdir):
            workdir.mkdir(parents=True, exist_ok=True)
            write_json(workdir / CONFIG_FILE, json.loads(config.to_json()))
    wait_for_all("claimed_workdir")
    deadline = time.monotonic() + _NETWORK_DISK_SECONDS
    while not (found := (workdir / CONFIG_FILE).exists()) and time.monotonic() < deadline:
        time.sleep(1)
    if not agreed(found):
        raise UserError(
            f"Workdir {workdir} is not on a disk that all processes see: not all find the "
            f"{CONFIG_FILE} that the first has written there."
        )


@contextlib.contextmanager
def locked(workdir: Path) -> Iterator[None]:
    """Keeps every other run out of a workdir.

    Raises:
      Busy: another run is in it.
      UserError: it cannot be written.
    """
    with contextlib.ExitStack() as stack:
        free = True
        if jax.process_index() == 0:
            with _writing(workdir):
                workdir.mkdir(parents=True, exist_ok=True)
                file = stack.enter_context((workdir / _LOCK_FILE).open("a"))
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                free = False
            except OSError:
                pass  # A disk that has no locks.
        if not agreed(free):
            raise Busy(
                f"Another process is running in workdir {workdir}: wait for it, or choose another "
                "--workdir."
            )
        yield


@contextlib.contextmanager
def _writing(workdir: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UserError(f"Workdir {workdir} cannot be written: {error.strerror}.") from error


def _check_same_run(workdir: Path, ours: dict[str, Any]) -> None:
    theirs, wanted = _flat(read_config(workdir).to_dict()), _flat(ours)
    differing = [
        f"config.{key} (there {theirs.get(key)!r}, here {wanted[key]!r})"
        for key in sorted(wanted)
        if key not in FREE_KEYS and theirs.get(key) != wanted[key]
    ]
    if differing:
        raise UserError(
            f"Workdir {workdir} belongs to a run with other settings: "
            f"{', '.join(differing)}; choose another --workdir or those settings."
        )


def read_config(workdir: Path) -> ConfigDict:
    """The configuration of the run in a workdir, as `complete_config` makes it.

    Raises:
      UserError: there is none, or it cannot be read.
    """
    path = workdir / CONFIG_FILE
    try:
        content = json.loads(path.read_text())
    except FileNotFoundError:
        raise UserError(f"There is no run in {workdir}: {path} is missing.") from None
    except ValueError as error:
        raise UserError(f"{path} is not readable as JSON: {error}.") from None
    try:
        return complete_config(content)
    except (TypeError, ValueError, AttributeError) as error:
        raise UserError(f"{path} is no configuration of ours: {error}.") from error


class Checkpoints:
    """The checkpoints of one workdir: the last few, and the best by 1-NN accuracy.

    What cannot be saved harms no older checkpoint.  Everything here that waits for a save raises
    a `WriteError` if it failed and ``on_failure`` is "stop", and prints a warning if "continue".
    """

    def __init__(self, workdir: Path, keep: int, on_failure: str = "stop") -> None:
        """Raises UserError where the metrics of a checkpoint cannot be read."""
        self.folder = (workdir / "checkpoints").absolute()
        self._keep = keep
        # A process on its own cannot go on, since the others wait for it to finish the save.
        self._on_failure = on_failure if jax.process_count() == 1 else "stop"
        self._saving: int | None = None
        self._open()

    def _open(self) -> None:
        for path in self.folder.glob("*/metrics/metrics"):
            # Orbax would not say which one it is.
            _readable(path.parents[1], functools.partial(_read_json, path))

        if jax.process_count() == 1:
            _remove_unfinished(self.folder)

        def accuracy(metrics: dict[str, float]) -> float:
            return metrics.get("knn_accuracy", -math.inf)

        options = ocp.CheckpointManagerOptions(
            # Without it Orbax does not store the metrics, and a restart forgets which is best.
            best_fn=accuracy,
            preservation_policy=checkpoint_managers.AnyPreservationPolicy(
                [
                    checkpoint_managers.LatestN(self._keep),
                    checkpoint_managers.BestN(
                        get_metric_fn=accuracy, n=1, keep_checkpoints_without_metrics=False
                    ),
                ]
            ),
            cleanup_tmp_directories=True,
        )
        self._manager = ocp.CheckpointManager(self.folder, options=options)

    def save(self, step: int, state: Any, metrics: dict[str, float] | None = None) -> None:
        """Saves in the background; a step that is already saved is left alone."""
        if not self.saved(step):
            items = ocp.args.Composite(
                state=ocp.args.StandardSave(state), checksums=ocp.args.JsonSave(_checksums(state))
            )
            self._saving = step
            with self._failure_reported():
                self._manager.save(step, args=items, metrics=metrics or {})

    def saved(self, step: int) -> bool:
        """Waits for saves under way; whether there is a checkpoint of the step."""
        with self._failure_reported():
            self._manager.wait_until_finished()
        return step in self._manager.all_steps()

    @contextlib.contextmanager
    def _failure_reported(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            if lost_process(error):
                raise
            # After a failure Orbax no longer knows which checkpoints there are.
            failed, self._manager = self._manager, None
            if jax.process_count() == 1:
                # Left to the garbage collector, its unjoined thread can lock up Python 3.11.
                # Several processes would wait for each other here.
                with contextlib.suppress(Exception):
                    failed.close()
            if self._on_failure == "continue":
                # It also clears away what the failed save has left.
                self._open()
            report_failure(
                f"Step {self._saving} cannot be saved in {self.folder} ({reason(error)})",
                self._on_failure,
            )

    def restore(self, template: Any) -> Any | None:
        """The last checkpoint laid out like ``template``, or None where there is none.

        Raises:
          UserError: the last checkpoint cannot be read.
        """
        step = self._manager.latest_step()
        if step is None:
            return None
        folder = self.folder / str(step)

        def restore() -> Any:
            checksums = _read_json(folder / "checksums" / "metadata")
            renamed = {old: new for old, new in RENAMED_LEAVES.items() if old in checksums}
            wanted = _with_old_names(template, renamed) if renamed else template
            shapes = jax.tree.map(ocp.utils.to_shape_dtype_struct, wanted)
            items = ocp.args.Composite(state=ocp.args.StandardRestore(shapes))
            state = self._manager.restore(step, args=items).state
            _check_sums(state, checksums)
            if renamed:
                state = template.replace(**{renamed.get(k, k): v for k, v in state.items()})
            return state

        return _readable(folder, restore)

    def __enter__(self) -> Checkpoints:
        return self

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        # A save under way would wait for a lost process, too.
        if not lost_process(error):
            self.close()

    def close(self) -> None:
        """Waits for saves under way."""
        if self._manager is not None:
            with self._failure_reported():
                self._manager.wait_until_finished()
            self._manager.close()


def _with_old_names(state: Any, renamed: dict[str, str]) -> dict[str, Any]:
    """The fields of a state by the names that a checkpoint of an earlier version has."""
    old_name = {new: old for old, new in renamed.items()}
    return {old_name.get(f.name, f.name): getattr(state, f.name) for f in dataclasses.fields(state)}


def _remove_unfinished(folder: Path) -> None:
    """Removes what failed saves have left.

    Orbax does so, too, but threads of a save that has just failed may still be writing there, which
    would end its attempt, and the next save with it.
    """
    for _ in range(100):
        unfinished = list(folder.glob("*.orbax-checkpoint-tmp"))
        if not unfinished:
            return
        for path in unfinished:
            shutil.rmtree(path, ignore_errors=True)
        time.sleep(0.05)


def latest_checkpoint(run: Path) -> Path | None:
    """The folder of the last checkpoint in a workdir, or None where there is none."""
    folder = (run / "checkpoints").absolute()
    steps = ocp.utils.checkpoint_steps(folder) if folder.is_dir() else []
    return folder / str(max(steps)) if steps else None


def restore_arrays(checkpoint: Path, template: Any, stream: str | None = None) -> Any:
    """A part of a checkpoint's state, as NumPy arrays.

    Args:
      checkpoint: folder of one step.
      template: the part that is wanted, with shapes and types.
      stream: takes its branch of a `cmd` run's.

    Raises:
      UserError: the checkpoint is damaged or of another layout.
    """
    # As NumPy arrays they are the same in every process, whatever devices they came from.
    arrays = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), template)

    def restore() -> Any:
        with ocp.PyTreeCheckpointer() as checkpointer:
            variables = checkpointer.restore(
                checkpoint / "state",
                args=ocp.args.PyTreeRestore(template, arrays, partial_restore=True),
            )
        _check_sums(variables, _read_json(checkpoint / "checksums" / "metadata"))
        return variables if stream is None else select_stream(variables, stream)

    return _readable(checkpoint, restore)


def _readable(path: Path, restore: Callable[[], Any]) -> Any:
    try:
        return restore()
    except Exception as error:
        if lost_process(error):
            raise
        raise UserError(
            f"Checkpoint {path} is damaged or of another layout ({reason(error)}); move it away "
            "to continue from the one before it."
        ) from error


def _read_json(path: Path) -> Any:
    return json.loads(path.read_text())


def _checksums(tree: Any) -> dict[str, int]:
    """The CRC-32 of every leaf's bytes, by its path."""
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): zlib.crc32(np.asarray(leaf).data)
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }


def _check_sums(tree: Any, checksums: dict[str, int]) -> None:
    damaged = [path for path, crc in _checksums(tree).items() if checksums.get(path) != crc]
    if damaged:
        raise ValueError(f"the checksum of {damaged[0]} is wrong")


def _flat(tree: dict) -> dict[str, Any]:
    leaves = flatten_dict(tree, sep=".").items()
    return {key: list(value) if isinstance(value, tuple) else value for key, value in leaves}
