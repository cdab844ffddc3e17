"""Features and labels of recordings whose frames arrive one by one."""

from __future__ import annotations

import functools
from collections import deque
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from pcm3_jax.data.normalization import NANOMETRE, SPINE, is_centred
from pcm3_jax.data.skeleton import (
    STREAMS,
    Array,
    flatten_frames,
    missing_joints,
    visible_in_stream,
)
from pcm3_jax.errors import UserError
from pcm3_jax.inference.validation import Sequence, read_frame
from pcm3_jax.inference.whitening import of_unit_length
from pcm3_jax.methods.state import build_readout
from pcm3_jax.models.pcm3 import PCM3
from pcm3_jax.settings import Config

# (variables, state (L, 2, H), pose (2, 25, 3)) → the state after it.
Step = Callable[[Any, jax.Array, Array], jax.Array]
# Features (2H,) of several encoders → the model's feature (F,).
Join = Callable[[list[np.ndarray]], np.ndarray]
# Poses (T, M, 25, 3) and which joints are visible (T, M, 25) → a feature (F,); None if there is
# nobody to normalise by.
Embed = Callable[[np.ndarray, np.ndarray], np.ndarray | None]
# A feature (F,) → labels and their probabilities, the most probable first.
Labels = Callable[[np.ndarray], list[tuple[str, float]]]


@functools.cache
def build_step(model: PCM3) -> Step:
    """The jitted recurrence of one frame, shared by all encoders of equal networks."""

    @jax.jit
    def step(variables: Any, state: jax.Array, pose: jax.Array) -> jax.Array:
        normalised: Any = model.apply(
            variables, flatten_frames(pose), method=lambda m, x: m.encoder.input_norm(x)
        )
        layers = variables["params"]["encoder"]["gru"]
        inputs, states = normalised.astype(model.dtype), []
        for index in range(model.layers):
            states.append(_cell(layers[f"layer_{index}"], state[index], inputs, model.dtype))
            inputs = states[-1].reshape(-1).astype(model.dtype)
        return jnp.stack(states)

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


class Online:
    """Features and labels of a recording whose frames arrive one by one; by `Model.online`.

    Attributes:
      frames: number of frames pushed.
      fresh: whether the last frame has brought a new feature.
      feature: (F,) float32, the last one computed; None if it has found nobody to normalise by.
      labels: of that feature, (label, probability) of every class, the most probable first; empty
        without a classifier.
      label: the label to show: one that has been the most probable, at or above the threshold, in
        `hold` features in a row, until another one has, or it has been below half of the threshold
        as often; None otherwise.
    """

    def __init__(self, labels: Labels, threshold: float, hold: int, layout: str | None) -> None:
        self._labels, self._threshold, self._hold = labels, threshold, hold
        self._layout = layout
        self.reset()

    def reset(self) -> None:
        """Forgets all frames, to start another recording."""
        self.frames = 0
        self.fresh = False
        self.feature: np.ndarray | None = None
        self.labels: list[tuple[str, float]] = []
        self.label: str | None = None
        self._candidate: str | None = None
        self._held = 0

    def push(self, frame: np.ndarray, mask: np.ndarray | None = None) -> np.ndarray | None:
        """Takes the next frame.

        Args:
          frame: (M, 25, 3) or (25, 3), metres, with any number of persons; all zeros if nobody is
            seen.  With a layout, its J joints instead of 25.
          mask: None, or booleans that broadcast to the frame without its last axis, True where a
            joint is missing.  Without a layout, joints that are zero are missing, too; with one,
            joints that are NaN.

        Returns:
          `feature`, after this frame.

        Raises:
          UserError: the frame has another shape or type, or an invalid coordinate.
        """
        now = read_frame(frame, f"Frame {self.frames}", mask, self._layout)
        self.frames += 1
        self.fresh = self._encode(*now)
        if self.fresh:
            self.labels = [] if self.feature is None else self._labels(self.feature)
            self._hold_label()
        return self.feature

    def _encode(self, poses: np.ndarray, visible: np.ndarray) -> bool:
        """Takes poses (1, M, 25, 3); returns whether it has computed `feature` anew."""
        raise NotImplementedError

    def _hold_label(self) -> None:
        label, probability = self.labels[0] if self.labels else (None, 0.0)
        # A label that is shown stays until it is half as probable, so that it does not flicker.
        needed = self._threshold / 2 if label == self.label else self._threshold
        seen = label if probability >= needed else None
        self._held = self._held + 1 if seen == self._candidate else 1
        self._candidate = seen
        if self._held >= self._hold:
            self.label = seen


