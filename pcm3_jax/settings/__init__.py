"""Typed settings: the sections that several rooms read, with the paper's values (§4.2).

`section` has their machinery.  A task's or a method's own settings are declared in its file;
`pcm3_jax.config` composes all of them.
"""

import math
from typing import Literal, TypeVar

from pcm3_jax.data.skeleton import BODY_PARTS, JOINTS
from pcm3_jax.settings import renamed
from pcm3_jax.settings.section import TINY, Section, part, require, section, setting

S = TypeVar("S", bound=Section)
Stream = Literal["joint", "bone", "motion"]
OptimizerName = Literal["sgd", "adamw", "lars"]
# Positive pairs (Eq. 5), in the order in which the authors' program encodes them: the running
# statistics of BatchNorm depend on it.
POSITIVES = ("intra", "mask", "predict", "inter")
# Number of units, body parts or joints, that each masking strategy draws from (Table 10).
MASK_UNITS = {"topology": len(BODY_PARTS), "random": JOINTS}


def masked_units(strategy: str, ratio: float) -> int:
    """Number of body parts or joints that a ratio masks in each clip, rounded down."""
    # In floating point a product such as 5 * 0.6 may be just below the exact value.
    return math.floor(MASK_UNITS[strategy] * ratio + 1e-9)


@section
class Data(Section):
    """The data set, built by `python -m tfds_builders.build`."""

    name: str = setting("synthetic_skeletons", 'TFDS data set, "name" or "name/config"')
    dir: str = setting("data", "folder of the built data sets", free=True)
    max_frames: int = setting(300, "longer recordings are cut", low=2)
    feed: Literal["resident", "disk"] = setting(
        "resident", "keep all frames on the device, or read each batch from disk", free=True
    )
    read_threads: int = setting(8, "threads that read batches from disk", low=1, free=True)


@section
class Views(Section):
    """Views of a sequence (§3.1, §3.2): crops, augmentation, masking, mixing."""

    stream: Stream = setting("joint", "what the network sees of a skeleton")
    frames: int = setting(64, "frames of a view", low=2)
    crop_ratio: tuple[float, float] = setting((0.1, 1.0), "share of a sequence that is cropped")
    min_crop_frames: int = setting(64, "no crop is shorter, unless the sequence is", low=1)
    shear_limit: float = setting(1.0, "largest off-diagonal entry of a shear", low=0)
    jitter_joints: int = setting(15, "joints that are jittered", low=0, high=JOINTS)
    jitter_limit: float = setting(1.0, "largest entry of a jitter's matrix", low=0)
    mask_strategy: Literal["topology", "random"] = setting("topology", "mask body parts or joints")
    mask_ratio: float = setting(0.6, "share of body parts or joints masked", low=0, high=1)
    mask_clip_frames: int = setting(8, "frames that share one draw of the mask", low=1)
    mix_block_frames: int = setting(4, "frames of a block that is mixed in", low=1)
    mix_parts: tuple[int, int] = setting((2, 3), "fewest and most body parts mixed in")
    mix_blocks: tuple[int, int] = setting((7, 11), "fewest and most blocks mixed in")
    eval_crop_ratio: float = setting(0.95, "central crop of evaluation", low=TINY, high=1)
    eval_train_crop_ratio: tuple[float, float] = setting(
        (0.5, 1.0), "share of a sequence that is cropped to train a classifier"
    )

    def check(self) -> None:
        """Raises a `UserError` for settings that do not go together."""
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
                f"config.views.{key} is {(low, high)}, but must rise within 1…{most}{what}.",
            )


@section
class Model(Section):
    """Sizes and numerics of the networks (§4.2)."""

    hidden: int = setting(1024, "units of the encoder's GRU, a direction", low=1)
    layers: int = setting(3, "layers of the encoder's GRU", low=1)
    recurrence: Literal["causal", "bidirectional"] = setting(
        "causal", "causal is the authors' program: both directions run forward in time"
    )
    projection: int = setting(128, "length of an embedding", low=1)
    decoder_hidden: int = setting(512, "units of the decoder's GRU", low=1)
    decoder_layers: int = setting(2, "layers of the decoder's GRU", low=1)
    prompt_width: int = setting(128, "r, channels of a task prompt in each direction")
    dtype: Literal["float32", "bfloat16"] = setting(
        "float32", "type of matrix products and activations; all else is float32"
    )
    precision: Literal["highest", "tensorfloat32"] = setting(
        "highest", "tensorfloat32 allows TF32 matmuls on GPUs, and three-pass bfloat16 on TPUs"
    )
    remat: bool = setting(
        False, "recompute the gates in the backward pass: less memory, more time", free=True
    )


