r"""PCM³ on your own recordings, with a schedule for the number of training sequences.

python -m tfds_builders.build own_skeletons/kinect_v2_25 --manual_dir=own --data_dir=data
python -m pcm3_jax.main --config=configs/own.py:own_skeletons/kinect_v2_25 --workdir=runs/own

The configuration is the name of a built data set, such as own_skeletons/kinect_v2_25@gym.  Queue,
batch size, epochs, decay and the intervals of evaluations and checkpoints follow from the size of
its training split, and one line says what was chosen; like any setting they can be overridden.
Everything else is as in configs/irds.py.  With --config.encoder=base the pretraining starts from an
encoder of the package.
"""

import argparse
import math
import runpy
from pathlib import Path

from pcm3_jax.config import Config
from pcm3_jax.data import recordings
from pcm3_jax.errors import UserError

IRDS = runpy.run_path(str(Path(__file__).with_name("irds.py")))


def get_config(name: str = "own_skeletons") -> Config:
    config = IRDS["get_config"]()
    # As wide, and read out in the same way, as the encoders of the package, so that
    # --config.encoder=base needs no other flag.
    config.model.hidden = 96
    config.eval.update(layers=(1, 2), pooling=("mean", "max"))
    config.data.name = name
    folder = _given_data_dir(config.data.dir)
    try:
        sequences = recordings.count(name, folder, "train")
    except UserError:
        # The run itself will say so if its data set cannot be read.
        print(f"{name} is not in {folder}, so the recipe is that of configs/irds.py.", flush=True)
        return config
    scale(config, sequences)
    optimizer = config.optimizer
    steps = optimizer.epochs * (sequences // optimizer.batch_size)
    print(
        f"for {sequences:,} training sequences: optimizer.batch_size={optimizer.batch_size} "
        f"optimizer.epochs={optimizer.epochs} ({steps:,} steps) "
        f"optimizer.decay_epochs={optimizer.decay_epochs} "
        f"method.queue_size={config.method.queue_size} "
        f"eval.every_epochs={config.eval.every_epochs} "
        f"checkpoint.every_epochs={config.checkpoint.every_epochs}",
        flush=True,
    )
    return config


def scale(config: Config, sequences: int) -> None:
    """Sets what depends on the number of training sequences.

    For the 1,434 of IntelliRehabDS the batch size, epochs, decay and queue are those of
    configs/irds.py.
    """
    optimizer = config.optimizer
    # At least 16 steps per epoch, unless BatchNorm would have fewer than 8 samples.
    batch_size = min(32, max(8, _power_of_two(sequences / 16)))
    optimizer.batch_size = min(batch_size, sequences)
    # About as many steps as in configs/irds.py and configs/demo.py, but at least ten epochs.
    optimizer.epochs = max(10, math.ceil(1144 / (sequences // optimizer.batch_size)))
    optimizer.decay_epochs = (round(0.85 * optimizer.epochs),)
    # Fewer keys than sequences, so that a sample is seldom contrasted with its own sequence.
    config.method.queue_size = min(16384, _power_of_two(0.75 * sequences))
    config.cmd.neighbours = max(1, config.method.queue_size // 2)
    config.eval.every_epochs = math.ceil(optimizer.epochs / 5)
    config.checkpoint.every_epochs = math.ceil(optimizer.epochs / 10)


def _power_of_two(limit: float) -> int:
    """The largest power of two up to ``limit``; at least 1."""
    return 2 ** int(math.log2(max(1, limit)))


def _given_data_dir(default: str) -> str:
    """--config.data.dir of the command line, which is applied only after `get_config`."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    names = ("--config.data.dir", "-config.data.dir")
    parser.add_argument(*names, dest="folder", nargs="?", default=default, const=default)
    return parser.parse_known_args()[0].folder
