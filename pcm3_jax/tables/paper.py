"""The tables of the paper as data: encoders, their evaluations, and the published figures.

A row is an encoder with its pretraining, a column an evaluation.  A data set is written "NAME", or
"A>B" for an encoder pretrained on A and evaluated on B.  Table 0, `comparison`, is not in the
paper.
"""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pcm3_jax.models.pcm3 import POSITIVES

Settings = Mapping[str, Any]
NOTHING: Settings = {}


@dataclasses.dataclass(frozen=True)
class Row:
    """An encoder.

    Attributes:
      name: name in the table and in `config.tables.cells`.
      pretraining: settings of the pretraining; None for a random encoder.
      method: name of the pretraining method.
      stream: the encoder's stream; None for the configuration's.
      fused: {stream: settings} of the streams to pretrain, evaluate and fuse; {} for one stream.
      task: task that replaces the columns' tasks and takes no encoder; None for the columns'.
      metric: metric that replaces the columns' metrics; None for the columns'.
      marks: texts of the row's leading columns, if these are several instead of the name.
    """

    name: str
    pretraining: Settings | None = dataclasses.field(default_factory=dict)
    method: str = "pcm3"
    stream: str | None = None
    fused: Mapping[str, Settings] = dataclasses.field(default_factory=dict)
    task: str | None = None
    metric: str | None = None
    marks: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Term:
    """``weight`` times a metric of one evaluation."""

    data: str
    task: str
    metric: str
    settings: Settings = dataclasses.field(default_factory=dict)
    weight: float = 100.0


@dataclasses.dataclass(frozen=True)
class Column:
    """A sum of terms; ``pretraining`` settings override the row's."""

    heading: str
    terms: tuple[Term, ...]
    pretraining: Settings = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Benchmarks:
    """The data sets of a table's columns, by kind of evaluation."""

    actions: tuple[str, ...] = ()
    motion: tuple[str, ...] = ()
    detection: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Table:
    """One table; ``marks`` are the headings of the columns that hold the rows' ``marks``."""

    title: str
    benchmarks: Benchmarks
    rows: tuple[Row, ...]
    columns: Callable[[Benchmarks], list[Column]]
    marks: tuple[str, ...] = ("method",)


NTU60_XSUB, NTU60_XVIEW = "ntu_rgbd/ntu60_xsub", "ntu_rgbd/ntu60_xview"
NTU120 = ("ntu_rgbd/ntu120_xsub", "ntu_rgbd/ntu120_xset")
NTU60 = (NTU60_XSUB, NTU60_XVIEW)
PKU = "pku_mmd/part2_xsub"
PKU_VIDEOS = f"{NTU60_XSUB}>pku_mmd/part1_xsub_untrimmed"
# The data sets of all tables at small scale.
EMBEDDED = "synthetic_skeletons/default"
EMBEDDED_VIDEOS = f"{EMBEDDED}>synthetic_skeletons/untrimmed"
LABELS = {
    NTU60_XSUB: "NTU 60 xsub",
    NTU60_XVIEW: "NTU 60 xview",
    NTU120[0]: "NTU 120 xsub",
    NTU120[1]: "NTU 120 xset",
    PKU: "PKU-MMD II xsub",
    "pku_mmd/part1_xsub_untrimmed": "PKU-MMD I xsub",
    EMBEDDED: "synthetic",
    "synthetic_skeletons/untrimmed": "synthetic videos",
}
# The names of all data sets of untrimmed videos contain this.
UNTRIMMED = "untrimmed"


def label(data: str) -> str:
    """The name of a data set in headings."""
    pretrained, _, evaluated = data.rpartition(">")
    if data in (PKU_VIDEOS, EMBEDDED_VIDEOS) or pretrained in ("", evaluated):
        return _label(evaluated)
    return f"{_label(evaluated)} from {_label(pretrained)}"


def _label(name: str) -> str:
    # After an @ is what the data set was built from.
    stem, at, form = name.partition("@")
    return f"{LABELS[stem]} {at}{form}" if at and stem in LABELS else LABELS.get(name, name)


