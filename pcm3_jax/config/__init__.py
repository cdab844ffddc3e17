"""All settings, their defaults (the paper's numbers), and what makes them impossible."""

from __future__ import annotations

import functools
import math
import operator
import re
from typing import Any

from ml_collections import ConfigDict

from pcm3_jax.augment.masking import STRATEGIES, masked_units
from pcm3_jax.augment.occlusion import KINDS
from pcm3_jax.data.skeleton import BODY_PARTS, JOINTS, STREAMS
from pcm3_jax.errors import UserError
from pcm3_jax.models.pcm3 import POSITIVES

# The tasks that train an encoder from random weights.
PRETRAINING = ("pretrain", "cmd")
TASKS = (
    *PRETRAINING,
    "linear_eval",
    "fusion",
    "finetune",
    "retrieval",
    "detection",
    "motion_prediction",
    "baseline",
    "table",
)


def default_config() -> ConfigDict:
    """PCM³ as published: §4.2 and the authors' program."""
    config = ConfigDict()
    config.task = "pretrain"
    config.seed = 0
    # "small" makes tables of small networks on the embedded data: pcm3_jax/tables/scale.py.
    config.scale = "paper"
    # The trained model whose encoder the evaluations take: a workdir, a checkpoint or an exported
    # file.  "" is a randomly initialised encoder.
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
    # "causal" is what the authors' program computes: both directions run forward in time.
    config.model.recurrence = "causal"
    config.model.projection = 128
    config.model.decoder_hidden = 512
    config.model.decoder_layers = 2
    config.model.prompt_width = 128
    # Type of matrix products and of activations between them; the rest, with parameters, norms,
    # losses and the GRUs' running state, is float32.
    config.model.dtype = "float32"
    # Of float32 products: "highest" is float32's own; "tensorfloat32" rounds factors to 10 bits
    # after the point where that is faster, on GPUs and, in three passes, on TPUs.
    config.model.precision = "highest"
    # Compute gates once more for the backward pass instead of keeping them: for larger batches.
    config.model.remat = False

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

    # Cross-modal mutual distillation, the task "cmd": over how many of a teacher's nearest keys,
    # and the weight of the distillation beside the contrast.
    config.cmd = ConfigDict({"neighbours": 8192, "weight": 1.0})

    config.optimizer = _optimizer(
        epochs=451, batch_size=128, learning_rate=0.02, decay_epochs=(351,), weight_decay=1e-4
    )
    # The batch that learning_rate, key_momentum and queue_size are meant for; they are then
    # adapted to batch_size (`scaled_to_batch`).  0 takes them as they are.
    config.optimizer.reference_batch_size = 0

    # Linear evaluation (Table 1).
    config.linear = _optimizer(
        epochs=100, batch_size=1024, learning_rate=0.1, decay_epochs=(20, 50, 80)
    )
    # Random crops of each training sequence that are encoded and kept; epochs take them in
    # turn.  0 encodes new crops every epoch, which is the exact protocol.
    config.linear.cached_crops = 0

    # Semi-supervised evaluation (Table 2): encoder and linear layer trained together on a share of
    # the training split, drawn so many times.
    config.finetune = _optimizer(
        epochs=80, batch_size=64, learning_rate=0.01, decay_epochs=(50, 70)
    )
    config.finetune.fraction = 0.01
    config.finetune.draws = 5

    # Occluded sequences in linear_eval, finetune, retrieval and baseline (Table 4).
    config.occlusion = ConfigDict({"kind": "none", "ratio": (0.3, 0.7)})

    # Fusion of streams (Table 1): workdirs of linear evaluations, and the weights of their scores.
    config.fusion = ConfigDict({"runs": (), "weights": (1.0, 1.0, 1.0)})

    # Detection on untrimmed videos (Table 5): the class of a frame is told from so many frames
    # around it, taken every stride-th.
    config.detection = _optimizer(
        epochs=60, batch_size=64, learning_rate=0.01, decay_epochs=(50,), nesterov=True
    )
    config.detection.frames = 16
    config.detection.stride = 4
    # Every so many-th frame trains in one epoch, from another offset each epoch.
    config.detection.train_every = 1
    config.detection.smoothing = 10
    config.detection.threshold = 0.4
    config.detection.overlaps = (0.1, 0.3, 0.5)

    # Motion prediction (Table 6), short-term protocol of Martinez et al.
    config.motion_prediction = _optimizer(
        epochs=100, batch_size=64, learning_rate=5e-4, decay_epochs=(80,), name="adamw"
    )
    config.motion_prediction.observed = 50
    config.motion_prediction.future = 10
    config.motion_prediction.hidden = 1024

    # Which table of the paper task "table" makes, with which seeds in place of config.seed.
    config.table = 1
    config.table_seeds = (0,)
    # Data sets to make it for instead of the paper's, or "A>B" to pretrain on A and evaluate on B;
    # those called untrimmed are for detection.
    config.table_data = ()
    # A regular expression: run only the cells "ROW/COLUMN" in which it is found.
    config.table_cells = ""
    # Where the runs are, for tables to share them; "" is the folder "runs" in the workdir.
    config.table_runs = ""

    # Coordinates alone, for comparison: sequences resampled to so many frames.
    config.baseline = ConfigDict({"frames": 16, "ridge_penalty": 1.0})

    config.eval = ConfigDict()
    # 1-NN accuracy while pretraining, besides that at its end; 0 only that.
    config.eval.every_epochs = 10
    config.eval.batch_size = 256

    # How one step is laid over the devices: "pmap" or "shard_map".
    config.mapping = "pmap"

    config.log_every_steps = 50
    # Steps that `python -m pcm3_jax.benchmark` times; and the links for which it projects the
    # throughput of many devices: gigabytes a second and device each way, and microseconds until
    # they arrive.
    config.benchmark = ConfigDict({"steps": 10})
    config.benchmark.link_gigabytes = 50.0
    config.benchmark.link_microseconds = 10.0
    # The memory of a device for which --dry_run estimates the largest batch, where the device
    # itself does not tell, as a CPU.
    config.benchmark.memory_gigabytes = 80.0
    # PyTorch's versions of the step that it times besides: "frame_by_frame", which works as the
    # authors' program does, "tuned", or "all".
    config.peers = "none"
    config.checkpoint = ConfigDict()
    config.checkpoint.every_epochs = 5
    config.checkpoint.keep = 2
    # What follows when a checkpoint or metrics cannot be written, as on a full disk: "stop", or
    # "continue" with a warning.  Several processes always stop for want of a checkpoint.
    config.checkpoint.on_failure = "stop"
    return config


