"""A small PCM³ on the embedded data set, to see everything work.

python -m tfds_builders.build synthetic_skeletons --data_dir=data
python -m pcm3_jax.main --config=configs/demo.py --workdir=runs/demo
"""

from ml_collections import ConfigDict

from pcm3_jax.config import default_config


def get_config() -> ConfigDict:
    config = default_config()
    config.model.hidden = 96
    config.model.decoder_hidden = 64
    config.model.prompt_width = 16
    config.method.queue_size = 2048
    config.optimizer.epochs = 20
    config.optimizer.decay_epochs = (16,)
    config.eval.every_epochs = 5
    return config