def _accuracy(
    what: str, data: str, task: str = "linear_eval", metric: str = "top1", **settings: Any
) -> Column:
    """A column with one evaluation in per cent; settings are written ``section__name``."""
    settings = {key.replace("__", "."): value for key, value in settings.items()}
    return Column(f"{what}{label(data)} (%)", (Term(data, task, metric, settings),))


def _linear(benchmarks: Benchmarks) -> list[Column]:
    return [_accuracy("", data) for data in benchmarks.actions]


def _semi_supervised(benchmarks: Benchmarks) -> list[Column]:
    return [
        _accuracy(f"{share:.0%} of ", data, "finetune", finetune__fraction=share)
        for data in benchmarks.actions
        for share in (0.01, 0.1)
    ]


def _retrieval(benchmarks: Benchmarks) -> list[Column]:
    return [_accuracy("", data, "retrieval", "knn_accuracy") for data in benchmarks.actions]


def _occlusion(benchmarks: Benchmarks) -> list[Column]:
    columns = []
    # On other data sets the heading of Δ names them, so that Δ does not share a column with the
    # published Δ, which is not comparable.
    names = "".join(f", {label(data)}" for data in benchmarks.actions)
    over = "" if benchmarks.actions == NTU60 else names
    for kind in ("spatial", "temporal"):
        occluded = [
            _accuracy(f"{kind} occlusion, ", data, occlusion__kind=kind)
            for data in benchmarks.actions
        ]
        # Δ: the accuracy lost to occlusion, averaged over the data sets.
        lost = [
            dataclasses.replace(term, weight=sign * term.weight / len(occluded))
            for sign, columns_of in ((1, _linear(benchmarks)), (-1, occluded))
            for column in columns_of
            for term in column.terms
        ]
        columns += [*occluded, Column(f"{kind} occlusion, Δ{over}", tuple(lost))]
    return columns


def _detection(benchmarks: Benchmarks, kinds: Sequence[str] = ("action", "video")) -> list[Column]:
    overlaps = (0.1, 0.3, 0.5)
    return [
        _accuracy(
            f"mAP_{kind[0]}, ", data, "detection", f"map_{kind}@0.5", detection__overlaps=overlaps
        )
        for data in benchmarks.detection
        for kind in kinds
    ]


def _motion(benchmarks: Benchmarks) -> list[Column]:
    return [
        Column(
            f"MPJPE, {label(data)} (mm)", (Term(data, "motion_prediction", "mpjpe", weight=1.0),)
        )
        for data in benchmarks.motion
    ]


def _synergy(benchmarks: Benchmarks) -> list[Column]:
    """One column per task.  Occlusion is spatial, since the published 87.0 % is also in Table 4."""
    actions = benchmarks.actions
    return [
        *(_accuracy("recognition, ", data) for data in actions),
        *(_accuracy("retrieval, ", data, "retrieval", "knn_accuracy") for data in actions),
        *(_accuracy("occluded, ", data, occlusion__kind="spatial") for data in actions),
        *_detection(benchmarks, ["action"]),
        *_motion(benchmarks),
    ]


def _prompts(benchmarks: Benchmarks) -> list[Column]:
    """Detection is measured by mAP_v, since the published 61.3 % is PCM³'s mAP_v in Table 5."""
    return [*_linear(benchmarks), *_detection(benchmarks, ["video"])]


def _masking(benchmarks: Benchmarks) -> list[Column]:
    return [
        Column(
            f"{strategy}, {column.heading}", column.terms, {"views.mask_strategy": strategy}
        )
        for column in _linear(benchmarks)
        for strategy in ("topology", "random")
    ]  # fmt: skip


_NO_PROMPTS = {"method.domain_prompts": False, "method.task_prompts": False}
# The authors' program trains the bone and motion streams without prompts, without distillation and
# without the gradient from the contrastive loss into the decoder.
STREAM_SETTINGS = {
    "joint": NOTHING,
    "bone": (
        _BONE_AND_MOTION := {
            **_NO_PROMPTS,
            "method.kl_weight": 0.0,
            "method.contrast_guides_decoder": False,
        }
    ),
    "motion": _BONE_AND_MOTION,
}


