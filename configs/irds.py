"""PCM³ on IntelliRehabDS, cross-subject: 15 minutes on two CPU cores.

python -m tfds_builders.build intellirehabds --manual_dir=DOWNLOAD --data_dir=data
bash launch/compare.sh configs/irds.py runs/irds "0 1 2"
"""

from ml_collections import ConfigDict

from pcm3_jax.config import default_config


def get_config() -> ConfigDict:
    config = default_config()
    config.data.name = "intellirehabds"
    config.views.min_crop_frames = 32
    config.model.hidden = 128
    config.model.decoder_hidden = 64
    config.model.prompt_width = 16
    config.method.queue_size = 1024
    config.method.key_momentum = 0.99
    config.optimizer.batch_size = 64
    config.optimizer.epochs = 40
    config.optimizer.decay_epochs = (32,)
    config.eval.every_epochs = 5
    config.log_every_steps = 55
    return config
