"""The whole pretraining network: encoder, projector, decoder and prompts.

What happens in one forward pass of the query side (method sections in brackets):

    intra ─┐                               ┌─ last frame + p_cl ─ projector ─ z_intra
    masked ┼─ encoder (one shared scan) ───┼─ last frame + p_cl ─ projector ─ z_mask
    mixed ─┘                               └─ last frame + p_cl ─ projector ─ z_inter
                      │ masked view, every frame + p_mp
                      ├─ decoder ─────────────────────────── reconstruction      [§3.2]
                      └─ stop gradient ─ decoder ─ fill masked cells ─ encoder
                                                   + p_cl ─ projector ─ z_predict [§3.3]
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
from jax import lax

from pcm3_jax.data.skeleton import FEATURES, flatten_frames, unflatten_frames
from pcm3_jax.models.decoder import Decoder
from pcm3_jax.models.encoder import Encoder, Projector
from pcm3_jax.models.gru import Recurrence, symmetric_uniform
from pcm3_jax.models.norm import Moments

# Positive pairs (Eq. 5), in the order in which the authors' program encodes them: the
# running statistics of BatchNorm depend on it.
POSITIVES = ("intra", "mask", "predict", "inter")

# Numbers outside a compiled step, too.
Offset = jax.Array | int


@flax.struct.dataclass
class PromptOffsets:
    """First channel of the task prompt in each place that uses one, int32 scalars (§3.4)."""

    intra: Offset
    decoder: Offset
    mask: Offset
    predict: Offset
    inter: Offset
    key: Offset

    @classmethod
    def names(cls) -> tuple[str, ...]:
        return tuple(field.name for field in dataclasses.fields(cls))


@flax.struct.dataclass
class QueryViews:
    """Augmented poses of the query side, each (N, T, M, V, C) in metres.

    Attributes:
      intra: the query view s_intra.
      target: the sequence x whose masked cells are predicted.
      visible: (T, M, V) floats, 1 where the target is visible and 0 where it is masked.
      inter: the mixed view s_inter.
    """

    intra: jax.Array
    target: jax.Array
    visible: jax.Array
    inter: jax.Array


@flax.struct.dataclass
class QueryOutputs:
    """Embeddings {positive: (N, D)} and the decoder's prediction (N, T, M, V, C) or None."""

    embeddings: dict[str, jax.Array]
    reconstruction: jax.Array | None


class Prompts(nn.Module):
    """The trainable prompts (§3.4); a kind that is switched off has no parameters."""

    width: int
    domain: bool
    task: bool

    def setup(self) -> None:
        domain_init = symmetric_uniform((6 / (2 * FEATURES)) ** 0.5)
        task_init = symmetric_uniform((6 / (2 * self.width + 1)) ** 0.5)
        if self.domain:
            self.domains = {
                name: self.param(f"domain_{name}", domain_init, (FEATURES,)) for name in POSITIVES
            }
        if self.task:
            self.tasks = {
                name: self.param(f"task_{name}", task_init, (2 * self.width,))
                for name in ("contrast", "predict")
            }

    def of_domains(self, names: Iterable[str]) -> jax.Array | None:
        """Domain prompts (P, 150) of the views named, or None."""
        return jnp.stack([self.domains[name] for name in names]) if self.domain else None

    def of_task(self, name: str, offset: Offset, hidden: int) -> jax.Array | None:
        """A task prompt on r channels from ``offset`` of each direction: (2H,), or None."""
        if not self.task:
            return None
        halves = self.tasks[name].reshape(2, self.width)
        return lax.dynamic_update_slice(jnp.zeros((2, hidden)), halves, (0, offset)).reshape(-1)