def _ablation(name: str, positives: Sequence[str], kl: bool = False, masked: bool = True) -> Row:
    """A variant without prompts, with the marks of Table 8."""
    ordered = tuple(view for view in POSITIVES if view in positives)
    weight = NOTHING if kl else {"method.kl_weight": 0.0}
    marks = (*(view in positives for view in ("intra", "inter", "mask", "predict")), kl)
    return Row(
        name,
        {**_NO_PROMPTS, **weight, "method.positives": ordered, "method.masked_prediction": masked},
        marks=tuple("✓" if mark else "" for mark in marks),
    )


def _positives(*views: str, kl: bool) -> Row:
    return _ablation("+".join([*views, *["KL"] * kl]), views, kl)


def _prompt_row(name: str, domain: bool, task: bool, placement: str | None = None) -> Row:
    settings: dict[str, Any] = {"method.domain_prompts": domain, "method.task_prompts": task}
    if placement:
        settings["method.prompt_placement"] = placement
    words = (placement or "").replace("_", " ")
    return Row(name, settings, marks=("✓" if domain else "", "✓" if task else "", words))


_RANDOM = Row("random encoder", None)
_PCM3 = Row("PCM³")
_CMD = Row("CMD", method="cmd")
_MOCO = _ablation("MoCo-GRU", ["intra"], masked=False)
_METHODS = (_RANDOM, _MOCO, _CMD, _PCM3)

_XVIEW = Benchmarks(actions=(NTU60_XVIEW,), motion=(NTU60_XSUB,), detection=(PKU_VIDEOS,))

TABLES = {
    1: Table(
        "Action recognition, linear evaluation of one stream and of three",
        Benchmarks(actions=(NTU60_XSUB, NTU60_XVIEW, *NTU120, PKU)),
        (
            *_METHODS,
            Row("3s-CMD", method="cmd", fused=STREAM_SETTINGS),
            Row("3s-PCM³", fused=STREAM_SETTINGS),
        ),
        _linear,
    ),
    2: Table(
        "Semi-supervised action recognition",
        Benchmarks(actions=(NTU60_XVIEW, NTU60_XSUB)),
        _METHODS,
        _semi_supervised,
    ),
    3: Table(
        "Action retrieval",
        Benchmarks(actions=(NTU60_XSUB, NTU60_XVIEW, *NTU120)),
        _METHODS,
        _retrieval,
    ),
    4: Table(
        "Action recognition with occlusion",
        Benchmarks(actions=NTU60),
        _METHODS,
        _occlusion,
    ),
    5: Table(
        "Action detection at an overlap of 0.5",
        Benchmarks(detection=(PKU_VIDEOS,)),
        (_RANDOM, _CMD, _PCM3),
        _detection,
    ),
    6: Table(
        "Motion prediction",
        Benchmarks(motion=(NTU60_XSUB,)),
        (Row("zero velocity", None, metric="zero_velocity"), _RANDOM, _CMD, _PCM3),
        _motion,
    ),
    7: Table(
        "Synergy of contrast and masked prediction",
        _XVIEW,
        (
            _ablation("masked prediction", []),
            _ablation("contrast", ["intra", "inter"], masked=False),
            _ablation("multi-task", ["intra", "inter"]),
            _PCM3,
        ),
        _synergy,
    ),
    # Masked prediction is on in all rows, so the second row is "multi-task" of Table 7: both have
    # 87.5 %.  The ticks follow the text of §4.4.2: masked views add 1.1 points to the third row and
    # predicted views 1.5.
    8: Table(
        "Positive samples and distillation, without prompts",
        Benchmarks(actions=(NTU60_XVIEW,)),
        (
            _positives("intra", kl=False),
            _positives("intra", "inter", kl=False),
            _positives("intra", "inter", kl=True),
            _positives("intra", "predict", "inter", kl=True),
            _positives("intra", "mask", "inter", kl=True),
            _positives("intra", "mask", "predict", "inter", kl=True),
        ),
        _linear,
        marks=("s_intra", "s_inter", "s_mask", "s_predict", "L_KL"),
    ),
    # The published prompts are added before BatchNorm, which cancels all but one; the last two rows
    # add them after it.
    9: Table(
        "Prompts",
        Benchmarks(actions=(NTU60_XVIEW,), detection=(PKU_VIDEOS,)),
        (
            _prompt_row("no prompts", False, False),
            _prompt_row("domain prompts", True, False, "before_norm"),
            _prompt_row("both prompts", True, True, "before_norm"),
            _prompt_row("domain prompts after norm", True, False, "after_norm"),
            _prompt_row("both prompts after norm", True, True, "after_norm"),
        ),
        _prompts,
        marks=("domain", "task", "placement"),
    ),
    10: Table(
        "Masking ratio and strategy",
        Benchmarks(actions=(NTU60_XVIEW,)),
        tuple(
            Row(f"{ratio:.0%}".replace("%", " %"), {"views.mask_ratio": ratio})
            for ratio in (0.2, 0.4, 0.6, 0.8)
        ),
        _masking,
        marks=("mask ratio",),
    ),
}


