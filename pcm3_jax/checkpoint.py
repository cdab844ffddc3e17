"""Saving and restoring training state with Orbax, and the workdir's claim on its configuration.

A workdir holds ``config.json`` and ``checkpoints/STEP/``; a checkpoint counts only once Orbax
has renamed it to its final name, so an interrupted save leaves nothing that could be mistaken
for one.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp
from ml_collections import ConfigDict
from orbax.checkpoint import checkpoint_managers

from pcm3_jax.errors import UserError

# What may change between two starts of one run without making it another run.
FREE_KEYS = (
    "data.dir",
    "data.feed",
    "data.stream_threads",
    "mapping",
    "log_every_steps",
    "checkpoint.every_epochs",
    "checkpoint.keep",
    "eval.batch_size",
)
# What an evaluation must share with the run whose encoder it takes.
ENCODER_KEYS = (
    "model.hidden",
    "model.layers",
    "model.recurrence",
    "views.frames",
    "views.stream",
)


def claim_workdir(workdir: Path, config: ConfigDict) -> None:
    """Makes the workdir this configuration's, or checks that it already is.

    Raises:
      UserError: it belongs to a run with other settings, or cannot be written.
    """
    path = workdir / "config.json"
    ours = json.loads(config.to_json())
    if path.exists():
        theirs = _flat(read_config(workdir).to_dict())
        wanted = _flat(ours)
        differing = [
            f"config.{key} (there {theirs.get(key)!r}, here {wanted.get(key)!r})"
            for key in sorted(theirs.keys() | wanted.keys())
            if key not in FREE_KEYS and theirs.get(key) != wanted.get(key)
        ]
        if differing:
            raise UserError(
                f"Workdir {workdir} belongs to a run with other settings: "
                f"{', '.join(differing)}; choose another --workdir or those settings."
            )
    elif workdir.exists() and any(workdir.iterdir()):
        raise UserError(f"Workdir {workdir} is not empty and no run's: choose another --workdir.")
    if jax.process_index() == 0:
        try:
            workdir.mkdir(parents=True, exist_ok=True)
            write_json(path, ours)
        except OSError as error:
            raise UserError(f"Workdir {workdir} cannot be written: {error.strerror}.") from error


def read_config(workdir: Path) -> ConfigDict:
    """The configuration of the run in a workdir.

    Raises:
      UserError: there is none.
    """
    path = workdir / "config.json"
    try:
        return ConfigDict(_tuples(json.loads(path.read_text())))
    except FileNotFoundError:
        raise UserError(f"There is no run in {workdir}: {path} is missing.") from None
    except ValueError as error:
        raise UserError(f"{path} is not readable as JSON: {error}.") from None


def write_json(path: Path, content: Any) -> None:
    """Writes a JSON file so that it is either the old one or the new one, never a part."""
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(content, indent=2) + "\n")
    partial.replace(path)


class Checkpoints:
    """The checkpoints of one workdir: the last few, and the best by 1-NN accuracy."""

    def __init__(self, workdir: Path, keep: int) -> None:
        logging.getLogger("absl").setLevel(logging.ERROR)  # Orbax reports every step it takes.
        self.folder = (workdir / "checkpoints").absolute()
        policy = checkpoint_managers.AnyPreservationPolicy(
            [
                checkpoint_managers.LatestN(keep),
                checkpoint_managers.BestN(
                    get_metric_fn=lambda metrics: metrics["knn_accuracy"],
                    n=1,
                    keep_checkpoints_without_metrics=False,
                ),
            ]
        )
        self._manager = ocp.CheckpointManager(
            self.folder,
            options=ocp.CheckpointManagerOptions(
                preservation_policy=policy, cleanup_tmp_directories=True
            ),
        )

    def save(self, step: int, state: Any, metrics: dict[str, float] | None = None) -> None:
        """Saves in the background; a step that is already saved is left alone."""
        if step not in self._manager.all_steps():
            self._manager.save(step, args=ocp.args.StandardSave(state), metrics=metrics)

    def restore(self, template: Any) -> Any | None:
        """The last checkpoint laid out like ``template``, or None where there is none.

        Raises:
          UserError: the last checkpoint cannot be read.
        """
        step = self._manager.latest_step()
        if step is None:
            return None
        abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, template)
        return _readable(
            self.folder / str(step),
            lambda: self._manager.restore(step, args=ocp.args.StandardRestore(abstract)),
        )

    def close(self) -> None:
        """Waits for saves under way."""
        self._manager.wait_until_finished()
        self._manager.close()


def load_encoder(run: Path, config: ConfigDict, template: Any) -> Any:
    """The encoder's variables from the last checkpoint of a pretraining run.

    Args:
      run: the run's workdir.
      config: of the task at hand; its encoder settings must be the run's.
      template: {"params": {"encoder": …}, "batch_stats": {"encoder": …}}.

    Raises:
      UserError: there is no such run or checkpoint, or it has another encoder.
    """
    theirs, ours = _flat(read_config(run).to_dict()), _flat(config.to_dict())
    differing = [
        f"--config.{key}={theirs[key]}" for key in ENCODER_KEYS if theirs[key] != ours[key]
    ]
    if differing:
        raise UserError(
            f"The encoder in {run} was trained with other settings: add {' '.join(differing)}."
        )
    folder = run / "checkpoints"
    steps = ocp.utils.checkpoint_steps(folder) if folder.exists() else []
    if not steps:
        raise UserError(f"There is no checkpoint in {folder}: finish the pretraining run first.")
    item = folder.absolute() / str(max(steps)) / "default"
    abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, template)
    with ocp.PyTreeCheckpointer() as checkpointer:
        return _readable(
            item.parent,
            lambda: checkpointer.restore(
                item, args=ocp.args.PyTreeRestore(abstract, partial_restore=True)
            ),
        )


def _readable(path: Path, restore: Callable[[], Any]) -> Any:
    try:
        return restore()
    except Exception as error:
        reason = next(iter(str(error).strip().splitlines()), "no reason given")
        raise UserError(
            f"Checkpoint {path} cannot be read ({type(error).__name__}: {reason[:200]}); move it "
            "away to continue from the one before it."
        ) from error


def _flat(tree: dict, prefix: str = "") -> dict[str, Any]:
    flat = {}
    for key, value in tree.items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = list(value) if isinstance(value, tuple) else value
    return flat


def _tuples(tree: Any) -> Any:
    """JSON has no tuples; all of a configuration's sequences are."""
    if isinstance(tree, dict):
        return {key: _tuples(value) for key, value in tree.items()}
    return tuple(tree) if isinstance(tree, list) else tree