class PCM3(nn.Module):
    """Network of PCM³; the key encoder is the same module applied to other parameters.

    Attributes:
      positives: which of `POSITIVES` take part in the contrast (Tables 7 and 8).
      masked_prediction: whether the masked view is decoded.
      contrast_guides_decoder: whether the contrast on the predicted view reaches the decoder
        (§3.3.2), by a second decoder pass on features without gradient.
      domain_prompts, task_prompts: the two kinds of prompts (Table 9).
      prompt_placement: "before_norm", the authors' program, or "after_norm".
      remat: less memory for more time, as in `GRU`.
      prompt_width: r, channels of a task prompt in each direction.
    """

    hidden: int = 1024
    layers: int = 3
    recurrence: Recurrence = "causal"
    projection: int = 128
    decoder_hidden: int = 512
    decoder_layers: int = 2
    positives: tuple[str, ...] = POSITIVES
    masked_prediction: bool = True
    contrast_guides_decoder: bool = True
    domain_prompts: bool = True
    task_prompts: bool = True
    prompt_placement: str = "before_norm"
    prompt_width: int = 128
    dtype: jnp.dtype = jnp.float32
    remat: bool = False
    axis_name: str | None = None

    def setup(self) -> None:
        self.encoder = Encoder(
            hidden=self.hidden,
            layers=self.layers,
            recurrence=self.recurrence,
            prompt_placement=self.prompt_placement,
            dtype=self.dtype,
            axis_name=self.axis_name,
            remat=self.remat,
        )
        self.projector = Projector(2 * self.hidden, self.projection, self.dtype)
        self.decoder = Decoder(
            inputs=2 * self.hidden,
            hidden=self.decoder_hidden,
            layers=self.decoder_layers,
            prompt_placement=self.prompt_placement,
            dtype=self.dtype,
            axis_name=self.axis_name,
            remat=self.remat,
        )
        self.prompts = Prompts(self.prompt_width, self.domain_prompts, self.task_prompts)

    def query(self, views: QueryViews, offsets: PromptOffsets) -> QueryOutputs:
        """Embeds the positives and predicts the masked cells (Eq. 4, 5).

        Updates the running statistics; `views` as in `QueryViews`.
        """
        masked = flatten_frames(views.target * views.visible[..., None])
        first_pass = {
            "intra": flatten_frames(views.intra),
            "mask": masked,
            "inter": flatten_frames(views.inter),
        }
        wanted = {*self.positives} | ({"mask"} if self.masked_prediction else set())
        first_pass = {name: frames for name, frames in first_pass.items() if name in wanted}
        features, moments = self._encode(first_pass)

        reconstruction = None
        if self.masked_prediction:
            reconstruction, predicted, decoder_moments = self._decode(features["mask"], offsets)
            self.decoder.record(decoder_moments)
            if "predict" in self.positives:
                visible = flatten_frames(views.visible[..., None].repeat(3, -1))
                # Masked cells from the decoder, visible cells as they were (§3.3.1).
                completed = masked + predicted * (1 - visible)
                predict_features, predict_moments = self._encode({"predict": completed})
                features |= predict_features
                moments |= predict_moments
            reconstruction = unflatten_frames(reconstruction)

        for name in POSITIVES:
            if name in moments:
                self.encoder.record(moments[name])
        embeddings = {
            name: self._project(features[name], getattr(offsets, name)) for name in self.positives
        }
        return QueryOutputs(embeddings, reconstruction)

    def key(self, view: jax.Array, offsets: PromptOffsets) -> jax.Array:
        """Embeds the key view s' (N, T, M, V, C) as unit vectors (N, D).

        To be applied with the key encoder's parameters; its prompts are those of the query.
        """
        features, moments = self._encode({"intra": flatten_frames(view)})
        self.encoder.record(moments["intra"])
        return self._project(features["intra"], offsets.key)

    def embed(self, poses: jax.Array) -> jax.Array:
        """Sequence features (N, 2H) for downstream tasks.

        Running statistics, no prompts (§3.4); ``poses`` (N, T, M, V, C).
        """
        features = self.encoder.frozen(flatten_frames(poses))
        return self.encoder.sequence_feature(features).astype(jnp.float32)

    def initialize(self, views: QueryViews, offsets: PromptOffsets) -> None:
        """Touches every parameter, for `flax.linen.Module.init`."""
        features, _ = self._encode({"intra": flatten_frames(views.intra)})
        self._project(features["intra"], offsets.intra)
        if self.masked_prediction:
            self._decode(features["intra"], offsets)

    def _encode(
        self, views: dict[str, jax.Array]
    ) -> tuple[dict[str, jax.Array], dict[str, Moments]]:
        """Encodes {name: (N, T, 150)} in one scan: features {name: (T, N, 2H)}, moments."""
        prompts = self.prompts.of_domains(views)
        features, moments = self.encoder(jnp.stack(list(views.values())), prompts)
        return (
            {name: features[:, i] for i, name in enumerate(views)},
            {
                name: jax.tree.map(lambda m, i=i: m[i : i + 1], moments)
                for i, name in enumerate(views)
            },
        )

    def _decode(
        self, features: jax.Array, offsets: PromptOffsets
    ) -> tuple[jax.Array, jax.Array, Moments]:
        """Decodes (T, N, 2H) twice over: for the masked loss, and for the predicted view.

        The two agree in value and differ in gradient: the contrast on the predicted view
        reaches the decoder and its prompt, but not the masked view's encoder pass.
        """
        passes = [features]
        if "predict" in self.positives and self.contrast_guides_decoder:
            passes.append(lax.stop_gradient(features))
        prompt = self.prompts.of_task("predict", offsets.decoder, self.hidden)
        frames, moments = self.decoder(jnp.stack(passes, axis=1), prompt)
        predicted = frames[1] if len(passes) == 2 else lax.stop_gradient(frames[0])
        return frames[0], predicted, moments

    def _project(self, features: jax.Array, offset: Offset) -> jax.Array:
        feature = self.encoder.sequence_feature(features)
        prompt = self.prompts.of_task("contrast", offset, self.hidden)
        if prompt is not None:
            feature = feature + prompt
        return self.projector(feature)
