"""From packed frames to everything a pretraining step sees, on the device.

All randomness is a function of (seed, step, position in the global batch): the same global
batch gives the same views on any number of devices, and after a restart.
"""

from __future__ import annotations

import flax.struct
import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from pcm3_jax.augment import augmentation, masking, mixing
from pcm3_jax.augment.occlusion import visibility
from pcm3_jax.data.skeleton import Array, to_stream
from pcm3_jax.models.pcm3 import PromptOffsets, QueryViews


@flax.struct.dataclass
class Clips:
    """Where sequences lie in an array of packed frames: (N,) int32 each, in frames."""

    start: Array
    length: Array


@flax.struct.dataclass
class Batch:
    """A device's share of a global batch.

    Attributes:
      clips: its sequences.
      partner_clips: the sequences they are mixed with.
      position: their positions in the global batch (N,).
      partner: their partners' positions in the global batch (N,).
    """

    clips: Clips
    partner_clips: Clips
    position: Array
    partner: Array


@flax.struct.dataclass
class Views:
    """What the losses are a function of, besides the state.

    Attributes:
      query: the views of the query encoder.
      key: the key view s' (N, T, M, V, C).
      partner: positions in the global batch of the samples mixed in (N,).
      mix_share: λ, a scalar.
    """

    query: QueryViews
    key: jax.Array
    partner: Array
    mix_share: jax.Array


def draw_views(key: jax.Array, frames: jax.Array, batch: Batch, config: ConfigDict) -> Views:
    """Draws all views of one step.

    Args:
      key: the step's key, the same on every device.
      frames: packed frames (F, M * V * C) that the batch's clips point into.
      batch: the device's share of the global batch.
      config: the ``views`` section of the configuration.
    """
    key_intra, key_key, key_target, key_mask, key_mix = jax.random.split(key, 5)

    def draw(view_key, clips: Clips, position: Array, *, jittering: bool) -> jax.Array:
        drawn = draw_poses(view_key, frames, clips, position, config, jittering=jittering)
        return to_stream(*drawn, config.stream)

    intra = draw(key_intra, batch.clips, batch.position, jittering=True)
    # The partner's query view is drawn again here, exactly as on the device that owns it.
    partner = draw(key_intra, batch.partner_clips, batch.partner, jittering=True)
    mix = mixing.random_mix(
        key_mix, config.frames, config.mix_block_frames, config.mix_parts, config.mix_blocks
    )
    inter, mix_share = mixing.mix(intra, partner, mix, config.mix_block_frames)
    visible = masking.random_visibility(
        key_mask, config.frames, config.mask_clip_frames, config.mask_strategy, config.mask_ratio
    )
    return Views(
        query=QueryViews(
            intra=intra,
            target=draw(key_target, batch.clips, batch.position, jittering=False),
            visible=visible,
            inter=inter,
        ),
        key=draw(key_key, batch.clips, batch.position, jittering=True),
        partner=batch.partner,
        mix_share=mix_share,
    )


def draw_poses(
    key: jax.Array,
    frames: jax.Array,
    clips: Clips,
    position: Array,
    config: ConfigDict,
    *,
    jittering: bool,
) -> tuple[jax.Array, jax.Array]:
    """Draws one augmented view (N, T, M, V, C) of each clip, before it becomes a stream.

    ``position`` (N,) numbers the samples of the global batch, so that each has draws of its own.
    With it comes where joints are missing (N, T, M, V).
    """

    def one(position, start, length):
        sample_key = jax.random.fold_in(key, position)
        return _augment(sample_key, frames, start, length, jittering, config)

    return jax.vmap(one)(position, clips.start, clips.length)


def _augment(key, frames, start, length, jittering: bool, config: ConfigDict):
    """One augmented view (T, M, V, C) of one sequence, and where joints are missing (T, M, V)."""
    key_crop, key_which, key_shear, key_jitter = jax.random.split(key, 4)
    offset, crop = augmentation.random_crop(
        key_crop, length, config.crop_ratio, config.min_crop_frames
    )
    poses, missing = _crop(frames, start + offset, crop, config.frames)
    changed = augmentation.shear(poses, augmentation.random_shear(key_shear, config.shear_limit))
    if jittering:
        joints, matrix = augmentation.random_jitter(
            key_jitter, config.jitter_joints, config.jitter_limit
        )
        jittered = augmentation.jitter(poses, joints, matrix)
        changed = jnp.where(jax.random.bernoulli(key_which), jittered, changed)
    return changed, missing


def _crop(frames, start, length, size: int) -> tuple[jax.Array, jax.Array]:
    return (
        augmentation.crop_resize(frames, start, length, size),
        augmentation.missing_in_crop(frames, start, length, size),
    )


def draw_offsets(key: jax.Array, hidden: int, width: int) -> PromptOffsets:
    """Six independent channel offsets, U{0 … hidden - width - 1} (§3.4)."""
    names = PromptOffsets.names()
    offsets = jax.random.randint(key, (len(names),), 0, hidden - width)
    return PromptOffsets(*offsets)


def central_view(frames: jax.Array, clips: Clips, config: ConfigDict) -> jax.Array:
    """The deterministic view for evaluation (N, T, M, V, C): the central crop."""

    def one(start, length):
        offset, crop = augmentation.central_crop(length, config.eval_crop_ratio)
        return _crop(frames, start + offset, crop, config.frames)

    poses, missing = jax.vmap(one)(clips.start, clips.length)
    return to_stream(poses, missing, config.stream)


def occluded_view(
    key: jax.Array,
    frames: jax.Array,
    clips: Clips,
    position: Array,
    config: ConfigDict,
    occlusion: ConfigDict,
    *,
    central: bool,
) -> jax.Array:
    """Views to train and test classifiers on (N, T, M, V, C), occluded as Table 4 has it.

    Args:
      key: the same on every device.
      frames: packed frames (F, M * V * C) that the clips point into.
      clips: N sequences.
      position: (N,) numbers the sequences, so that each has draws of its own.
      config: the ``views`` section of the configuration.
      occlusion: the ``occlusion`` section.
      central: whether to take the central crop or a random one.
    """

    def one(position, start, length):
        sample_key = jax.random.fold_in(key, position)
        if central:
            offset, crop = augmentation.central_crop(length, config.eval_crop_ratio)
        else:
            offset, crop = augmentation.random_crop(
                sample_key, length, config.eval_train_crop_ratio, config.min_crop_frames
            )
        poses, missing = _crop(frames, start + offset, crop, config.frames)
        visible = visibility(jax.random.fold_in(sample_key, 1), config.frames, occlusion)
        # Before the stream is computed: what a sensor does not see has no motion either.
        return to_stream(poses * visible[:, None, :, None], missing, config.stream)

    return jax.vmap(one)(position, clips.start, clips.length)