def _optimizer(
    *,
    epochs: int,
    batch_size: int,
    learning_rate: float,
    decay_epochs: tuple[int, ...],
    name: str = "sgd",
    nesterov: bool = False,
    weight_decay: float = 0.0,
) -> ConfigDict:
    """The settings of one training, which several tasks have."""
    settings = ConfigDict({"name": name, "epochs": epochs, "batch_size": batch_size})
    settings.learning_rate = learning_rate
    # Epochs over which the learning rate rises to that, linearly.
    settings.warmup_epochs = 0
    # It is multiplied by decay_factor after each of these epochs.
    settings.decay_epochs = decay_epochs
    settings.decay_factor = 0.1
    settings.momentum = 0.9
    settings.nesterov = nesterov
    settings.weight_decay = weight_decay
    return settings


def require(condition: bool, message: str) -> None:
    """Raises a `UserError` unless the condition holds."""
    if not condition:
        raise UserError(message)


OPTIMIZERS = ("sgd", "adamw", "lars")
# The sections that `_optimizer` makes.
TRAININGS = ("optimizer", "linear", "finetune", "detection", "motion_prediction")
_CHOICES = {
    "task": TASKS,
    "scale": ("paper", "small"),
    "mapping": ("pmap", "shard_map"),
    "data.feed": ("resident", "stream"),
    "views.stream": tuple(STREAMS),
    "views.mask_strategy": tuple(STRATEGIES),
    "model.recurrence": ("causal", "bidirectional"),
    "model.dtype": ("float32", "bfloat16"),
    "model.precision": ("highest", "tensorfloat32"),
    **{f"{section}.name": OPTIMIZERS for section in TRAININGS},
    "occlusion.kind": KINDS,
    "method.prompt_placement": ("before_norm", "after_norm"),
    "checkpoint.on_failure": ("stop", "continue"),
    "peers": ("none", "frame_by_frame", "tuned", "all"),
}

