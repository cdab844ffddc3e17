"""The pretraining network: encoder, projector, decoder and prompts.

The forward pass of the query side (sections of the paper in brackets):

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
from collections.abc import Iterable, Sequence

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
from pcm3_jax.settings import POSITIVES

# A Python int where the offset is fixed instead of drawn.
Offset = jax.Array | int


@flax.struct.dataclass
class PromptOffsets:
    """First channel of the task prompt at each place that adds one, int32 scalars (§3.4)."""

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
      visible: (T, M, V) floats, 1 where the target is visible, 0 where it is masked.
      inter: the mixed view s_inter.
    """

    intra: jax.Array
    target: jax.Array
    visible: jax.Array
    inter: jax.Array


@flax.struct.dataclass
class QueryOutputs:
    """Results of the query side.

    Attributes:
      embeddings: {positive: (N, D)} unit vectors.
      reconstruction: the decoder's prediction of the target (N, T, M, V, C), or None without
        masked prediction.
    """

    embeddings: dict[str, jax.Array]
    reconstruction: jax.Array | None


class Prompts(nn.Module):
    """The trainable prompts (§3.4).

    Attributes:
      width: r, channels of a task prompt in each direction.
      domain, task: whether to create the prompts of this kind; without them it has no parameters.
    """

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
        """Domain prompts (P, 150) of the named views, or None."""
        return jnp.stack([self.domains[name] for name in names]) if self.domain else None

    def of_task(self, name: str, offset: Offset, hidden: int) -> jax.Array | None:
        """A task prompt on channels ``offset`` to ``offset + r`` of each direction, zero elsewhere.

        Args:
          name: "contrast" or "predict".
          offset: first channel, 0 to H - r.
          hidden: H.

        Returns:
          (2H,), or None without task prompts.
        """
        if not self.task:
            return None
        halves = self.tasks[name].reshape(2, self.width)
        return lax.dynamic_update_slice(jnp.zeros((2, hidden)), halves, (0, offset)).reshape(-1)


class PCM3(nn.Module):
    """Network of PCM³; the key encoder is the same module applied to other parameters.

    `query` and `key` are the two sides of a training step, with batch statistics; apply them with
    ``mutable=["batch_stats"]``.  `embed` and `reconstruct` are inference, with running statistics:

      features = model.apply(variables, poses, method=PCM3.embed)  # (N, T, M, V, C) → (N, 2H)

    Attributes:
      hidden: H, units of each encoder direction.
      layers: encoder layers.
      recurrence: as in `GRULayer`.
      projection: D, size of an embedding.
      decoder_hidden, decoder_layers: size of the decoder.
      positives: which of `POSITIVES` the contrastive loss includes (Tables 7 and 8).
      masked_prediction: whether the masked view is decoded.
      contrast_guides_decoder: whether gradients of the predicted view's contrast reach the decoder
        (§3.3.2), through a second decoder pass on features without gradient.
      domain_prompts, task_prompts: whether there are prompts of each kind (Table 9).
      prompt_placement: "before_norm" (the authors' program) or "after_norm"; see `Encoder` and
        `Decoder`.
      prompt_width: r, channels of a task prompt in each direction.
      dtype: of the matrix products.
      remat: as in `GRU`.
      axis_name: as in `BatchNorm`.
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
        """Embeds the positives (Eq. 5) and predicts the masked cells (Eq. 4).

        Updates the running statistics.
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
                # Masked cells as predicted, visible cells unchanged (§3.3.1).
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

        Apply it with the key encoder's parameters and the query side's prompts.  Updates the
        running statistics.
        """
        features, moments = self._encode({"intra": flatten_frames(view)})
        self.encoder.record(moments["intra"])
        return self._project(features["intra"], offsets.key)

    def embed(self, poses: jax.Array, pooling: Sequence[str] = ("last",)) -> jax.Array:
        """Sequence features (N, F) of poses (N, T, M, V, C) for downstream tasks.

        Running statistics, no prompts (§3.4).

        Args:
          poses: in the encoder's stream.
          pooling: as in `Encoder.sequence_feature`; F is 2H for each.
        """
        features = self.encoder(flatten_frames(poses)).astype(jnp.float32)
        return self.encoder.sequence_feature(features, pooling)

    def reconstruct(self, poses: jax.Array) -> jax.Array:
        """The decoder's prediction (N, T, M, V, C) of every frame of poses (N, T, M, V, C).

        Running statistics, no prompts, as `embed`.
        """
        return unflatten_frames(self.decoder(self.encoder(flatten_frames(poses))))

    def initialize(self, views: QueryViews, offsets: PromptOffsets) -> None:
        """Uses every parameter once, for `flax.linen.Module.init`."""
        features, _ = self._encode({"intra": flatten_frames(views.intra)})
        self._project(features["intra"], offsets.intra)
        if self.masked_prediction:
            self._decode(features["intra"], offsets)

    def _encode(
        self, views: dict[str, jax.Array]
    ) -> tuple[dict[str, jax.Array], dict[str, Moments]]:
        """Encodes {name: (N, T, 150)} in one scan.

        Returns:
          Features {name: (T, N, 2H)}, and the moments of each pass by name.
        """
        prompts = self.prompts.of_domains(views)
        features, moments = self.encoder.forward_train(jnp.stack(list(views.values())), prompts)
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
        """Decodes features (T, N, 2H) for the masked loss and for the predicted view.

        The two results have equal values and different gradients: that of the predicted view
        reaches the decoder and its prompt, but not the masked view's encoder pass.

        Returns:
          Flat frames (N, T, 150) for the masked loss and for the predicted view, and the moments.
        """
        passes = [features]
        if "predict" in self.positives and self.contrast_guides_decoder:
            passes.append(lax.stop_gradient(features))
        prompt = self.prompts.of_task("predict", offsets.decoder, self.hidden)
        frames, moments = self.decoder.forward_train(jnp.stack(passes, axis=1), prompt)
        predicted = frames[1] if len(passes) == 2 else lax.stop_gradient(frames[0])
        return frames[0], predicted, moments

    def _project(self, features: jax.Array, offset: Offset) -> jax.Array:
        feature = self.encoder.sequence_feature(features)
        prompt = self.prompts.of_task("contrast", offset, self.hidden)
        if prompt is not None:
            feature = feature + prompt
        return self.projector(feature)
