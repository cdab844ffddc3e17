"""Starts the program as a user would, in sizes that take seconds."""

from __future__ import annotations

import json
import os
import re
import runpy
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import orbax.checkpoint as ocp

from pcm3_jax.config import Config

CONFIG_FILE = """
from pcm3_jax.config import default_config


def get_config():
    config = default_config()
    config.data.name = "synthetic_skeletons/n64x32"
    config.data.dir = {data_dir!r}
    config.views.frames = 16
    config.views.min_crop_frames = 16
    config.views.mix_blocks = (2, 3)
    config.model.hidden = 8
    config.model.layers = 1
    config.model.projection = 8
    config.model.decoder_hidden = 8
    config.model.decoder_layers = 1
    config.model.prompt_width = 2
    config.method.queue_size = 64
    config.optimizer.epochs = 6
    config.optimizer.batch_size = 16
    config.optimizer.decay_epochs = (3,)
    config.linear.epochs = 3
    config.linear.batch_size = 16
    config.linear.decay_epochs = (2,)
    config.eval.every_epochs = 2
    config.eval.batch_size = 16
    config.log_every_steps = 1
    config.checkpoint.every_epochs = 1
    return config
"""
# What such a short pretraining is warned of.
FEW_STEPS = r"warning: \d+ optimizer steps \(\d+ per epoch\) are too few .*\.\n"
# What metrics.jsonl says about the clock and memory, which no two runs share.
PACE = ("samples_per_second", "seconds_left", "input_wait_share", "peak_memory_gb")


class Program:
    """`python -m pcm3_jax.main` with one small configuration file.

    Args:
      folder: for the configuration file.
      data_dir: holds the data set ``synthetic_skeletons/n64x32``.
    """

    def __init__(self, folder: Path, data_dir: Path) -> None:
        self.config_file = folder / "small.py"
        self.config_file.write_text(CONFIG_FILE.format(data_dir=str(data_dir)))

    def config(self) -> Config:
        """The configuration, to change and use in this process."""
        return runpy.run_path(str(self.config_file))["get_config"]()

    def environment(self, devices: int = 1) -> dict[str, str]:
        """Of a run on that many virtual CPU devices."""
        return os.environ | {
            "JAX_PLATFORMS": "cpu",
            "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}",
            # With fewer threads the virtual devices' collectives deadlock.
            "PJRT_NPROC": str(2 * devices + 2),
        }

    def command(self, workdir: Path, *arguments: str) -> list[str]:
        return [
            *(sys.executable, "-m", "pcm3_jax.main"),
            *(f"--config={self.config_file}", f"--workdir={workdir}", *arguments),
        ]

    def start(
        self, workdir: Path, *arguments: str, devices: int = 1, **environment: str
    ) -> subprocess.Popen:
        return subprocess.Popen(
            self.command(workdir, *arguments),
            env=self.environment(devices) | environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(
        self, workdir: Path, *arguments: str, devices: int = 1, **environment: str
    ) -> tuple[int, str, str]:
        """Exit code, standard output and, without `FEW_STEPS`, standard error of a whole run."""
        process = self.start(workdir, *arguments, devices=devices, **environment)
        out, err = process.communicate(timeout=300)
        return process.returncode, out, re.sub(FEW_STEPS, "", err)


def metrics(workdir: Path) -> list[dict[str, float]]:
    """The lines of metrics.jsonl, less what they say about clock and memory."""
    lines = map(json.loads, (workdir / "metrics.jsonl").read_text().splitlines())
    return [{key: value for key, value in line.items() if key not in PACE} for line in lines]


def losses(workdir: Path) -> np.ndarray:
    """The loss of every logged step."""
    return np.array([line["loss"] for line in metrics(workdir) if "loss" in line])


def checkpoint_steps(workdir: Path) -> list[int]:
    """The steps of which a workdir holds a finished checkpoint."""
    names = [path.name for path in (workdir / "checkpoints").iterdir()]
    return sorted(int(name) for name in names if name.isdigit())


def last_state(workdir: Path) -> dict[str, np.ndarray]:
    """Every array of a workdir's last checkpoint, by its path."""
    folder = workdir / "checkpoints" / str(checkpoint_steps(workdir)[-1]) / "state"
    with ocp.PyTreeCheckpointer() as checkpointer:
        shapes = checkpointer.metadata(folder.absolute()).item_metadata.tree
        arrays = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), shapes)
        state = checkpointer.restore(
            folder.absolute(), args=ocp.args.PyTreeRestore(restore_args=arrays)
        )
    leaves = jax.tree_util.tree_leaves_with_path(state)
    return {jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in leaves}


def assert_same_run(first: Path, second: Path) -> None:
    """Bit for bit the same logged metrics, results and final state."""
    assert metrics(first) == metrics(second)
    assert (first / "results.json").read_text() == (second / "results.json").read_text()
    assert checkpoint_steps(first)[-1] == checkpoint_steps(second)[-1]
    ours, theirs = last_state(first), last_state(second)
    assert ours.keys() == theirs.keys()
    for path, array in ours.items():
        np.testing.assert_array_equal(array, theirs[path], err_msg=path)