# Smallest and largest values, both allowed.
_TINY, _ANY = 1e-12, math.inf
_RANGES = {
    "seed": (0, _ANY),
    "table": (1, 10),
    "data.max_frames": (2, _ANY),
    "data.stream_threads": (1, _ANY),
    "views.frames": (2, _ANY),
    "views.min_crop_frames": (1, _ANY),
    "views.shear_limit": (0, _ANY),
    "views.jitter_joints": (0, JOINTS),
    "views.jitter_limit": (0, _ANY),
    "views.mask_ratio": (0, 1),
    "views.mask_clip_frames": (1, _ANY),
    "views.mix_block_frames": (1, _ANY),
    "views.eval_crop_ratio": (_TINY, 1),
    "model.hidden": (1, _ANY),
    "model.layers": (1, _ANY),
    "model.projection": (1, _ANY),
    "model.decoder_hidden": (1, _ANY),
    "model.decoder_layers": (1, _ANY),
    "method.queue_size": (1, _ANY),
    "method.key_momentum": (0, 1),
    "method.temperature": (_TINY, _ANY),
    "method.teacher_temperature": (_TINY, _ANY),
    "method.student_temperature": (_TINY, _ANY),
    "method.mask_weight": (0, _ANY),
    "method.kl_weight": (0, _ANY),
    "cmd.neighbours": (1, _ANY),
    "cmd.weight": (0, _ANY),
    **{
        f"{section}.{key}": limits
        for section in TRAININGS
        for key, limits in {
            "epochs": (1, _ANY),
            "batch_size": (1, _ANY),
            "learning_rate": (_TINY, _ANY),
            "warmup_epochs": (0, _ANY),
            "momentum": (0, 1),
            "weight_decay": (0, _ANY),
            "decay_factor": (0, 1),
        }.items()
    },
    # The partner of a sample is drawn 1 … N - 2 places away.
    "optimizer.batch_size": (3, _ANY),
    "optimizer.reference_batch_size": (0, _ANY),
    "linear.cached_crops": (0, _ANY),
    "finetune.fraction": (_TINY, 1),
    "finetune.draws": (1, _ANY),
    "detection.frames": (1, _ANY),
    "detection.stride": (1, _ANY),
    "detection.train_every": (1, _ANY),
    "detection.smoothing": (0, _ANY),
    "detection.threshold": (0, 1),
    "motion_prediction.observed": (2, _ANY),
    "motion_prediction.future": (1, _ANY),
    "motion_prediction.hidden": (1, _ANY),
    "baseline.frames": (2, _ANY),
    "baseline.ridge_penalty": (_TINY, _ANY),
    "eval.every_epochs": (0, _ANY),
    "eval.batch_size": (1, _ANY),
    "benchmark.steps": (1, _ANY),
    "benchmark.link_gigabytes": (_TINY, _ANY),
    "benchmark.link_microseconds": (0, _ANY),
    "benchmark.memory_gigabytes": (_TINY, _ANY),
    "log_every_steps": (1, _ANY),
    "checkpoint.every_epochs": (1, _ANY),
    "checkpoint.keep": (1, _ANY),
}