@section
class Method(Section):
    """Pretraining: the method, and the contrast and losses of PCM³ (§3)."""

    name: str = setting("pcm3", "pretraining method")
    positives: tuple[str, ...] = setting(POSITIVES, "positive pairs of the contrast (Eq. 5)")
    masked_prediction: bool = setting(True, "predict the masked joints (§3.2)")
    contrast_guides_decoder: bool = setting(
        True, "contrast on the predicted view trains the decoder"
    )
    domain_prompts: bool = setting(True, "learn a prompt for each view (Eq. 6)")
    task_prompts: bool = setting(True, "learn a prompt for contrast and for prediction")
    prompt_placement: Literal["before_norm", "after_norm"] = setting(
        "before_norm", "before_norm is the authors' program: BatchNorm cancels five of six prompts"
    )
    queue_size: int = setting(16384, "past keys to contrast with", low=1)
    key_momentum: float = setting(0.999, "of the key encoder's update", low=0, high=1)
    temperature: float = setting(0.07, "τ of the contrast", low=TINY)
    teacher_temperature: float = setting(0.05, "τ of the distillation's teacher", low=TINY)
    student_temperature: float = setting(0.1, "τ of the distillation's student", low=TINY)
    mask_weight: float = setting(40.0, "λ_m of the masked loss (Eq. 7)", low=0)
    kl_weight: float = setting(1.0, "λ_kl of the distillation (Eq. 7)", low=0)


@section
class Training(Section):
    """One training: its optimizer and schedule."""

    name: OptimizerName = setting("sgd", "optimizer")
    epochs: int = setting(451, "passes over the training samples", low=1)
    batch_size: int = setting(128, "samples of a step, of all devices together", low=1)
    learning_rate: float = setting(0.02, "after the warm-up", low=TINY)
    warmup_epochs: int = setting(0, "epochs over which the learning rate rises linearly", low=0)
    decay_epochs: tuple[int, ...] = setting((351,), "after each the rate is multiplied")
    decay_factor: float = setting(0.1, "what it is multiplied by", low=0, high=1)
    momentum: float = setting(0.9, "of SGD and LARS; b1 of AdamW", low=0, high=1)
    nesterov: bool = setting(False, "Nesterov's momentum")
    weight_decay: float = setting(0.0, "coupled in SGD, decoupled in AdamW", low=0)


@section
class Optimizer(Training):
    """The optimizer of pretraining (§4.2)."""

    weight_decay: float = 1e-4
    reference_batch_size: int = setting(
        0, "batch that the recipe is written for, which is then scaled; 0 takes it as it is", low=0
    )

    def check(self) -> None:
        # The partner of a sample is drawn 1 … N - 2 places away.
        require(
            self.batch_size >= 3,
            f"config.optimizer.batch_size is {self.batch_size}, but must be at least 3.",
        )


@section
class Occlusion(Section):
    """Occluded sequences of the evaluations that take them (Table 4)."""

    kind: Literal["none", "spatial", "temporal"] = setting("none", "body parts, or a run of frames")
    ratio: tuple[float, float] = setting((0.3, 0.7), "share that is occluded")

    def check(self) -> None:
        check_share("occlusion.ratio", self.ratio)


@section
class Evaluation(Section):
    """How encoders are evaluated."""

    every_epochs: int = setting(10, "1-NN accuracy while pretraining; 0: only at the end", low=0)
    batch_size: int = setting(256, "sequences that are encoded at a time", low=1, free=True)


@section
class Checkpoint(Section):
    """When checkpoints are saved."""

    every_epochs: int = setting(5, "epochs between two checkpoints", low=1, free=True)
    keep: int = setting(2, "last checkpoints that are kept, besides the best", low=1, free=True)
    on_failure: Literal["stop", "continue"] = setting(
        "stop", "whether a full disk ends the run or only warns; several processes stop", free=True
    )


@section
class Benchmark(Section):
    """`python -m pcm3_jax.benchmark`, and what --dry_run assumes."""

    steps: int = setting(10, "steps that are timed", low=1, free=True)
    torch_baseline: Literal["none", "frame_by_frame", "tuned", "all"] = setting(
        "none", "PyTorch's versions of the step to compare with", free=True
    )
    link_gigabytes: float = setting(
        50.0, "GB/s of a device's link, each way, to project many devices", low=TINY, free=True
    )
    link_microseconds: float = setting(10.0, "µs of the link's latency", low=0, free=True)
    memory_gigabytes: float = setting(
        80.0, "GB of a device, where it does not tell, to estimate the largest batch", low=TINY,
        free=True,
    )  # fmt: skip


@section
class Config(Section):
    """A run's settings, but for those that only its task or method reads."""

    task: str = setting("pretrain", "what to run")
    seed: int = setting(0, "of everything that is drawn", low=0)
    encoder: str = setting(
        "", "trained model to evaluate: workdir, checkpoint or exported file; empty is random"
    )
    mapping: Literal["pmap", "shard_map"] = setting(
        "pmap", "how one step is mapped over the devices", free=True
    )
    log_every_steps: int = setting(50, "steps between two logged ones", low=1, free=True)
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
        """The section of a task or method, by its class.

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


def pair(key: str, value: tuple) -> tuple:
    """A setting of two numbers; raises a `UserError` for any other length."""
    require(len(value) == 2, f"config.{key} is {value}, but must be two numbers, (low, high).")
    return value


def check_share(key: str, value: tuple) -> None:
    """Raises a `UserError` unless a setting is a range of shares."""
    low, high = pair(key, value)
    require(0 < low <= high <= 1, f"config.{key} is {(low, high)}, but must rise within (0, 1].")