def comparison(data: str, method: str, streams: Sequence[str]) -> Table:
    """Table 0: encoders of one data set compared with its raw coordinates.

    Args:
      data: name of the data set.
      method: name of the pretraining method.
      streams: streams of the encoders; if there are several, they are also fused.
    """

    def row(encoder: str, shown: str, **settings: Any) -> Row:
        return Row(f"{encoder}, {shown}", marks=(encoder, shown), **settings)

    rows = [row("raw coordinates", "joint", pretraining=None, task="baseline")]
    rows += [row("random encoder", stream, pretraining=None, stream=stream) for stream in streams]
    rows += [row("pretrained encoder", stream, method=method, stream=stream) for stream in streams]
    if len(streams) > 1:
        fused = dict.fromkeys(streams, NOTHING)
        rows.append(row("fused encoders", "+".join(streams), method=method, fused=fused))

    def columns(_: Benchmarks) -> list[Column]:
        return [
            Column("1-NN (%)", (Term(data, "retrieval", "knn_accuracy"),)),
            Column("linear (%)", (Term(data, "linear_eval", "top1"),)),
            Column("ridge (%)", (Term(data, "baseline", "ridge_accuracy"),)),
        ]

    title = f"Encoders compared on {data}"
    return Table(title, Benchmarks(), tuple(rows), columns, ("encoder", "stream"))


@functools.cache
def published(number: int) -> dict[str, dict[str, float]]:
    """The paper's figures: {row: {heading of the column: value}}.

    The file lists a row's values in the order of the table's columns on the paper's data sets.
    """
    if number not in TABLES:
        return {}
    rows = json.loads(Path(__file__).with_name("published.json").read_text())[str(number)]
    table = TABLES[number]
    headings = [column.heading for column in table.columns(table.benchmarks)]
    return {
        name: {
            heading: value
            for heading, value in zip(headings, values, strict=True)
            if value is not None
        }
        for name, values in rows.items()
    }


def benchmarks(table: Table, names: Sequence[str], scale: str) -> Benchmarks:
    """The data sets to measure a table on.

    Args:
      table: the table.
      names: the user's data sets; a kind of evaluation without one uses the scale's data set.
      scale: "paper" for the paper's benchmarks, "small" for the generated data.
    """
    chosen = table.benchmarks
    pretrained = NTU60_XSUB
    if scale == "small":
        chosen = Benchmarks((EMBEDDED,), (EMBEDDED,), (EMBEDDED_VIDEOS,))
        pretrained = EMBEDDED
    actions = tuple(name for name in names if UNTRIMMED not in name.rpartition(">")[2])
    videos = tuple(name for name in names if name not in actions)
    if actions:
        chosen = dataclasses.replace(chosen, actions=actions, motion=actions)
    if videos:
        # The encoder of a detector is pretrained on recordings of single actions.
        pretrained = (*actions, pretrained)[0].partition(">")[0]
        videos = tuple(name if ">" in name else f"{pretrained}>{name}" for name in videos)
        chosen = dataclasses.replace(chosen, detection=videos)
    return chosen
