"""Settings for small networks: all tables of the paper take about an hour on two CPU cores."""

from __future__ import annotations

from pcm3_jax.settings import Config

# Half the frames and a fraction of the paper's width.  A short run needs a lower key momentum, a
# shorter queue, and an optimizer that converges in fewer steps than SGD.
SMALL = {
    "views.frames": 32,
    "views.min_crop_frames": 32,
    "views.crop_ratio": (0.5, 1.0),
    "views.shear_limit": 0.5,
    "views.mask_clip_frames": 4,
    "views.mix_block_frames": 2,
    "model.hidden": 64,
    "model.decoder_hidden": 64,
    "model.prompt_width": 16,
    "method.key_momentum": 0.99,
    "method.queue_size": 1024,
    "cmd.neighbours": 512,
    # In one-person actions the second person's coordinates are constant.  With prompts before
    # BatchNorm, evaluation, which adds no prompts, would output large values for these coordinates
    # ("Prompts" in docs/differences.md).
    "method.prompt_placement": "after_norm",
    "optimizer.name": "adamw",
    "optimizer.learning_rate": 1e-3,
    "optimizer.batch_size": 32,
    "optimizer.epochs": 5,
    "optimizer.decay_epochs": (4,),
    "linear.batch_size": 256,
    "linear.cached_crops": 2,
    "finetune.draws": 2,
    "finetune.name": "adamw",
    "finetune.learning_rate": 1e-3,
    "finetune.epochs": 20,
    "finetune.decay_epochs": (15,),
    "detection.name": "adamw",
    "detection.learning_rate": 1e-3,
    "detection.train_every": 16,
    "detection.epochs": 3,
    "detection.decay_epochs": (2,),
    "motion_prediction.observed": 20,
    "motion_prediction.hidden": 64,
    "motion_prediction.epochs": 3,
    "motion_prediction.decay_epochs": (2,),
    # 1-NN accuracy is a column of its own.
    "eval.every_epochs": 0,
}


def scaled(config: Config) -> Config:
    """A copy with the values of `SMALL` for all settings that still have the paper's value."""
    scaled = config.copy()
    ours, papers = config.flat(), type(config)().flat()
    scaled.update_from_flattened_dict({k: v for k, v in SMALL.items() if ours[k] == papers[k]})
    return scaled
