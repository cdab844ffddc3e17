"""A small PCM³ on the generated data set, as a demonstration: minutes on two CPU cores.

python -m tfds_builders.build synthetic_skeletons --data_dir=data
python -m pcm3_jax.main --config=configs/demo.py --workdir=runs/demo
"""

from pcm3_jax.config import Config, default_config
from pcm3_jax.tables.scale import SMALL


def get_config() -> Config:
    config = default_config()
    config.update_from_flattened_dict(SMALL)
    # On this data the motion stream separates the actions after the fewest epochs.
    config.views.stream = "motion"
    # A larger network and a longer schedule than in `SMALL`, which is for tables with many runs.
    config.model.hidden = 96
    config.method.queue_size = 2048
    config.optimizer.epochs = 10
    config.optimizer.decay_epochs = (8,)
    config.linear.cached_crops = 5
    config.eval.every_epochs = 2
    config.checkpoint.every_epochs = 1
    return config
