"""Small settings: those that let every table of the paper run on two CPU cores in an hour."""

from __future__ import annotations

from ml_collections import ConfigDict

from pcm3_jax.config import default_config, leaf, validate

# Half the frames and a fraction of the width of the paper.  In a short run the key encoder has
# to follow faster, the queue to be fresher, and SGD would need far more steps.
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
    # One-person actions leave the second person's coordinates constant: BatchNorm blows up what
    # prompts before it leave there once they are dropped for evaluation.
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


def scaled(config: ConfigDict) -> ConfigDict:
    """A copy with what ``config.scale`` asks for.

    "paper" changes nothing.  "small" puts the settings of `SMALL` in place of those that have
    the paper's value; any other value was chosen and stays.

    Raises:
      UserError: what was chosen does not go together with the small settings.
    """
    config = config.copy_and_resolve_references()
    if config.scale == "small":
        paper = default_config()
        config.update_from_flattened_dict(
            {key: value for key, value in SMALL.items() if leaf(config, key) == leaf(paper, key)}
        )
        validate(config)
    return config
