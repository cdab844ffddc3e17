"""The settings shared by several packages; defaults are the paper's values (§4.2).

`pcm3_jax.settings.section` implements the sections.  A task or method declares its own settings in
its file; `pcm3_jax.config` composes all of them into one configuration.
"""

import math
from typing import Literal, TypeVar

from pcm3_jax.data.skeleton import BODY_PARTS, JOINTS
from pcm3_jax.settings import renamed
from pcm3_jax.settings.section import TINY, Section, part, require, section, setting

S = TypeVar("S", bound=Section)
Stream = Literal["joint", "bone", "motion"]
OptimizerName = Literal["sgd", "adamw", "lars"]
# Positive pairs (Eq. 5), in the order in which the authors' program encodes them.  BatchNorm's
# running statistics depend on this order.
POSITIVES = ("intra", "mask", "predict", "inter")
# Ways to make one feature of the states of all frames.
POOLINGS = ("last", "mean", "max")
# Number of units, body parts or joints, that each masking strategy draws from (Table 10).
MASK_UNITS = {"topology": len(BODY_PARTS), "random": JOINTS}


def masked_units(strategy: str, ratio: float) -> int:
    """Number of body parts or joints that a ratio masks in each clip, rounded down."""
    # A floating-point product such as 5 * 0.6 may be just below the exact integer.
    return math.floor(MASK_UNITS[strategy] * ratio + 1e-9)


@section
class Data(Section):
    """The data set, built by `python -m tfds_builders.build`."""

    name: str = setting("synthetic_skeletons", 'TFDS data set, "name" or "name/config"')
    extra: tuple[str, ...] = setting((), "more data sets to pretrain on; their labels are not read")
    dir: str = setting("data", "folder of the built data sets", free=True)
    max_frames: int = setting(300, "frames after which longer recordings are cut", low=2)
    feed: Literal["resident", "disk"] = setting(
        "resident", "keep all frames on the device, or read each batch from disk", free=True
    )
    read_threads: int = setting(8, "threads that read batches from disk", low=1, free=True)


@section
class Views(Section):
    """Views of a sequence (§3.1, §3.2): crops, augmentation, masking, mixing."""

    stream: Stream = setting("joint", "input stream of the network")
    frames: int = setting(64, "frames of a view, to which a crop is resampled", low=2)
    resize: bool = setting(
        True, "resample crops; False: crops of `frames` successive frames, to encode frame by frame"
    )
    crop_ratio: tuple[float, float] = setting(
        (0.1, 1.0), "smallest and largest crop, as a share of the sequence"
    )
    min_crop_frames: int = setting(
        64, "minimum frames of a crop, if the sequence has as many", low=1
    )
    shear_limit: float = setting(1.0, "largest off-diagonal entry of a shear", low=0)
    jitter_joints: int = setting(15, "joints that are jittered", low=0, high=JOINTS)
    jitter_limit: float = setting(1.0, "largest entry of a jitter's matrix", low=0)
    drop_joints: float = setting(
        0.0, "share of views without the joints that another layout lacks", low=0, high=1
    )
    mask_strategy: Literal["topology", "random"] = setting(
        "topology", "topology masks whole body parts, random single joints"
    )
    mask_ratio: float = setting(0.6, "share of body parts or joints masked", low=0, high=1)
    mask_clip_frames: int = setting(8, "frames of a clip, over which the mask is constant", low=1)
    mix_block_frames: int = setting(4, "frames of a mixed-in block", low=1)
    mix_parts: tuple[int, int] = setting((2, 3), "fewest and most body parts mixed in")
    mix_blocks: tuple[int, int] = setting((7, 11), "fewest and most blocks mixed in")
    eval_crop_ratio: float = setting(
        0.95, "central crop in evaluation, as a share", low=TINY, high=1
    )
    eval_train_crop_ratio: tuple[float, float] = setting(
        (0.5, 1.0), "smallest and largest crop in training a classifier, as a share"
    )

    def check(self) -> None:
        """Raises a `UserError` for settings that are incompatible with each other."""
        check_share("views.crop_ratio", self.crop_ratio)
        check_share("views.eval_train_crop_ratio", self.eval_train_crop_ratio)
        for key in ("mask_clip_frames", "mix_block_frames"):
            piece = getattr(self, key)
            require(
                self.frames % piece == 0,
                f"config.views.frames is {self.frames}, but must be a multiple of "
                f"config.views.{key}, which is {piece}.",
            )
        units = MASK_UNITS[self.mask_strategy]
        masked = masked_units(self.mask_strategy, self.mask_ratio)
        require(
            1 <= masked <= units,
            f"config.views.mask_ratio is {self.mask_ratio}, which masks {masked} of {units} "
            f"{'body parts' if self.mask_strategy == 'topology' else 'joints'}; "
            f"use a ratio from {1 / units:.2g} to 1.",
        )
        blocks = self.frames // self.mix_block_frames
        for key, most, what in (
            ("mix_parts", len(BODY_PARTS), ""),
            ("mix_blocks", blocks, ", the blocks in config.views.frames"),
        ):
            low, high = pair(f"views.{key}", getattr(self, key))
            require(
                1 <= low <= high <= most,
                f"config.views.{key} is {(low, high)}, but must satisfy 1 ≤ low ≤ high ≤ {most}"
                f"{what}.",
            )


