"""Saving and restoring training state with Orbax.

Orbax renames a finished checkpoint to ``checkpoints/STEP/``, so that an interrupted save is never
mistaken for a checkpoint.  A checksum of every array is saved too, because Orbax detects missing
and truncated files, but not a changed byte.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import shutil
import time
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers

from pcm3_jax.errors import UserError, reason, report_failure, shortage
from pcm3_jax.runtime.parallel import lost_process

# Field of a training state in checkpoints of earlier versions → current name.
RENAMED_LEAVES = {"healthy": "finite"}


class Checkpoints:
    """The checkpoints of one workdir: the last ``keep``, and the best by 1-NN accuracy.

    A failed save leaves older checkpoints intact.  The next method that waits for the save reports
    the failure: it raises a `WriteError` if ``on_failure`` is "stop", and prints a warning if it is
    "continue".
    """

    def __init__(self, workdir: Path, keep: int, on_failure: str = "stop") -> None:
        """Raises UserError if the metrics of a checkpoint cannot be read."""
        self.folder = (workdir / "checkpoints").absolute()
        self._keep = keep
        # With several processes always stop: the others would wait forever for the failed process.
        self._on_failure = on_failure if jax.process_count() == 1 else "stop"
        self._saving: int | None = None
        self._open()

    def _open(self) -> None:
        for path in self.folder.glob("*/metrics/metrics"):
            # Orbax's own error would not name the checkpoint.
            with _readable(path.parents[1]):
                _read_json(path)
        if jax.process_count() == 1:
            _remove_unfinished(self.folder)

        def accuracy(metrics: dict[str, float]) -> float:
            return metrics.get("knn_accuracy", -math.inf)

        best = checkpoint_managers.BestN(
            get_metric_fn=accuracy, n=1, keep_checkpoints_without_metrics=False
        )
        options = ocp.CheckpointManagerOptions(
            # Without this, Orbax stores no metrics, and the best checkpoint is unknown after a
            # restart.
            best_fn=accuracy,
            preservation_policy=checkpoint_managers.AnyPreservationPolicy(
                [checkpoint_managers.LatestN(self._keep), best]
            ),
            cleanup_tmp_directories=True,
        )
        self._manager = ocp.CheckpointManager(self.folder, options=options)

    def save(self, step: int, state: Any, metrics: dict[str, float] | None = None) -> None:
        """Saves in the background, unless the step is already saved."""
        if not self.saved(step):
            items = ocp.args.Composite(
                state=ocp.args.StandardSave(state), checksums=ocp.args.JsonSave(_checksums(state))
            )
            self._saving = step
            with self._failure_reported():
                self._manager.save(step, args=items, metrics=metrics or {})

    def saved(self, step: int) -> bool:
        """Whether there is a checkpoint of the step; waits for saves under way."""
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
            # Replace the manager: after a failure its list of checkpoints is wrong.
            failed, self._manager = self._manager, None
            if jax.process_count() == 1:
                # Close it now: if the garbage collector closes it, its unjoined thread can
                # deadlock Python 3.11.  With several processes, closing would wait for the others.
                with contextlib.suppress(Exception):
                    failed.close()
            if self._on_failure == "continue":
                self._open()
            report_failure(
                f"Step {self._saving} cannot be saved in {self.folder} ({reason(error)})",
                self._on_failure,
            )

    def restore(self, template: Any) -> Any | None:
        """Restores the last checkpoint; returns None if there is none.

        Args:
          template: a state of the same shapes, types and shardings.

        Raises:
          UserError: the last checkpoint cannot be read.
        """
        step = self._manager.latest_step()
        if step is None:
            return None
        folder = self.folder / str(step)
        with _readable(folder):
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

    def __enter__(self) -> Checkpoints:
        return self

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        # Closing would wait for a lost process.
        if not lost_process(error):
            self.close()

    def close(self) -> None:
        """Waits for saves under way."""
        if self._manager is not None:
            with self._failure_reported():
                self._manager.wait_until_finished()
            self._manager.close()


def _with_old_names(state: Any, renamed: dict[str, str]) -> dict[str, Any]:
    """The fields of a state, under their names in a checkpoint of an earlier version."""
    old_name = {new: old for old, new in renamed.items()}
    return {old_name.get(f.name, f.name): getattr(state, f.name) for f in dataclasses.fields(state)}


def _remove_unfinished(folder: Path) -> None:
    """Removes the files of failed saves.

    Orbax tries to remove them only once, and fails while threads of the save are still writing.
    """
    for _ in range(100):
        unfinished = list(folder.glob("*.orbax-checkpoint-tmp"))
        if not unfinished:
            return
        for path in unfinished:
            shutil.rmtree(path, ignore_errors=True)
        time.sleep(0.05)


def latest_checkpoint(run: Path) -> Path | None:
    """The folder of the last checkpoint in a workdir; None if there is none."""
    folder = (run / "checkpoints").absolute()
    steps = ocp.utils.checkpoint_steps(folder) if folder.is_dir() else []
    return folder / str(max(steps)) if steps else None


def restore_arrays(checkpoint: Path, template: Any) -> Any:
    """A part of a checkpoint's state, as NumPy arrays.

    Args:
      checkpoint: folder of one step.
      template: the wanted part, with shapes and types.

    Raises:
      UserError: the checkpoint is damaged or of another layout.
    """
    # NumPy arrays, because sharded arrays need the devices that they were saved from.
    arrays = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), template)
    with _readable(checkpoint):
        checksums = _read_json(checkpoint / "checksums" / "metadata")
    missing = next((path for path, _ in _leaves(template) if path not in checksums), None)
    if missing is not None:
        raise UserError(
            f"Checkpoint {checkpoint} has no {missing}: use a checkpoint of a pretraining run with "
            "this configuration."
        )
    with _readable(checkpoint):
        with ocp.PyTreeCheckpointer() as checkpointer:
            variables = checkpointer.restore(
                checkpoint / "state",
                args=ocp.args.PyTreeRestore(template, arrays, partial_restore=True),
            )
        _check_sums(variables, checksums)
    return variables


@contextlib.contextmanager
def _readable(path: Path) -> Iterator[None]:
    """Converts errors in reading a checkpoint into a UserError."""
    try:
        yield
    except Exception as error:
        if lost_process(error):
            raise
        if lacking := shortage(error):
            raise UserError(f"Checkpoint {path} cannot be read: {lacking}.") from error
        raise UserError(
            f"Checkpoint {path} is damaged or of another layout ({reason(error)}); move it away "
            "to continue from the one before it."
        ) from error


def _read_json(path: Path) -> Any:
    return json.loads(path.read_text())


def _checksums(tree: Any) -> dict[str, int]:
    """The CRC-32 of every leaf, by path."""
    return {path: zlib.crc32(np.asarray(leaf).data) for path, leaf in _leaves(tree)}


def _leaves(tree: Any) -> Iterator[tuple[str, Any]]:
    """Every leaf and its path, such as "params/encoder/input_norm/scale"."""
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        yield jax.tree_util.keystr(path, simple=True, separator="/"), leaf


def _check_sums(tree: Any, checksums: dict[str, int]) -> None:
    damaged = [path for path, crc in _checksums(tree).items() if checksums.get(path) != crc]
    if damaged:
        raise ValueError(f"the checksum of {damaged[0]} is wrong")
