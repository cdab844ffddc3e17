"""The batch that a feed yields: sequences as clips of packed frames, and their mixing partners."""

from __future__ import annotations

import flax.struct

from pcm3_jax.data.skeleton import Array


@flax.struct.dataclass
class Clips:
    """Where sequences lie in an array of packed frames; (N,) int32 each, in frames."""

    start: Array
    length: Array


@flax.struct.dataclass
class Batch:
    """A device's share of a global batch.

    Attributes:
      clips: the N sequences of the share.
      partner_clips: the sequences they are mixed with.
      position: (N,) int32, positions in the global batch.
      partner: (N,) int32, the partners' positions in the global batch.
    """

    clips: Clips
    partner_clips: Clips
    position: Array
    partner: Array
