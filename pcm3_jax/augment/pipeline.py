"""Draws the views of a step from packed frames, on the device.

Every draw is a function of (seed, step, position in the global batch), so that a global batch has
the same views on any number of devices and after a restart.
"""

from __future__ import annotations

import flax.struct
import jax

from pcm3_jax.augment import augmentation, masking, mixing
from pcm3_jax.augment.occlusion import visibility
from pcm3_jax.data.batch import Batch, Clips
from pcm3_jax.data.skeleton import Array, to_stream
from pcm3_jax.models.pcm3 import PromptOffsets, QueryViews
from pcm3_jax.settings import Occlusion
from pcm3_jax.settings import Views as ViewSettings


@flax.struct.dataclass
class Views:
    """The views that the losses are computed from.

    Attributes:
      query: the views of the query encoder.
      key: the key view s' (N, T, M, V, C).
      partner: (N,) int32, positions in the global batch of the samples mixed in.
      mix_share: λ, the partner's share; a scalar.
    """

    query: QueryViews
    key: jax.Array
    partner: Array
    mix_share: jax.Array


def draw_views(key: jax.Array, frames: jax.Array, batch: Batch, config: ViewSettings) -> Views:
    """Draws all views of one step.

    Args:
      key: the step's key, the same on every device.
      frames: packed frames (F, M * V * C) that the batch's clips refer to.
      batch: the device's share of the global batch.
      config: the ``views`` section of the configuration.
    """
    key_intra, key_key, key_target, key_mask, key_mix = jax.random.split(key, 5)

    def draw(view_key: jax.Array, clips: Clips, position: Array, *, jittering: bool) -> jax.Array:
        drawn = draw_poses(view_key, frames, clips, position, config, jittering=jittering)
        return to_stream(*drawn, config.stream)

    intra = draw(key_intra, batch.clips, batch.position, jittering=True)
    # The partner's query view is drawn again here, not sent from its device: the same key and
    # position give the same view.
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
    config: ViewSettings,
    *,
    jittering: bool,
) -> tuple[jax.Array, jax.Array]:
    """Draws one augmented view of each clip, as joint coordinates.

    Args:
      key: PRNG key of this view, the same on every device.
      frames: packed frames (F, M * V * C) that the clips refer to.
      clips: N sequences.
      position: (N,) positions in the global batch, each of which has its own draws.
      config: the ``views`` section of the configuration.
      jittering: as in `augmentation.augment`.

    Returns:
      Poses (N, T, M, V, C), and which joints are visible, (N, T, M, V) booleans.
    """

    def one(position: Array, start: Array, length: Array) -> tuple[jax.Array, jax.Array]:
        sample_key = jax.random.fold_in(key, position)
        return augmentation.augment(sample_key, frames, start, length, config, jittering=jittering)

    return jax.vmap(one)(position, clips.start, clips.length)


def draw_offsets(key: jax.Array, hidden: int, width: int) -> PromptOffsets:
    """Six independent channel offsets, U{0 … hidden - width - 1} (§3.4)."""
    names = PromptOffsets.names()
    offsets = jax.random.randint(key, (len(names),), 0, hidden - width)
    return PromptOffsets(*offsets)


def central_view(frames: jax.Array, clips: Clips, config: ViewSettings) -> jax.Array:
    """The deterministic view for evaluation: the central crop in the configured stream.

    Args:
      frames: packed frames (F, M * V * C) that the clips refer to.
      clips: N sequences.
      config: the ``views`` section of the configuration.

    Returns:
      (N, T, M, V, C).
    """

    def one(start: Array, length: Array) -> tuple[jax.Array, jax.Array]:
        offset, crop = augmentation.central_clip(length, config)
        return augmentation.crop(frames, start + offset, crop, config)

    poses, visible = jax.vmap(one)(clips.start, clips.length)
    return to_stream(poses, visible, config.stream)


def occluded_view(
    key: jax.Array,
    frames: jax.Array,
    clips: Clips,
    position: Array,
    config: ViewSettings,
    occlusion: Occlusion,
    *,
    central: bool,
) -> jax.Array:
    """Occluded views for training and testing classifiers (Table 4).

    Args:
      key: the same on every device.
      frames: packed frames (F, M * V * C) that the clips refer to.
      clips: N sequences.
      position: (N,) positions of the sequences, each of which has its own draws.
      config: the ``views`` section of the configuration.
      occlusion: the ``occlusion`` section.
      central: whether to take the central crop instead of a random one.

    Returns:
      (N, T, M, V, C) in the configured stream.
    """

    def one(position: Array, start: Array, length: Array) -> jax.Array:
        sample_key = jax.random.fold_in(key, position)
        if central:
            offset, crop = augmentation.central_clip(length, config)
        else:
            offset, crop = augmentation.random_clip(
                sample_key, length, config.eval_train_crop_ratio, config
            )
        poses, visible = augmentation.crop(frames, start + offset, crop, config)
        shown = visibility(jax.random.fold_in(sample_key, 1), config.frames, occlusion)
        # Occlusion precedes `to_stream`, so that bones and motion are computed from occluded poses.
        return to_stream(poses * shown[:, None, :, None], visible, config.stream)

    return jax.vmap(one)(position, clips.start, clips.length)
