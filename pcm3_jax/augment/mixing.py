"""Inter-skeleton mixing (§3.1): CutMix, ResizeMix and Mixup of two augmented sequences.

The whole batch is mixed with the same parameters (`Mix`); poses may have any leading axes before
(T, M, V, C).
"""

from __future__ import annotations

import flax.struct
import jax
import jax.numpy as jnp

from pcm3_jax.augment.augmentation import choose
from pcm3_jax.data.skeleton import BODY_PARTS, JOINTS, part_membership

CUTMIX, RESIZEMIX, MIXUP = range(3)


@flax.struct.dataclass
class Mix:
    """Parameters of a mix, drawn by `random_mix`.

    Attributes:
      method: CUTMIX, RESIZEMIX or MIXUP.
      joints: (V,) booleans, the joints that CutMix and ResizeMix replace.
      first_block, blocks: the joints are replaced in ``blocks`` blocks of frames, starting with
        block ``first_block``.
      share: λ of Mixup.
    """

    method: jax.Array
    joints: jax.Array
    first_block: jax.Array
    blocks: jax.Array
    share: jax.Array


def random_mix(
    key: jax.Array, frames: int, block_frames: int, parts: tuple[int, int], blocks: tuple[int, int]
) -> Mix:
    """Draws CutMix with probability ½, ResizeMix with ¼, Mixup with ¼.

    Args:
      key: the same on every device.
      frames: T.
      block_frames: frames of a block.
      parts: fewest and most body parts to replace, inclusive.
      blocks: fewest and most blocks to replace, inclusive.
    """
    keys = jax.random.split(key, 6)
    p = jax.random.uniform(keys[0])
    count = jax.random.randint(keys[1], (), parts[0], parts[1] + 1)
    run = jax.random.randint(keys[2], (), blocks[0], blocks[1] + 1)
    return Mix(
        method=jnp.where(p > 0.5, CUTMIX, jnp.where(p > 0.25, RESIZEMIX, MIXUP)),
        joints=choose(keys[3], len(BODY_PARTS), count) @ part_membership(),
        first_block=jax.random.randint(keys[4], (), 0, frames // block_frames - run + 1),
        blocks=run,
        share=jax.random.uniform(keys[5]),
    )


def mix(
    poses: jax.Array, partner: jax.Array, draw: Mix, block_frames: int
) -> tuple[jax.Array, jax.Array]:
    """Mixes sequences with their partners.

    Args:
      poses, partner: (..., T, M, V, C).
      draw: the parameters, from `random_mix`.
      block_frames: frames of a block, as in `random_mix`.

    Returns:
      The mixed sequences and λ, the partner's share: the replaced share of (block, joint) cells
      for CutMix and ResizeMix, the weight of the partner's coordinates for Mixup.
    """
    frames = poses.shape[-4]
    first, count = draw.first_block * block_frames, draw.blocks * block_frames
    frame = jnp.arange(frames)
    # ResizeMix resizes the partner's first 2 * count frames (or all, where there are fewer) to
    # count frames by nearest neighbour and pastes them into the region.
    source = jnp.minimum(2 * count, frames)
    resized = jnp.clip((frame - first) * source // count, 0, frames - 1)
    taken = jnp.where(draw.method == RESIZEMIX, resized, frame)

    region = (frame >= first) & (frame < first + count)
    region = region[:, None, None, None] & draw.joints[:, None]
    pasted = jnp.where(region, jnp.take(partner, taken, axis=-4), poses)
    blended = (1 - draw.share) * poses + draw.share * partner

    replaced = draw.blocks * draw.joints.sum() / (frames // block_frames * JOINTS)
    is_mixup = draw.method == MIXUP
    return jnp.where(is_mixup, blended, pasted), jnp.where(is_mixup, draw.share, replaced)
