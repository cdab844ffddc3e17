"""A trained model for use from Python: features, labels, reconstructions, and online features.

import pcm3_jax

model = pcm3_jax.load("runs/demo")
features = model.embed(skeletons)  # (N, frames, persons, 25, 3) metres → (N, F)
"""

from __future__ import annotations

import copy
import dataclasses
import functools
import os
from collections.abc import Callable, Hashable, Iterator
from collections.abc import Sequence as Many
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from pcm3_jax.data.normalization import (
    SPINE,
    is_centred,
    leading_persons,
    no_normalization,
    normalization_of,
)
from pcm3_jax.data.recordings import window_of
from pcm3_jax.errors import UserError
from pcm3_jax.inference import model_file, recogniser
from pcm3_jax.inference.detection import Interval
from pcm3_jax.inference.encoder import Reconstruction, TrainedEncoder
from pcm3_jax.inference.online import Online, OnlineEncoder, OnlineStream, OnlineWindow
from pcm3_jax.inference.validation import Sequence, normalize, read_sequences
from pcm3_jax.inference.weights import HEADS, ModelWeights
from pcm3_jax.inference.whitening import of_unit_length
from pcm3_jax.settings import Config


class Neighbors(NamedTuple):
    """Result of `Model.search`, the most similar first.

    Attributes:
      indices: (N, k), of recordings of the gallery.
      similarities: (N, k), cosines of their features.
    """

    indices: np.ndarray
    similarities: np.ndarray


def load(place: str | os.PathLike[str], persons: int | None = None) -> Model:
    """Loads a trained model.

    Args:
      place: the name of a model that comes with the package (`pcm3_jax.available`), or a path: the
        workdir of a pretraining run (its last checkpoint is used) or of a finished linear
        evaluation, finetuning, detection or motion prediction (its encoder and what the task
        trained), one checkpoint ``WORKDIR/checkpoints/STEP``, or a safetensors file from
        `pcm3_jax.convert` or `Model.save`.  Names go first; ``./base`` is a path.
      persons: how many persons of a recording count, 1 or 2: those who move most.  By default as
        many as the model was trained on.

    Raises:
      pcm3_jax.errors.UserError: ``place`` holds no model, or a damaged one.
    """
    if persons not in (None, 1, 2):
        raise UserError(f"persons is {persons}; it must be 1 or 2.")
    weights = model_file.load(place)
    return Model(dataclasses.replace(weights, persons=persons) if persons else weights)


