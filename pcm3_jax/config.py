"""All settings, their defaults (the paper's numbers), and what makes them impossible."""

from __future__ import annotations

from ml_collections import ConfigDict

from pcm3_jax.errors import UserError
from pcm3_jax.models.pcm3 import POSITIVES
from pcm3_jax.skeleton import BODY_PARTS, JOINTS, STREAMS
from pcm3_jax.views.masking import STRATEGIES, masked_units

TASKS = ("pretrain", "linear_eval", "retrieval")


def default_config() -> ConfigDict:
    """PCM³ as published: §4.2 and the authors' program."""
    config = ConfigDict()
    config.task = "pretrain"
    config.seed = 0
    # Workdir of the pretraining run that linear_eval and retrieval evaluate; "" evaluates a
    # randomly initialised encoder.
    config.encoder = ""

    config.data = ConfigDict()
    # A TFDS data set, "name" or "name/config", built by `python -m tfds_builders.build`.
    config.data.name = "synthetic_skeletons"
    config.data.dir = "data"
    # Longer recordings are cut.
    config.data.max_frames = 300
    # "resident" keeps all frames on the device; "stream" reads each batch from disk.
    config.data.feed = "resident"
    config.data.stream_threads = 8

    config.views = ConfigDict()
    config.views.stream = "joint"
    config.views.frames = 64
    config.views.crop_ratio = (0.1, 1.0)
    config.views.min_crop_frames = 64
    config.views.shear_limit = 1.0
    config.views.jitter_joints = 15
    config.views.jitter_limit = 1.0
    config.views.mask_strategy = "topology"
    config.views.mask_ratio = 0.6
    config.views.mask_clip_frames = 8
    config.views.mix_block_frames = 4
    config.views.mix_parts = (2, 3)
    config.views.mix_blocks = (7, 11)
    config.views.eval_crop_ratio = 0.95
    config.views.eval_train_crop_ratio = (0.5, 1.0)

    config.model = ConfigDict()
    config.model.hidden = 1024
    config.model.layers = 3
    # "stepwise" is what the authors' program computes: both directions run forward in time.
    config.model.recurrence = "stepwise"
    config.model.projection = 128
    config.model.decoder_hidden = 512
    config.model.decoder_layers = 2
    config.model.prompt_width = 128
    # Type of the matrix products; all else is float32.
    config.model.dtype = "float32"

    config.method = ConfigDict()
    config.method.positives = POSITIVES
    config.method.masked_prediction = True
    config.method.contrast_guides_decoder = True
    config.method.domain_prompts = True
    config.method.task_prompts = True
    # "before_norm" is the authors' program, where BatchNorm cancels five of six prompts.
    config.method.prompt_placement = "before_norm"
    config.method.queue_size = 16384
    config.method.key_momentum = 0.999
    config.method.temperature = 0.07
    config.method.teacher_temperature = 0.05
    config.method.student_temperature = 0.1
    config.method.mask_weight = 40.0
    config.method.kl_weight = 1.0

    config.optimizer = ConfigDict()
    config.optimizer.epochs = 451
    config.optimizer.batch_size = 128
    config.optimizer.learning_rate = 0.02
    config.optimizer.momentum = 0.9
    config.optimizer.weight_decay = 1e-4
    # The learning rate is multiplied by decay_factor after each of these epochs.
    config.optimizer.decay_epochs = (351,)
    config.optimizer.decay_factor = 0.1

    # Linear evaluation (Table 1).
    config.linear = ConfigDict()
    config.linear.epochs = 100
    config.linear.batch_size = 1024
    config.linear.learning_rate = 0.1
    config.linear.momentum = 0.9
    config.linear.decay_epochs = (20, 50, 80)
    config.linear.decay_factor = 0.1
    # Random crops of each training sequence that are encoded and kept; epochs take them in
    # turn.  0 encodes new crops every epoch, which is the exact protocol.
    config.linear.cached_crops = 0

    config.eval = ConfigDict()
    # 1-NN accuracy while pretraining; 0 never.
    config.eval.every_epochs = 10
    config.eval.batch_size = 256

    # How one step is laid over the devices: "pmap" or "shard_map".
    config.mapping = "pmap"

    config.log_every_steps = 50
    # Steps that `python -m pcm3_jax.benchmark` times.
    config.benchmark = ConfigDict({"steps": 10})
    config.checkpoint = ConfigDict()
    config.checkpoint.every_epochs = 5
    config.checkpoint.keep = 2
    return config


def require(condition: bool, message: str) -> None:
    """Raises a `UserError` unless the condition holds."""
    if not condition:
        raise UserError(message)