def complete_config(content: Any) -> ConfigDict:
    """A configuration read from JSON: settings younger than it have their defaults.

    Settings that there are no more are left out.

    Raises:
      TypeError, ValueError, AttributeError: it is no configuration of ours.
    """
    config = default_config()
    _fill(config, content)
    return config


def _fill(config: ConfigDict, content: dict[str, Any]) -> None:
    for key, value in content.items():
        if key in config and isinstance(config[key], ConfigDict):
            _fill(config[key], value)
        elif key in config:
            # JSON has no tuples; all of a configuration's sequences are.
            config[key] = tuple(value) if isinstance(value, list) else value


def validate(config: ConfigDict) -> None:
    """Refuses settings that cannot work, naming the key and what would.

    Raises:
      UserError: the first setting that cannot work.
    """
    for key, choices in _CHOICES.items():
        value = leaf(config, key)
        require(value in choices, f"config.{key} is {value!r}, but must be one of {choices}.")
    for key, (low, high) in _RANGES.items():
        value = leaf(config, key)
        bounds = f"at least {low}" if high == _ANY else f"in [{low}, {high}]"
        require(low <= value <= high, f"config.{key} is {value}, but must be {bounds}.")
    _validate_views(config)
    _validate_method(config)
    _validate_table(config)
    require(
        not config.encoder or config.task not in (*PRETRAINING, "table"),
        f"config.encoder is {config.encoder!r}, but task {config.task!r} starts from random "
        "weights; the evaluations take an encoder.",
    )
    require(
        config.occlusion.kind == "none" or config.task not in ("detection", "motion_prediction"),
        f"config.occlusion.kind is {config.occlusion.kind!r}, but task {config.task!r} occludes "
        "nothing; linear_eval, finetune, retrieval and baseline do.",
    )


def _validate_views(config: ConfigDict) -> None:
    views = config.views
    for key in ("views.crop_ratio", "views.eval_train_crop_ratio", "occlusion.ratio"):
        low, high = _pair(config, key)
        require(
            0 < low <= high <= 1, f"config.{key} is {(low, high)}, but must rise within (0, 1]."
        )
    for key in ("views.mask_clip_frames", "views.mix_block_frames"):
        part = leaf(config, key)
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
        config.task != "cmd" or config.cmd.neighbours <= method.queue_size,
        f"config.cmd.neighbours is {config.cmd.neighbours}, but must be at most "
        f"config.method.queue_size, which is {method.queue_size}.",
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


def _validate_table(config: ConfigDict) -> None:
    require(
        config.scale == "paper" or config.task == "table",
        f"config.scale is {config.scale!r}, which only config.task = 'table' takes.",
    )
    seeds = config.table_seeds
    require(
        0 < len(seeds) == len(set(seeds))
        and all(isinstance(seed, int) and seed >= 0 for seed in seeds),
        f"config.table_seeds is {seeds}, but must be one or more whole numbers from 0, all "
        "different.",
    )
    data = config.table_data
    require(
        len(set(data)) == len(data) and all(re.fullmatch("[^>]+(>[^>]+)?", name) for name in data),
        f"config.table_data is {data}, but must be different names of data sets, or 'A>B' for an "
        "encoder pretrained on A and evaluated on B.",
    )
    try:
        re.compile(config.table_cells)
    except re.error as error:
        raise UserError(
            f"config.table_cells is {config.table_cells!r}, which is no regular expression: "
            f"{error}."
        ) from error


def leaf(config: ConfigDict, key: str) -> Any:
    """The setting that "section.name" names."""
    return functools.reduce(operator.getitem, key.split("."), config)


def _pair(config: ConfigDict, key: str) -> tuple:
    value = leaf(config, key)
    require(len(value) == 2, f"config.{key} is {value}, but must be two numbers, (low, high).")
    return value
