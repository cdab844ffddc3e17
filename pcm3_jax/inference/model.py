"""A trained model for use from Python: features, labels, reconstructions, and online features.

import pcm3_jax

model = pcm3_jax.load("runs/demo")
features = model.embed(skeletons)  # (N, frames, persons, 25, 3) metres → (N, F)
"""

from __future__ import annotations

import copy
import dataclasses
import os
from collections.abc import Callable, Hashable, Iterator
from collections.abc import Sequence as Many
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from pcm3_jax.data.normalization import SPINE, no_normalization, normalization_of
from pcm3_jax.errors import UserError
from pcm3_jax.inference import model_file, recogniser
from pcm3_jax.inference.detection import Interval
from pcm3_jax.inference.encoder import Reconstruction, TrainedEncoder
from pcm3_jax.inference.online import OnlineEncoder, OnlineStream, OnlineWindow
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


def load(place: str | os.PathLike[str]) -> Model:
    """Loads a trained model.

    Args:
      place: the name of a model that comes with the package (`pcm3_jax.available`), or a path: the
        workdir of a pretraining run (its last checkpoint is used) or of a finished linear
        evaluation, finetuning, detection or motion prediction (its encoder and what the task
        trained), one checkpoint ``WORKDIR/checkpoints/STEP``, or a safetensors file from
        `pcm3_jax.convert` or `Model.save`.  Names go first; ``./base`` is a path.

    Raises:
      pcm3_jax.errors.UserError: ``place`` holds no model, or a damaged one.
    """
    return Model(model_file.load(place))


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
          skeletons: (N, T, M, 25, 3) or (T, M, 25, 3) with M = 1 or 2 persons, or a list of
            arrays (T, M, 25, 3) of any lengths; metres.
          mask: None, or booleans that broadcast to the skeletons without their last axis (for a
            list of skeletons also a list of masks), True where a joint is missing.  The network
            sees zeros there, and in every resampled frame that the joint would be interpolated
            to.
          layout: None for Kinect v2's joints, or the name of a layout in `data.joint_layouts`.
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
        """As `classify`, from features (N, F) of `embed` or an `OnlineEncoder`."""
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
        return self.with_classifier(fitted, window_of(skeletons))

    def with_classifier(self, fitted: recogniser.Recogniser, window: int) -> Model:
        """This model with a classifier of its features; online of the last ``window`` frames."""
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
        self, *, normalize: bool = True, window: int | None = None
    ) -> OnlineEncoder | OnlineWindow:
        """Starts a sequence whose frames arrive one by one, with a feature after each.

        The cost per frame is constant.  Without a window it is that of one frame, and all frames
        since the start count.  They are not cropped and resized as in `embed`, so a classifier that
        was trained on resized sequences sees motion at another speed.  With a window, its frames
        are encoded anew after each, as in `embed`, and what lies further back is forgotten.

        Args:
          normalize: whether to normalise frames as the run's data set was; False if they already
            are.  The reference for the rotation is the first frame (of the window) in which the
            first person's spine is seen.
          window: number of last frames to encode, at most ``config.data.max_frames``; 0 for all
            since the start.  By default that of the model: of a recogniser from `fit` the median
            length of its recordings, otherwise 0.

        Raises:
          UserError: the model's recurrence is bidirectional, and there is no window.
        """
        window = self._weights.window if window is None else window
        if window > 0:
            longest = min(e.config.data.max_frames for e in self.encoders.values())
            return OnlineWindow(
                lambda sequence: self._embed_window(sequence, normalize), min(window, longest)
            )
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
        return OnlineEncoder(streams, _joined)

    def _prepared(
        self,
        skeletons: Any,
        mask: Any,
        wanted: bool,
        keep_masked: bool = False,
        layout: str | None = None,
    ) -> Iterator[tuple[TrainedEncoder, list[Sequence]]]:
        """Each encoder with the checked sequences, normalised for it if ``wanted``."""
        sequences = read_sequences(skeletons, mask, keep_masked=keep_masked, layout=layout)
        return self._normalized(sequences, wanted)

    def _embed_window(self, sequence: Sequence, wanted: bool) -> np.ndarray | None:
        """The feature (F,) of checked frames; None if they cannot be normalised as ``wanted``."""
        if wanted and not sequence.poses[:, 0, SPINE].any():
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


def window_of(skeletons: Any) -> int:
    """Frames to classify online: the median length of N sequences as for `Model.embed`."""
    return int(np.median([len(skeleton) for skeleton in skeletons]))


def _joined(features: list[np.ndarray]) -> np.ndarray:
    """The model's features (…, F) of those of its encoders (…, 2H)."""
    if len(features) == 1:
        return features[0]
    return np.concatenate([of_unit_length(part) for part in features], axis=-1)