def validate(config: ConfigDict) -> None:
    """Refuses settings that cannot work, naming the key and what would."""
    _choice(config, "task", TASKS)
    _choice(config, "mapping", ("pmap", "shard_map"))
    _choice(config, "data.feed", ("resident", "stream"))
    _choice(config, "views.stream", tuple(STREAMS))
    _choice(config, "views.mask_strategy", tuple(STRATEGIES))
    _choice(config, "model.recurrence", ("stepwise", "bidirectional"))
    _choice(config, "model.dtype", ("float32", "bfloat16"))
    _choice(config, "method.prompt_placement", ("before_norm", "after_norm"))
    for key in (
        "model.hidden",
        "model.layers",
        "model.projection",
        "model.decoder_hidden",
        "model.decoder_layers",
        "method.queue_size",
        "optimizer.epochs",
        "linear.epochs",
        "linear.batch_size",
        "eval.batch_size",
        "log_every_steps",
        "benchmark.steps",
        "checkpoint.every_epochs",
        "checkpoint.keep",
        "data.stream_threads",
        "views.min_crop_frames",
        "views.mask_clip_frames",
        "views.mix_block_frames",
    ):
        _at_least(config, key, 1)
    for key in ("eval.every_epochs", "linear.cached_crops", "method.kl_weight",
                "method.mask_weight", "optimizer.weight_decay", "optimizer.momentum"):  # fmt: skip
        _at_least(config, key, 0)
    for key in (
        "method.temperature",
        "method.teacher_temperature",
        "method.student_temperature",
        "optimizer.learning_rate",
        "linear.learning_rate",
    ):
        value = _leaf(config, key)
        require(value > 0, f"config.{key} is {value}, but must be above 0.")
    _validate_views(config)
    _validate_method(config)


def _validate_views(config: ConfigDict) -> None:
    views = config.views
    _at_least(config, "views.frames", 2)
    _at_least(config, "data.max_frames", 2)
    for key in ("views.crop_ratio", "views.eval_train_crop_ratio"):
        low, high = _pair(config, key)
        require(
            0 < low <= high <= 1, f"config.{key} is {(low, high)}, but must rise within (0, 1]."
        )
    require(
        0 < views.eval_crop_ratio <= 1,
        f"config.views.eval_crop_ratio is {views.eval_crop_ratio}, but must lie in (0, 1].",
    )
    require(
        0 <= views.jitter_joints <= JOINTS,
        f"config.views.jitter_joints is {views.jitter_joints}, but must lie in 0…{JOINTS}.",
    )
    for key in ("views.mask_clip_frames", "views.mix_block_frames"):
        part = _leaf(config, key)
        require(
            views.frames % part == 0,
            f"config.views.frames is {views.frames}, but must be a multiple of "
            f"config.{key}, which is {part}.",
        )
    units = STRATEGIES[views.mask_strategy]
    masked = masked_units(views.mask_strategy, views.mask_ratio)
    require(
        1 <= masked <= units,
        f"config.views.mask_ratio is {views.mask_ratio}, which masks {masked} of {units} "
        f"{'body parts' if views.mask_strategy == 'topology' else 'joints'}; "
        f"use a ratio from {1 / units:.2g} to 1.",
    )
    low, high = _pair(config, "views.mix_parts")
    require(
        1 <= low <= high <= len(BODY_PARTS),
        f"config.views.mix_parts is {(low, high)}, but must rise within 1…{len(BODY_PARTS)}.",
    )
    low, high = _pair(config, "views.mix_blocks")
    blocks = views.frames // views.mix_block_frames
    require(
        1 <= low <= high <= blocks,
        f"config.views.mix_blocks is {(low, high)}, but must rise within 1…{blocks}, the blocks "
        "in config.views.frames.",
    )


def _validate_method(config: ConfigDict) -> None:
    method, model = config.method, config.model
    # The batch must leave room to draw a partner 1 … N - 2 places away.
    _at_least(config, "optimizer.batch_size", 3)
    require(
        1 <= model.prompt_width < model.hidden,
        f"config.model.prompt_width is {model.prompt_width}, which leaves no channel offset to "
        f"draw; it must lie in 1…{model.hidden - 1}, below config.model.hidden.",
    )
    unknown = set(method.positives) - set(POSITIVES)
    require(
        not unknown,
        f"config.method.positives has {sorted(unknown)}, but only {POSITIVES} exist.",
    )
    require(
        len(set(method.positives)) == len(method.positives),
        f"config.method.positives is {method.positives}, but each may appear only once.",
    )
    require(
        bool(method.positives) or method.masked_prediction,
        "config.method.positives is empty and config.method.masked_prediction is False, which "
        "leaves nothing to train.",
    )
    require(
        method.masked_prediction or "predict" not in method.positives,
        "config.method.positives has 'predict', which needs config.method.masked_prediction.",
    )
    require(
        0 <= method.key_momentum <= 1,
        f"config.method.key_momentum is {method.key_momentum}, but must lie in [0, 1].",
    )


def _leaf(config: ConfigDict, key: str):
    for part in key.split("."):
        config = config[part]
    return config


def _pair(config: ConfigDict, key: str) -> tuple:
    value = _leaf(config, key)
    require(len(value) == 2, f"config.{key} is {value}, but must be two numbers, (low, high).")
    return value


def _choice(config: ConfigDict, key: str, choices: tuple[str, ...]) -> None:
    value = _leaf(config, key)
    require(value in choices, f"config.{key} is {value!r}, but must be one of {choices}.")


def _at_least(config: ConfigDict, key: str, minimum: int) -> None:
    value = _leaf(config, key)
    require(value >= minimum, f"config.{key} is {value}, but must be at least {minimum}.")
