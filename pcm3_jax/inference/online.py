"""Frame-by-frame encoding with causal models, whose directions all run forward."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from pcm3_jax.data.normalization import SPINE
from pcm3_jax.data.skeleton import (
    PERSONS,
    STREAMS,
    Array,
    flatten_frames,
    missing_joints,
    visible_in_stream,
)
from pcm3_jax.errors import UserError
from pcm3_jax.inference.validation import Sequence, read_sequence
from pcm3_jax.models.encoder import join_poolings
from pcm3_jax.models.pcm3 import PCM3
from pcm3_jax.settings import Config

# (variables, state (L, 2, H), pose (2, 25, 3)) → the state and the feature (2H,) after it.
Step = Callable[[Any, jax.Array, Array], tuple[jax.Array, jax.Array]]
# Features (2H,) of several encoders → the model's feature (F,).
Join = Callable[[list[np.ndarray]], np.ndarray]


@functools.cache
def build_step(model: PCM3) -> Step:
    """The jitted recurrence of one frame, shared by all encoders of equal networks."""

    @jax.jit
    def step(variables: Any, state: jax.Array, pose: jax.Array) -> tuple[jax.Array, jax.Array]:
        normalised: Any = model.apply(
            variables, flatten_frames(pose), method=lambda m, x: m.encoder.input_norm(x)
        )
        layers = variables["params"]["encoder"]["gru"]
        inputs, states = normalised.astype(model.dtype), []
        for index in range(model.layers):
            states.append(_cell(layers[f"layer_{index}"], state[index], inputs, model.dtype))
            inputs = states[-1].reshape(-1).astype(model.dtype)
        return jnp.stack(states), inputs.astype(jnp.float32)

    return step


def _cell(params: Any, state: jax.Array, inputs: jax.Array, dtype: jnp.dtype) -> jax.Array:
    """PyTorch's GRU cell for the directions (D, H) of one layer; ``inputs`` (F,)."""

    def product(x: jax.Array, kernel: jax.Array) -> jax.Array:
        # One vector per direction, even if both are equal: with a shared vector, XLA on CPU
        # transposes the kernel first, which takes seven times as long.
        return jnp.einsum(
            "df,dfk->dk", x.astype(dtype), kernel.astype(dtype),
            preferred_element_type=jnp.float32,
        )  # fmt: skip

    both = jnp.broadcast_to(inputs, (2, *inputs.shape))
    x = product(both, params["input_kernel"]) + params["input_bias"]
    h = product(state, params["recurrent_kernel"]) + params["recurrent_bias"]
    x_r, x_z, x_n = jnp.split(x, 3, axis=-1)
    h_r, h_z, h_n = jnp.split(h, 3, axis=-1)
    r, z = nn.sigmoid(x_r + h_r), nn.sigmoid(x_z + h_z)
    n = jnp.tanh(x_n + r * h_n)
    return n + z * (state - n)


class OnlineEncoder:
    """Encodes a sequence whose frames arrive one by one; created by `Model.online`.

    Memory and time per frame do not depend on the length of the sequence.

    Attributes:
      frames: number of frames pushed.
    """

    def __init__(self, streams: list[OnlineStream], join: Join) -> None:
        """Joins the features of several encoders' streams by ``join``."""
        self._streams, self._join = streams, join
        self.reset()

    def reset(self) -> None:
        """Forgets all frames, to start another sequence."""
        self.frames = 0
        for stream in self._streams:
            stream.reset()

    def push(self, frame: np.ndarray, mask: np.ndarray | None = None) -> np.ndarray | None:
        """Takes the next frame.

        Args:
          frame: (M, 25, 3) with M = 1 or 2, metres; all zeros if nobody is seen.
          mask: None, or booleans that broadcast to (M, 25), True where a joint is missing.
            Joints that are zero are missing, too.

        Returns:
          (F,) float32, equal to ``model.embed(frames, normalize=False, resample=False)`` on all
          normalised frames so far.  With normalisation, None until the first person's spine is
          seen.

        Raises:
          UserError: the frame has another shape or type, or an invalid coordinate.
        """
        frame = np.asarray(frame)
        what = f"Frame {self.frames}"
        if frame.ndim != 3:
            raise UserError(f"{what} has shape {frame.shape}; it must be (persons, 25, 3).")
        mask = None if mask is None else np.asarray(mask)
        now = read_sequence(frame[None], what, mask, may_be_empty=True)
        self.frames += 1
        features = [stream.push(now) for stream in self._streams]
        known = [feature for feature in features if feature is not None]
        return self._join(known) if len(known) == len(features) else None