@section
class Model(Section):
    """Sizes and numerics of the networks (§4.2)."""

    hidden: int = setting(1024, "units of the encoder's GRU, per direction", low=1)
    layers: int = setting(3, "layers of the encoder's GRU", low=1)
    recurrence: Literal["causal", "bidirectional"] = setting(
        "causal", "causal, as in the authors' program, runs both directions forward in time"
    )
    projection: int = setting(128, "length of an embedding", low=1)
    decoder_hidden: int = setting(512, "units of the decoder's GRU", low=1)
    decoder_layers: int = setting(2, "layers of the decoder's GRU", low=1)
    prompt_width: int = setting(128, "r, channels of a task prompt in each direction")
    dtype: Literal["float32", "bfloat16"] = setting(
        "float32", "dtype of matmuls and activations; everything else is float32"
    )
    precision: Literal["highest", "tensorfloat32"] = setting(
        "highest", "tensorfloat32 allows TF32 matmuls on GPUs, and three-pass bfloat16 on TPUs"
    )
    remat: bool = setting(
        False, "recompute the gates in the backward pass: less memory, more time", free=True
    )


@section
class Method(Section):
    """Pretraining: the method, and the positive pairs, prompts and losses of PCM³ (§3)."""

    name: str = setting("pcm3", "pretraining method")
    positives: tuple[str, ...] = setting(
        POSITIVES, "positive pairs of the contrastive loss (Eq. 5)"
    )
    masked_prediction: bool = setting(True, "predict the masked joints (§3.2)")
    contrast_guides_decoder: bool = setting(
        True, "let the contrastive loss of the predicted view train the decoder"
    )
    domain_prompts: bool = setting(True, "learn a prompt for each view (Eq. 6)")
    task_prompts: bool = setting(True, "learn one prompt for contrast, one for prediction")
    prompt_placement: Literal["before_norm", "after_norm"] = setting(
        "before_norm",
        "add prompts before BatchNorm, as in the authors' program (it cancels five of the six), or "
        "after it",
    )
    queue_size: int = setting(16384, "past keys in the queue, the negatives of InfoNCE", low=1)
    key_momentum: float = setting(0.999, "momentum of the key encoder's update", low=0, high=1)
    temperature: float = setting(0.07, "τ of the contrastive loss", low=TINY)
    teacher_temperature: float = setting(0.05, "τ of the distillation's teacher", low=TINY)
    student_temperature: float = setting(0.1, "τ of the distillation's student", low=TINY)
    mask_weight: float = setting(40.0, "λ_m of the masked loss (Eq. 7)", low=0)
    kl_weight: float = setting(1.0, "λ_kl of the distillation (Eq. 7)", low=0)


@section
class Training(Section):
    """Optimizer and schedule of one training."""

    name: OptimizerName = setting("sgd", "optimizer")
    epochs: int = setting(451, "passes over the training samples", low=1)
    batch_size: int = setting(128, "samples per step, over all devices", low=1)
    learning_rate: float = setting(0.02, "learning rate after the warm-up", low=TINY)
    warmup_epochs: int = setting(0, "epochs over which the learning rate rises linearly", low=0)
    decay_epochs: tuple[int, ...] = setting((351,), "epochs after which decay_factor is applied")
    decay_factor: float = setting(
        0.1, "factor on the rate after each of decay_epochs", low=0, high=1
    )
    momentum: float = setting(0.9, "momentum of SGD and LARS; b1 of AdamW", low=0, high=1)
    nesterov: bool = setting(False, "use Nesterov momentum")
    weight_decay: float = setting(0.0, "weight decay, coupled in SGD, decoupled in AdamW", low=0)


@section
class Optimizer(Training):
    """The optimizer of pretraining (§4.2)."""

    weight_decay: float = 1e-4
    reference_batch_size: int = setting(
        0,
        "batch size that learning rate, key momentum and queue size were tuned for; they are "
        "scaled to batch_size; 0: no scaling",
        low=0,
    )

    def check(self) -> None:
        # Mixing draws the partner of a sample 1 … N - 2 positions away in the batch.
        require(
            self.batch_size >= 3,
            f"config.optimizer.batch_size is {self.batch_size}, but must be at least 3.",
        )


@section
class Occlusion(Section):
    """Occlusion of sequences in the evaluations that support it (Table 4)."""

    kind: Literal["none", "spatial", "temporal"] = setting(
        "none", "spatial hides body parts, temporal a run of frames"
    )
    ratio: tuple[float, float] = setting((0.3, 0.7), "smallest and largest occluded share")

    def check(self) -> None:
        check_share("occlusion.ratio", self.ratio)


