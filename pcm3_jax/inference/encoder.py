"""What one trained encoder computes: features of sequences and reconstructions."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from pcm3_jax.data.normalization import normalization_of
from pcm3_jax.data.skeleton import flatten_frames
from pcm3_jax.errors import UserError
from pcm3_jax.inference.batching import InputViews
from pcm3_jax.inference.online import build_step
from pcm3_jax.inference.validation import Sequence
from pcm3_jax.inference.weights import Weights
from pcm3_jax.inference.whitening import Whitening
from pcm3_jax.methods.state import build_model
from pcm3_jax.models.pcm3 import PCM3

# Limit for encoding without resampling, where the features of all frames are in memory at once.
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


class TrainedEncoder:
    """One encoder with its own normalisation, stream and views.

    Attributes:
      config: of the run that trained it.
      variables: {"params": …, "batch_stats": …}, on the device.
      network, step: see `build_model` and `build_step`.
      views: of its input.
    """

    def __init__(self, weights: Weights) -> None:
        self.config = weights.config
        self.variables = jax.device_put({k: weights.tree[k] for k in ("params", "batch_stats")})
        whitening = weights.tree.get("whitening")
        self.whitening = None if whitening is None else Whitening(**whitening)
        self.network = build_model(weights.config)
        self.views = InputViews(weights.config.views, weights.config.data.max_frames)
        self.step = build_step(self.network)

    @property
    def normalization(self) -> Callable[[np.ndarray], np.ndarray]:
        """The normalisation of the data set that the encoder was trained on."""
        return normalization_of(self.config.data.name)

    def embed(self, sequences: list[Sequence]) -> np.ndarray:
        """Features (N, F) of the central crops of normalised sequences, as in evaluation."""
        views = self.views.central(sequences)
        encode = functools.partial(_encode, self.network, self.config.eval.pooling)
        features = [self._run(encode, poses, rows) for poses, _, rows in views]
        return self.finished(np.concatenate(features))

    def embed_as_they_are(self, sequences: list[Sequence]) -> np.ndarray:
        """Features (N, F) of all frames of normalised sequences, without resampling.

        Raises:
          UserError: a sequence is too long.
        """
        features = []
        for index, sequence in enumerate(sequences):
            length = len(sequence.poses)
            if length > MAX_FRAMES_AS_THEY_ARE:
                raise UserError(
                    f"Sequence {index} has {length:,} frames; without resampling at most "
                    f"{MAX_FRAMES_AS_THEY_ARE:,} fit; use resample=True or online() frame by frame."
                )
            # A backward GRU must not start in the padding, so only causal models pad.
            poses = self.views.as_they_are(sequence, pad=self.network.recurrence == "causal")
            with jax.default_matmul_precision("highest"):
                feature = _encode_prefix(
                    self.network, self.config.eval.pooling, self.variables, poses, np.int32(length)
                )
            features.append(np.asarray(feature))
        return self.finished(np.concatenate(features))

    def finished(self, features: np.ndarray) -> np.ndarray:
        """The network's features (…, F), whitened if the model has a whitening."""
        return features if self.whitening is None else self.whitening(features)

    def reconstruct(self, sequences: list[Sequence]) -> Reconstruction:
        """As `Model.reconstruct`, for normalised sequences."""
        if "decoder" not in self.variables["params"]:
            raise UserError("This model has no decoder, so it cannot predict masked joints.")
        parts = []
        for views, visible, rows in self.views.central(sequences):
            predicted = self._run(functools.partial(_reconstruct, self.network), views, rows)
            seen = np.asarray(visible)[:rows]
            parts.append((np.where(seen[..., None], np.asarray(views)[:rows], predicted), ~seen))
        return Reconstruction(*map(np.concatenate, zip(*parts, strict=True)))

    def _run(self, function: Any, views: jax.Array, rows: int) -> np.ndarray:
        # Full float32, also on devices that default to a lower precision for matmuls.
        with jax.default_matmul_precision("highest"):
            return np.asarray(function(self.variables, views))[:rows]


# The network is static: encoders of equal networks, such as those of three streams, share programs.
@functools.partial(jax.jit, static_argnums=(0, 1))
def _encode(network: PCM3, pooling: tuple[str, ...], variables: Any, poses: jax.Array) -> Any:
    return network.apply(variables, poses, pooling, method=PCM3.embed)


@functools.partial(jax.jit, static_argnums=0)
def _reconstruct(network: PCM3, variables: Any, poses: jax.Array) -> Any:
    return network.apply(variables, poses, method=PCM3.reconstruct)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _encode_prefix(
    network: PCM3, pooling: tuple[str, ...], variables: Any, poses: jax.Array, length: jax.Array
) -> Any:
    """The feature of the first ``length`` frames of padded sequences."""

    def encode(network: PCM3, poses: jax.Array) -> jax.Array:
        states = network.encoder(flatten_frames(poses)).astype(jnp.float32)
        # Only causal encoders' sequences are padded.
        counted = length if network.recurrence == "causal" else None
        return network.encoder.sequence_feature(states, pooling, counted)

    return network.apply(variables, poses, method=encode)
