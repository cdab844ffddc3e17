"""A small PCM³ on the embedded data set, to see everything work: minutes on two CPU cores.

python -m tfds_builders.build synthetic_skeletons --data_dir=data
python -m pcm3_jax.main --config=configs/demo.py --workdir=runs/demo
"""

from ml_collections import ConfigDict

from pcm3_jax.config import default_config


def get_config() -> ConfigDict:
    config = default_config()
    # Actions differ in how they move, and velocities say so soonest.
    config.views.stream = "motion"
    # Half the frames and a tenth of the width of the paper.
    config.views.frames = 32
    config.views.min_crop_frames = 32
    config.views.mask_clip_frames = 4
    config.views.mix_block_frames = 2
    config.model.hidden = 96
    config.model.decoder_hidden = 64
    config.model.prompt_width = 16
    # In a short run the key encoder has to follow faster, and the queue to be fresher.
    config.method.key_momentum = 0.99
    config.method.queue_size = 2048
    # One-person actions leave the second person's coordinates constant: BatchNorm blows up what
    # prompts before it leave there once they are dropped for evaluation.
    config.method.prompt_placement = "after_norm"
    config.views.crop_ratio = (0.5, 1.0)
    config.views.shear_limit = 0.5
    # SGD, the paper's, needs far more steps than minutes on a CPU allow.
    config.optimizer.name = "adamw"
    config.optimizer.learning_rate = 1e-3
    config.optimizer.batch_size = 32
    config.optimizer.epochs = 10
    config.optimizer.decay_epochs = (8,)
    config.linear.batch_size = 256
    config.linear.cached_crops = 5
    config.eval.every_epochs = 2
    config.checkpoint.every_epochs = 1
    return config