@section
class Evaluation(Section):
    """How encoders are evaluated."""

    every_epochs: int = setting(
        10, "epochs between 1-NN evaluations in pretraining; 0: only at the end", low=0
    )
    batch_size: int = setting(256, "sequences per batch, over all devices", low=1, free=True)
    pooling: tuple[str, ...] = setting(
        ("last",),
        "poolings over time of the encoder's states, of last, mean, max, that make a feature; "
        "several are concatenated, each at unit length",
    )
    layers: tuple[int, ...] = setting(
        (), "layers of the encoder, from 1, whose states make a feature; (): the last layer"
    )

    def check(self) -> None:
        require(
            0 < len(set(self.pooling)) == len(self.pooling) and set(self.pooling) <= set(POOLINGS),
            f"config.eval.pooling is {self.pooling}, but must name one or more of "
            f"{', '.join(POOLINGS)}, each once.",
        )


@section
class Checkpoint(Section):
    """When checkpoints are saved."""

    every_epochs: int = setting(5, "epochs between checkpoints", low=1, free=True)
    keep: int = setting(
        2, "number of latest checkpoints to keep, besides the best", low=1, free=True
    )
    on_failure: Literal["stop", "continue"] = setting(
        "stop",
        "on a full disk: stop, or warn and continue; several processes always stop",
        free=True,
    )


@section
class Benchmark(Section):
    """Settings of `python -m pcm3_jax.benchmark`, and assumptions of --dry_run."""

    steps: int = setting(10, "number of timed steps", low=1, free=True)
    torch_baseline: Literal["none", "frame_by_frame", "tuned", "all"] = setting(
        "none", "PyTorch implementations of the step to compare with", free=True
    )
    link_gigabytes: float = setting(
        50.0,
        "GB/s of a device's link, each way, for projections to many devices",
        low=TINY,
        free=True,
    )
    link_microseconds: float = setting(10.0, "latency of the link in µs", low=0, free=True)
    memory_gigabytes: float = setting(
        80.0, "GB of memory to assume for a device that does not report it", low=TINY,
        free=True,
    )  # fmt: skip


@section
class Config(Section):
    """A run's settings, except those of a single task or method."""

    task: str = setting("pretrain", "task to run")
    seed: int = setting(0, "seed of all random draws", low=0)
    encoder: str = setting(
        "",
        "trained model to evaluate or, in pretraining, to start from: shipped model, workdir, "
        "checkpoint or exported file; empty: random weights",
    )
    mapping: Literal["pmap", "shard_map"] = setting(
        "pmap", "how one step is mapped over the devices", free=True
    )
    log_every_steps: int = setting(50, "steps between log entries", low=1, free=True)
    accept_changed_inputs: bool = setting(
        False, "continue a run although its data set or encoder has changed", free=True
    )
    data: Data = part(Data)
    views: Views = part(Views)
    model: Model = part(Model)
    method: Method = part(Method)
    optimizer: Optimizer = part(Optimizer)
    occlusion: Occlusion = part(Occlusion)
    eval: Evaluation = part(Evaluation)
    checkpoint: Checkpoint = part(Checkpoint)
    benchmark: Benchmark = part(Benchmark)

    def __setattr__(self, name: str, value: object) -> None:
        settings = renamed.flat({name: value})
        if settings.keys() == {name}:
            super().__setattr__(name, value)
        else:
            self.update_from_flattened_dict(settings)

    def of(self, kind: type[S]) -> S:
        """The section of a given class.

        Raises:
          LookupError: the configuration has no such section.
        """
        for value in vars(self).values():
            if type(value) is kind:
                return value
        raise LookupError(f"this configuration has no section {kind.__name__}")

    def check(self) -> None:
        """Raises a `UserError` for the first setting that cannot work, naming its key."""
        self.check_values()
        for value in vars(self).values():
            if hasattr(value, "check"):
                value.check()
        method, model = self.method, self.model
        require(
            1 <= model.prompt_width < model.hidden,
            f"config.model.prompt_width is {model.prompt_width}, which leaves no channel offset to "
            f"draw; it must lie in 1…{model.hidden - 1}, below config.model.hidden.",
        )
        unknown = set(method.positives) - set(POSITIVES)
        require(
            not unknown,
            f"config.method.positives has {sorted(unknown)}, but can only have {POSITIVES}.",
        )
        require(
            len(set(method.positives)) == len(method.positives),
            f"config.method.positives is {method.positives}, but each may appear only once.",
        )
        require(
            bool(method.positives) or method.masked_prediction,
            "config.method.positives is empty and config.method.masked_prediction is False, so "
            "there is no loss to train with; set one of them.",
        )
        require(
            method.masked_prediction or "predict" not in method.positives,
            "config.method.positives has 'predict', which needs config.method.masked_prediction.",
        )


def pair(key: str, value: tuple) -> tuple:
    """Returns a setting that must be two numbers; raises a `UserError` for any other length."""
    require(len(value) == 2, f"config.{key} is {value}, but must be two numbers, (low, high).")
    return value


def check_share(key: str, value: tuple) -> None:
    """Raises a `UserError` unless a setting is a range (low, high) within (0, 1]."""
    low, high = pair(key, value)
    require(
        0 < low <= high <= 1, f"config.{key} is {(low, high)}, but must satisfy 0 < low ≤ high ≤ 1."
    )