class OnlineStream:
    """One encoder's state in an `OnlineEncoder`."""

    def __init__(
        self,
        step: Step,
        variables: Any,
        config: Config,
        finish: Callable[[np.ndarray], np.ndarray],
        normalization: Callable[[np.ndarray], np.ndarray] | None = None,
    ) -> None:
        """Applies ``finish`` to every feature (F,).

        Raises:
          UserError: the encoder is bidirectional.
        """
        if config.model.recurrence != "causal":
            raise UserError(
                "The model's config.model.recurrence is 'bidirectional', which reads sequences "
                "from their end; only a 'causal' model can take frames as they arrive."
            )
        self._step, self._variables, self._stream = step, variables, config.views.stream
        self._pooling, self._features = config.eval.pooling, 2 * config.model.hidden
        self._finish, self._normalization = finish, normalization
        # On the device like all later states: otherwise the first frame compiles separately.
        self._start = jnp.zeros((config.model.layers, 2, config.model.hidden))
        self.reset()

    def reset(self) -> None:
        self._normalize = OnlineNormalization(self._normalization) if self._normalization else None
        self._state = self._start
        self._last: Sequence | None = None
        # Over the features of all frames so far.
        self._count = 0
        self._sum = np.zeros(self._features, np.float32)
        self._max = np.full(self._features, -np.inf, np.float32)

    def push(self, now: Sequence) -> np.ndarray | None:
        """The feature (2H,) after one more frame; None until the first spine is seen."""
        if self._normalize is not None:
            pose = self._normalize(now.poses[0])
            if pose is None:
                return None
            now = now._replace(poses=pose[None].astype(np.float32))
        now = now._replace(visible=now.visible & ~missing_joints(now.poses))
        last, self._last = self._last, now
        with jax.default_matmul_precision("highest"):
            if self._stream != "motion":
                seen = visible_in_stream(now.visible, self._stream)
                poses = np.asarray(STREAMS[self._stream](now.poses))
                self._state, feature = self._advance(poses * seen[..., None])
                self._keep(feature)
                return self._pooled(feature)
            # Motion is the displacement to the next frame.  The previous frame's motion is known
            # now and updates the state.  This frame's is taken as zero, as in the last frame of a
            # sequence: it gives the feature, but the state is not kept.
            if last is not None:
                both = last.visible & now.visible
                self._state, feature = self._advance((now.poses - last.poses) * both[..., None])
                self._keep(feature)
            return self._pooled(self._advance(np.zeros_like(now.poses))[1], more=1)

    def _keep(self, feature: np.ndarray) -> None:
        """Counts a frame's feature (2H,) in the poolings over time."""
        self._count += 1
        self._sum, self._max = self._sum + feature, np.maximum(self._max, feature)

    def _pooled(self, feature: np.ndarray, more: int = 0) -> np.ndarray:
        """The sequence's feature (F,); with ``more``, the frame's own is not yet counted."""
        pools: dict[str, Any] = {
            "last": feature,
            "mean": (self._sum + more * feature) / (self._count + more),
            "max": np.maximum(self._max, feature),
        }
        pooled = join_poolings([pools[name] for name in self._pooling])
        return self._finish(np.asarray(pooled))

    def _advance(self, poses: np.ndarray) -> tuple[jax.Array, np.ndarray]:
        state, feature = self._step(self._variables, self._state, poses[0])
        return state, np.asarray(feature)


class OnlineNormalization:
    """Normalises frames as they arrive; `inference.validation` does so for whole sequences.

    The rotation is that of the first frame in which the first person's spine is seen.  Frames are
    centred on that joint, or on its last known position.  Unlike in a whole sequence, absent
    persons are not filled in from other frames.
    """

    def __init__(self, normalization: Callable[[np.ndarray], np.ndarray]) -> None:
        self._normalization = normalization
        self._first: np.ndarray | None = None
        self._spine: np.ndarray | None = None

    def __call__(self, frame: np.ndarray) -> np.ndarray | None:
        """Normalises (M, 25, 3) metres to (2, 25, 3); None until the first spine is seen."""
        poses = np.zeros((PERSONS, *frame.shape[1:]))
        poses[: len(frame)] = frame
        seen = np.any(poses, axis=-1, keepdims=True)
        if seen[0, SPINE]:
            self._spine = poses[0, SPINE].copy()
        if self._spine is None:
            return None
        poses[0, SPINE] = self._spine
        if self._first is None:
            self._first = poses
        return self._normalization(np.stack([self._first, poses]))[1] * seen