class OnlineWindow(Online):
    """Encodes the last frames of a recording again and again, as `Model.embed` encodes them."""

    def __init__(self, embed: Embed, length: int, every: int, *labelling: Any) -> None:
        """Encodes the last ``length`` frames by ``embed``, every ``every`` frames."""
        self._embed, self._length, self._every = embed, length, every
        super().__init__(*labelling)

    def reset(self) -> None:
        super().reset()
        self._window: deque[tuple[np.ndarray, np.ndarray]] = deque(maxlen=self._length)
        self._waited = self._every

    def _encode(self, poses: np.ndarray, visible: np.ndarray) -> bool:
        self._window.append((poses, visible))
        self._waited += 1
        if self._waited < self._every:
            return False
        self._waited = 0
        persons = max(poses.shape[1] for poses, _ in self._window)
        whole = np.zeros((len(self._window), persons, *poses.shape[2:]), np.float32)
        seen = np.ones(whole.shape[:-1], bool)
        for time, (frame, shown) in enumerate(self._window):
            whole[time, : frame.shape[1]], seen[time, : frame.shape[1]] = frame[0], shown[0]
        self.feature = self._embed(whole, seen)
        return True


class OnlineEncoder(Online):
    """Encodes each frame once, with memory and time that do not depend on the frames before.

    It keeps the first persons that it sees, since it does not know who will move.
    """

    def __init__(
        self, streams: list[OnlineStream], join: Join, persons: int, *labelling: Any
    ) -> None:
        """Joins the features of several encoders' streams by ``join``."""
        self._streams, self._join, self._persons = streams, join, persons
        super().__init__(*labelling)

    def reset(self) -> None:
        super().reset()
        self._seen: list[int] = []
        for stream in self._streams:
            stream.reset()

    def _encode(self, poses: np.ndarray, visible: np.ndarray) -> bool:
        there = np.flatnonzero(poses[0].any(axis=(1, 2))).tolist()
        self._seen += [person for person in there if person not in self._seen]
        chosen = [person for person in self._seen[: self._persons] if person < poses.shape[1]]
        now = Sequence.empty(1)
        now.poses[:, : len(chosen)] = poses[:, chosen]
        now.visible[:, : len(chosen)] = visible[:, chosen]
        features = [stream.push(now) for stream in self._streams]
        known = [feature for feature in features if feature is not None]
        self.feature = self._join(known) if len(known) == len(features) else None
        return True


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
        self._readout = build_readout(config)
        layers = self._readout.layers or (config.model.layers,)
        self._layers = [layer - 1 for layer in layers]
        self._finish, self._normalization = finish, normalization
        # On the device like all later states: otherwise the first frame compiles separately.
        self._start = jnp.zeros((config.model.layers, 2, config.model.hidden))
        self.reset()

    def reset(self) -> None:
        self._normalize = OnlineNormalization(self._normalization) if self._normalization else None
        self._state = self._start
        self._last: Sequence | None = None
        # Over the layers' states (layers, 2H) of all frames so far.
        self._count = 0
        self._sum, self._max = np.zeros(()), np.full((), -np.inf)

    def push(self, now: Sequence) -> np.ndarray | None:
        """The feature (F,) after one more frame; None until the first spine is seen."""
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
                self._state, states = self._advance(poses * seen[..., None])
                self._keep(states)
                return self._feature(states)
            # Motion is the displacement to the next frame.  The previous frame's motion is known
            # now and updates the state.  This frame's is taken as zero, as in the last frame of a
            # sequence: it gives the feature, but the state is not kept.
            if last is not None:
                both = last.visible & now.visible
                self._state, states = self._advance((now.poses - last.poses) * both[..., None])
                self._keep(states)
            return self._feature(self._advance(np.zeros_like(now.poses))[1], more=1)

    def _keep(self, states: np.ndarray) -> None:
        """Counts a frame's states (layers, 2H) in the poolings over time."""
        self._count += 1
        self._sum, self._max = self._sum + states, np.maximum(self._max, states)

    def _feature(self, states: np.ndarray, more: int = 0) -> np.ndarray:
        """The sequence's feature (F,); with ``more``, ``states`` are not yet counted."""
        pools = {
            "last": states,
            "mean": (self._sum + more * states) / (self._count + more),
            "max": np.maximum(self._max, states),
        }
        parts = np.stack([pools[name] for name in self._readout.pooling], dtype=np.float32)
        if self._readout.parts > 1:
            parts = of_unit_length(parts)
        return self._finish(parts.reshape(-1))

    def _advance(self, poses: np.ndarray) -> tuple[jax.Array, np.ndarray]:
        """The state after one more pose (1, 2, 25, 3), and the states (layers, 2H) to read out."""
        state = self._step(self._variables, self._state, poses[0])
        return state, np.asarray(state)[self._layers].reshape(len(self._layers), -1)


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
        """Normalises (2, 25, 3) metres; None until the first spine is seen."""
        poses = frame.astype(np.float64)
        if is_centred(poses[0]):
            poses[0, SPINE] = NANOMETRE
        seen = np.any(poses, axis=-1, keepdims=True)
        if seen[0, SPINE]:
            self._spine = poses[0, SPINE].copy()
        if self._spine is None:
            return None
        poses[0, SPINE] = self._spine
        if self._first is None:
            self._first = poses
        return self._normalization(np.stack([self._first, poses]))[1] * seen