class Model:
    """A trained model: one encoder, or several whose features are joined.

    The feature of one encoder has length F = 2H.  Several encoders, usually of the streams joint,
    bone and motion, see the same skeletons; each one's feature is divided by its L2 norm, and all
    are concatenated, F = the sum of 2H.

    Skeletons are metres with 25 joints in Kinect v2's order.  All methods raise
    `pcm3_jax.errors.UserError`, with a one-sentence message, for arrays that they cannot use: those
    of a wrong shape or type, without frames, with coordinates that are not finite or beyond 100
    metres, or without any visible joint.

    Attributes:
      encoders: by name, in the order of their features.
    """

    def __init__(self, weights: ModelWeights) -> None:
        self._weights = weights
        self.encoders = {name: TrainedEncoder(part) for name, part in weights.encoders.items()}
        self._heads = {
            name: HEADS[name](
                weights.only.config, weights.only.tree | weights.heads, weights.classes, settings
            )
            for name, settings in weights.head_settings.items()
        }

    @property
    def config(self) -> Config:
        """Of the run that trained the (first) encoder; with a head that a task trained, ``data``
        and ``views`` are those of its training."""
        return next(iter(self.encoders.values())).config

    @property
    def heads(self) -> tuple[str, ...]:
        """What the model has besides encoders, of "classifier", "detector" and "forecaster"."""
        return tuple(self._weights.heads)

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the labels that `classify` or `detect` gives; empty without such a head."""
        return self._weights.classes

    @property
    def threshold(self) -> float:
        """Probability below which the most probable label counts as none; 0 if not estimated."""
        return self._weights.threshold

    @property
    def window(self) -> int:
        """Frames that `online` classifies by default (`window_of`); 0 if unknown."""
        return self._weights.window

    @property
    def persons(self) -> int:
        """How many persons count, by default as it was trained, 1 or 2: those who move most."""
        return self._weights.trained_persons

    @property
    def provenance(self) -> dict[str, Any]:
        """How each part of the model was made, by its name, as far as it is known."""
        return self._weights.provenance

    @property
    def features(self) -> int:
        """F, the length of a sequence's feature."""
        return self._weights.features

    def check_normalized(self, data: str) -> None:
        """Raises UserError if a data set is stored otherwise than the encoders' training data."""
        for name, encoder in self.encoders.items():
            if normalization_of(data) is not encoder.normalization:
                raise UserError(
                    f"{data} is not normalised as {encoder.config.data.name}, which the encoder "
                    f"{name!r} was trained on: use data that is."
                )

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes the model to one safetensors file, which `load` reads.

        Raises:
          UserError: the file cannot be written.
        """
        model_file.save(Path(path), self._weights)

    def embed(
        self,
        skeletons: Any,
        mask: Any = None,
        *,
        layout: str | None = None,
        normalize: bool = True,
        resample: bool = True,
    ) -> np.ndarray:
        """Features of whole sequences.

        Args:
          skeletons: (N, T, M, 25, 3), (T, M, 25, 3) or (T, 25, 3), or a list of arrays of any
            lengths; metres.  Of more persons than the model was trained on (`persons`), those who
            move most are kept.
          mask: None, or booleans that broadcast to the skeletons without their last axis (for a
            list of skeletons also a list of masks), True where a joint is missing.  The network
            sees zeros there, and in every resampled frame that the joint would be interpolated
            to.
          layout: None for Kinect v2's joints, or as for `data.joint_layouts.layout_named`.
            Skeletons and mask then have its J joints instead of 25.  Joints of Kinect v2 that the
            layout lacks count as missing, and so do joints that are NaN.
          normalize: whether to normalise the skeletons as the run's data set was; False if they
            already are.
          resample: whether to take the central crop of the first ``config.data.max_frames``
            frames, resized to ``config.views.frames``, as in evaluation.  False encodes the
            frames as they are, at most 16,384.

        Returns:
          (N, F) float32.
        """
        features = [
            encoder.embed(sequences) if resample else encoder.embed_as_they_are(sequences)
            for encoder, sequences in self._prepared(skeletons, mask, normalize, layout=layout)
        ]
        return _joined(features)

    def classify(
        self,
        skeletons: Any,
        k: int = 5,
        mask: Any = None,
        *,
        layout: str | None = None,
        normalize: bool = True,
    ) -> list[list[tuple[str, float]]]:
        """The most probable labels of sequences, under the model's classifier.

        Args:
          skeletons, mask, layout, normalize: as for `embed`.
          k: number of labels; if the classifier has fewer, all of them.

        Returns:
          For each sequence k pairs (label, probability), the most probable first.

        Raises:
          UserError: also if the model has no classifier.
        """
        return self.labels(self.embed(skeletons, mask, layout=layout, normalize=normalize), k)

    def labels(self, features: np.ndarray, k: int = 5) -> list[list[tuple[str, float]]]:
        """As `classify`, from features (N, F) of `embed` or of `Online`."""
        classifier = self._weights.heads.get("classifier")
        if classifier is None:
            raise UserError(
                "This model has no classifier: fit one (`Model.fit`, `python -m "
                "pcm3_jax.fit`), or load the workdir of a linear evaluation "
                "(config.task='linear_eval') or of finetuning (config.task='finetune')."
            )
        if k < 1:
            raise UserError(f"k is {k}; it must be at least 1.")
        scores = features @ classifier["kernel"] + classifier["bias"]
        odds = np.exp(scores - scores.max(axis=1, keepdims=True))
        shares = odds / odds.sum(axis=1, keepdims=True)
        best = np.argsort(-shares, axis=1, kind="stable")[:, :k]
        return [
            [(self.classes[i], float(share[i])) for i in row]
            for row, share in zip(best, shares, strict=True)
        ]

    def detect(
        self,
        skeletons: Any,
        mask: Any = None,
        *,
        layout: str | None = None,
        normalize: bool = True,
    ) -> list[list[Interval]]:
        """The actions in untrimmed videos, found as the task "detection" evaluates them.

        Each frame is classified from a window of the video's own frames; its frame rate should be
        that of the training data.

        Args:
          skeletons, mask, layout, normalize: as for `embed`.

        Returns:
          For each video its intervals (label, start, stop, score) in temporal order, in frames;
          none if every frame is background.

        Raises:
          UserError: also if the model has no detector, or a video is shorter than its window.
        """
        return self._of_head("detector", skeletons, mask, normalize, layout)

    def forecast(
        self,
        skeletons: Any,
        mask: Any = None,
        *,
        layout: str | None = None,
        normalize: bool = True,
    ) -> np.ndarray:
        """The poses that follow recordings, predicted from their last frames.

        Args:
          skeletons, mask, layout, normalize: as for `embed`.

        Returns:
          (N, future, 2, 25, 3) float32 metres, in the coordinates to which the model's data set is
          normalised, not those of the recording: usually centred on the first person's spine in
          every frame, and rotated as the first frame requires.  A person who is absent in the last
          frame is zeros.

        Raises:
          UserError: also if the model has no forecaster, or a recording has fewer frames than it
            observes.
        """
        return self._of_head("forecaster", skeletons, mask, normalize, layout)

    def _of_head(
        self, name: str, skeletons: Any, mask: Any, normalize: bool, layout: str | None
    ) -> Any:
        """What a head of `HEADS` finds in sequences."""
        if name not in self._heads:
            raise UserError(
                f"This model has no {name}: load the workdir of a finished run with "
                f"config.task={HEADS[name].task!r}."
            )
        ((_, sequences),) = self._prepared(skeletons, mask, normalize, layout=layout)
        return self._heads[name](sequences)

    def reconstruct(self, skeletons: Any, mask: Any, *, normalize: bool = True) -> Reconstruction:
        """Predicts masked joints (§3.2), with running statistics and without prompts.

        Args:
          skeletons, normalize: as for `embed`.
          mask: as for `embed`, True where a joint is to be predicted.  Coordinates of masked joints
            that are finite and not zero are used for normalisation, then hidden from the network.

        Returns:
          Normalised skeletons of the stream that the model was trained on (joints, bones or
          motion), and the mask, both cropped and resized as in `embed`.

        Raises:
          UserError: also if the model has no decoder.
        """
        if len(self.encoders) > 1:
            raise UserError("This model has several encoders, and so no decoder of masked joints.")
        ((encoder, sequences),) = self._prepared(skeletons, mask, normalize, keep_masked=True)
        return encoder.reconstruct(sequences)

    def fit(
        self,
        skeletons: Any,
        labels: Many[Any],
        performers: Many[Hashable] | None = None,
        mask: Any = None,
        *,
        layout: str | None = None,
        normalize: bool = True,
    ) -> Model:
        """A recogniser of actions from a few labelled recordings; the encoders stay as they are.

        Logistic regression, whose strength is chosen on held-out performers where they are given,
        otherwise on held-out recordings; see `inference.recogniser`.

        Args:
          skeletons, mask, layout, normalize: N sequences, as for `embed`.
          labels: N names of actions, two or more different ones.
          performers: N names or numbers of who moves; None if unknown.

        Returns:
          This model with the classifier, its `classes` and `threshold`; what the validation found
          is in ``provenance["classifier"]``.

        Raises:
          UserError: also if there are fewer than two labels, or one recording of each.
        """
        features = self.embed(skeletons, mask, layout=layout, normalize=normalize)
        fitted = recogniser.fit(features, labels, performers)
        sequences = read_sequences(skeletons, mask, persons=self.persons, layout=layout)
        return self.with_classifier(
            fitted,
            window=window_of([len(sequence.poses) for sequence in sequences]),
            persons=2 if any(sequence.poses[:, 1].any() for sequence in sequences) else 1,
        )

    def with_classifier(self, fitted: recogniser.Recogniser, window: int, persons: int) -> Model:
        """This model with a classifier of its features.

        Args:
          fitted: the classifier.
          window: frames to classify online.
          persons: 1 or 2, in these recordings.
        """
        made = {
            "recordings": len(fitted.labels),
            "classes": len(fitted.classes),
            "strength": fitted.strength,
            "held_out": "performers" if fitted.by_performer else "recordings",
            "held_out_accuracy": fitted.accuracy,
        }
        # A shallow copy shares the compiled encoders.
        model = copy.copy(self)
        model._heads = {}
        model._weights = dataclasses.replace(
            self._weights,
            heads={"classifier": {"kernel": fitted.kernel, "bias": fitted.bias}},
            head_settings={},
            classes=fitted.classes,
            threshold=fitted.threshold,
            window=window,
            persons=persons,
            provenance=self.provenance | {"classifier": made},
        )
        return model

    def search(
        self,
        query: Any,
        gallery: Any,
        k: int = 5,
        *,
        layout: str | None = None,
        normalize: bool = True,
    ) -> Neighbors:
        """The most similar recordings of a gallery, by the cosine of their features.

        Args:
          query, gallery: sequences as for `embed`, or features (N, F) of `embed`, which saves
            encoding a gallery again.
          k: number of recordings; if the gallery has fewer, all of them.
          layout, normalize: of sequences, as for `embed`.
        """
        if k < 1:
            raise UserError(f"k is {k}; it must be at least 1.")
        queries, others = (
            part
            if isinstance(part, np.ndarray) and part.ndim == 2 and part.shape[1] == self.features
            else self.embed(part, layout=layout, normalize=normalize)
            for part in (query, gallery)
        )
        cosines = of_unit_length(queries) @ of_unit_length(others).T
        nearest = np.argsort(-cosines, axis=1, kind="stable")[:, :k]
        return Neighbors(nearest, np.take_along_axis(cosines, nearest, axis=1))

    def online(
        self,
        *,
        window: float | None = None,
        rate: float = 30.0,
        every: int = 5,
        hold: int = 2,
        threshold: float | None = None,
        layout: str | None = None,
        normalize: bool = True,
    ) -> Online:
        """Starts a recording whose frames arrive one by one.

        Its last seconds, the window, are encoded every few frames as `embed` encodes a recording.
        What lies further back is forgotten.

        An encoder that was trained on the pace of recordings (``views.resize=False``, causal)
        encodes each frame once instead, with all frames since the start in its state.  Others see
        motion at another speed then, since they were trained on resized recordings; ``window=0``
        asks for it nevertheless.

        Args:
          window: seconds to encode, at most ``config.data.max_frames`` frames.  By default the
            length that nine in ten of the classifier's training recordings do not exceed, or
            without a classifier, all since the start up to that maximum.
          rate: frames per second.
          every: number of frames from one feature of a window to the next; of work without a
            window, one.
          hold: a label is shown once it has been the most probable in so many features in a row.
          threshold: a label is not shown below this probability; by default the model's.
          layout: None for Kinect v2's joints, or the name of a layout in `data.joint_layouts`.
          normalize: whether to normalise frames as the run's data set was; False if they already
            are.  The reference for the rotation is the first frame (of the window) in which the
            first person's spine is seen.

        Raises:
          UserError: a number is out of its range, or there is no window and the model is
            bidirectional.

        Example:
          online = model.online(rate=30)
          for frame in camera:  # (persons, 25, 3) metres
              online.push(frame)
              print(online.label)
        """
        for name, value, low in (("rate", rate, 1e-3), ("every", every, 1), ("hold", hold, 1)):
            if not value >= low:
                raise UserError(f"{name} is {value}; it must be at least {low}.")
        if window is not None and not window >= 0:
            raise UserError(f"window is {window} seconds; it must be 0 or more.")
        labelling = (
            self._all_labels,
            self.threshold if threshold is None else threshold,
            hold,
            layout,
        )
        frames = self._window_frames(window, rate)
        if frames:
            embed = functools.partial(self._embed_window, wanted=normalize)
            return OnlineWindow(embed, frames, every, *labelling)
        streams = [
            OnlineStream(
                encoder.step,
                encoder.variables,
                encoder.config,
                encoder.finished,
                encoder.normalization if normalize else None,
            )
            for encoder in self.encoders.values()
        ]
        return OnlineEncoder(streams, _joined, self.persons, *labelling)

    def _window_frames(self, seconds: float | None, rate: float) -> int:
        """Frames of the window of `online`; 0 for none."""
        configs = [encoder.config for encoder in self.encoders.values()]
        longest = min(config.data.max_frames for config in configs)
        if seconds is not None:
            return min(round(seconds * rate), longest) if seconds else 0
        native = [c.model.recurrence == "causal" and not c.views.resize for c in configs]
        return 0 if all(native) else min(self._weights.window or longest, longest)

    def _all_labels(self, feature: np.ndarray) -> list[tuple[str, float]]:
        """`labels` of one feature (F,); empty without a classifier."""
        if "classifier" not in self._weights.heads:
            return []
        return self.labels(feature[None], len(self.classes))[0]

    def _prepared(
        self,
        skeletons: Any,
        mask: Any,
        wanted: bool,
        keep_masked: bool = False,
        layout: str | None = None,
    ) -> Iterator[tuple[TrainedEncoder, list[Sequence]]]:
        """Each encoder with the checked sequences, normalised for it if ``wanted``."""
        sequences = read_sequences(
            skeletons, mask, persons=self.persons, keep_masked=keep_masked, layout=layout
        )
        return self._normalized(sequences, wanted)

    def _embed_window(
        self, poses: np.ndarray, visible: np.ndarray, wanted: bool
    ) -> np.ndarray | None:
        """The feature (F,) of checked frames (T, M, 25, 3); None if nobody can be normalised."""
        sequence = Sequence(*leading_persons(poses, visible, self.persons))
        first = sequence.poses[:, 0]
        if not first.any() or wanted and not (first[:, SPINE].any() or is_centred(first).any()):
            return None
        parts = self._normalized([sequence], wanted)
        return _joined([encoder.embed(sequences) for encoder, sequences in parts])[0]

    def _normalized(
        self, sequences: list[Sequence], wanted: bool
    ) -> Iterator[tuple[TrainedEncoder, list[Sequence]]]:
        normalized: dict[Callable, list[Sequence]] = {}
        for encoder in self.encoders.values():
            how = encoder.normalization if wanted else no_normalization
            if how not in normalized:
                normalized[how] = [
                    normalize(s, how, f"Sequence {i}") for i, s in enumerate(sequences)
                ]
            yield encoder, normalized[how]


def _joined(features: list[np.ndarray]) -> np.ndarray:
    """The model's features (…, F) of those of its encoders (…, 2H)."""
    if len(features) == 1:
        return features[0]
    return np.concatenate([of_unit_length(part) for part in features], axis=-1)
