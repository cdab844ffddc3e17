"""A trained model for use from Python: features, labels, reconstructions, and online features.

import pcm3_jax

model = pcm3_jax.load("runs/demo")
features = model.embed(skeletons)  # (N, frames, persons, 25, 3) metres → (N, 2H)
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from pcm3_jax.data.normalization import no_normalization, normalization_of
from pcm3_jax.data.skeleton import flatten_frames
from pcm3_jax.errors import UserError
from pcm3_jax.inference import model_file
from pcm3_jax.inference.batching import InputViews
from pcm3_jax.inference.detection import Interval
from pcm3_jax.inference.online import OnlineEncoder, build_step
from pcm3_jax.inference.validation import Sequence, normalize, read_sequences
from pcm3_jax.inference.weights import HEADS, Weights
from pcm3_jax.methods.state import build_model
from pcm3_jax.models.pcm3 import PCM3
from pcm3_jax.settings import Config

# Limit for ``resample=False``, where the features of all frames are in memory at once.
MAX_FRAMES_AS_THEY_ARE = 16_384


class Reconstruction(NamedTuple):
    """Result of `Model.reconstruct`.

    Attributes:
      skeletons: (N, T, 2, 25, 3) float32 metres: visible joints from the input, masked joints
        from the prediction.
      mask: (N, T, 2, 25) booleans, True where a joint was predicted.
    """

    skeletons: np.ndarray
    mask: np.ndarray


def load(path: str | os.PathLike[str]) -> Model:
    """Loads a trained model.

    Args:
      path: the workdir of a pretraining run (its last checkpoint is used) or of a finished linear
        evaluation, finetuning, detection or motion prediction (its encoder and what the task
        trained), one checkpoint ``WORKDIR/checkpoints/STEP``, or a safetensors file from
        `pcm3_jax.convert`.

    Raises:
      pcm3_jax.errors.UserError: ``path`` holds no model, or a damaged one.
    """
    return Model(model_file.load(Path(path)))


class Model:
    """A trained model.

    Skeletons are metres with 25 joints in Kinect v2's order.  All methods raise
    `pcm3_jax.errors.UserError`, with a one-sentence message, for arrays that they cannot use: those
    of a wrong shape or type, without frames, with coordinates that are not finite or beyond 100
    metres, or without any visible joint.

    Attributes:
      config: of the run that trained the encoder; with a classifier, ``data`` and ``views`` are
        those that it was trained with.
      classes: names of the labels that `classify` or `detect` gives; empty without such a head.
      heads: what the model has besides its encoder: "classifier", "detector" or "forecaster".
    """

    def __init__(self, weights: Weights) -> None:
        self.config: Config = weights.config
        self.classes: tuple[str, ...] = weights.classes
        self._classifier = weights.tree.get("classifier")
        self._heads = {
            head: HEADS[head](weights.config, weights.tree, weights.classes, settings)
            for head, settings in weights.heads.items()
        }
        self.heads = (*(["classifier"] if self._classifier else []), *self._heads)
        self._variables = jax.device_put({k: weights.tree[k] for k in ("params", "batch_stats")})
        self._network = build_model(weights.config)
        self._views = InputViews(weights.config.views, weights.config.data.max_frames)
        self._encode = jax.jit(lambda v, poses: self._network.apply(v, poses, method=PCM3.embed))
        self._encode_prefix = jax.jit(self._feature_after)
        self._predict = jax.jit(
            lambda v, poses: self._network.apply(v, poses, method=PCM3.reconstruct)
        )
        self._step = build_step(self._network)

    @property
    def features(self) -> int:
        """2H, the length of a sequence's feature."""
        return 2 * self.config.model.hidden

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
          (N, 2H) float32.
        """
        sequences = self._prepare(skeletons, mask, normalize, layout=layout)
        if not resample:
            return self._embed_as_they_are(sequences)
        views = self._views.central(sequences)
        return np.concatenate([self._run(self._encode, poses, rows) for poses, _, rows in views])

    def classify(
        self,
        skeletons: Any,
        k: int = 5,
        mask: Any = None,
        *,
        layout: str | None = None,
        normalize: bool = True,
    ) -> list[list[tuple[str, float]]]:
        """The most probable labels of sequences, of a linear evaluation or a finetuned model.

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
        """As `classify`, from features (N, 2H) of `embed` or an `OnlineEncoder`."""
        if self._classifier is None:
            raise UserError(
                "This model has no classifier: load the workdir of a linear evaluation "
                "(config.task='linear_eval') of it, or of finetuning (config.task='finetune')."
            )
        if k < 1:
            raise UserError(f"k is {k}; it must be at least 1.")
        scores = features @ self._classifier["kernel"] + self._classifier["bias"]
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
        detector = self._head("detector")
        return detector(self._prepare(skeletons, mask, normalize, layout=layout))

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
        forecaster = self._head("forecaster")
        return forecaster(self._prepare(skeletons, mask, normalize, layout=layout))

    def _head(self, name: str) -> Any:
        if name not in self._heads:
            raise UserError(
                f"This model has no {name}: load the workdir of a finished run with "
                f"config.task={HEADS[name].task!r}."
            )
        return self._heads[name]

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
        if "decoder" not in self._variables["params"]:
            raise UserError("This model has no decoder, so it cannot predict masked joints.")
        parts = []
        sequences = self._prepare(skeletons, mask, normalize, keep_masked=True)
        for views, visible, rows in self._views.central(sequences):
            predicted = self._run(self._predict, views, rows)
            seen = np.asarray(visible)[:rows]
            parts.append((np.where(seen[..., None], np.asarray(views)[:rows], predicted), ~seen))
        return Reconstruction(*map(np.concatenate, zip(*parts, strict=True)))

    def online(self, *, normalize: bool = True) -> OnlineEncoder:
        """Starts a sequence whose frames arrive one by one, with a feature after each.

        The cost per frame is constant.  Frames are not cropped and resized as in `embed`, so a
        classifier that was trained on resized sequences sees motion at another speed.

        Args:
          normalize: whether to normalise frames as the run's data set was; False if they already
            are.  The reference for the rotation is the first frame in which the first person's
            spine is seen.

        Raises:
          UserError: the model's recurrence is bidirectional.
        """
        normalization = normalization_of(self.config.data.name) if normalize else None
        return OnlineEncoder(self._step, self._variables, self.config, normalization)

    def _prepare(
        self,
        skeletons: Any,
        mask: Any,
        wanted: bool,
        keep_masked: bool = False,
        layout: str | None = None,
    ) -> list[Sequence]:
        sequences = read_sequences(skeletons, mask, keep_masked=keep_masked, layout=layout)
        normalization = normalization_of(self.config.data.name) if wanted else no_normalization
        return [normalize(s, normalization, f"Sequence {i}") for i, s in enumerate(sequences)]

    def _embed_as_they_are(self, sequences: list[Sequence]) -> np.ndarray:
        features = []
        for index, sequence in enumerate(sequences):
            length = len(sequence.poses)
            if length > MAX_FRAMES_AS_THEY_ARE:
                raise UserError(
                    f"Sequence {index} has {length:,} frames; without resampling at most "
                    f"{MAX_FRAMES_AS_THEY_ARE:,} fit; use resample=True or online() frame by frame."
                )
            # A backward GRU must not start in the padding, so only causal models pad.
            poses = self._views.as_they_are(sequence, pad=self._network.recurrence == "causal")
            with jax.default_matmul_precision("highest"):
                feature = self._encode_prefix(self._variables, poses, np.int32(length - 1))
            features.append(np.asarray(feature))
        return np.concatenate(features)

    def _feature_after(self, variables: Any, poses: jax.Array, last: jax.Array) -> jax.Array:
        def encode(network: PCM3, poses: jax.Array) -> jax.Array:
            states = network.encoder(flatten_frames(poses))
            if network.recurrence == "causal":
                return states[last]
            return network.encoder.sequence_feature(states)

        feature: Any = self._network.apply(variables, poses, method=encode)
        return feature.astype(jnp.float32)

    def _run(self, function: Any, views: jax.Array, rows: int) -> np.ndarray:
        # Full float32, also on devices that default to a lower precision for matmuls.
        with jax.default_matmul_precision("highest"):
            return np.asarray(function(self._variables, views))[:rows]
