"""How per-device functions are laid over devices and processes: the only file that knows.

A per-device function takes (replicated, frames, batch) and returns something replicated; any
exchange between devices happens inside it, over the axis `AXIS`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from pcm3_jax.errors import UserError

AXIS = "data"


class Devices:
    """All devices of all processes, as one data-parallel axis.

    Attributes:
      kind: "pmap" or "shard_map".
      count: devices in all.
    """

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.count = jax.device_count()
        self._mesh = jax.make_mesh((self.count,), (AXIS,), axis_types=(AxisType.Auto,))

    def local_rows(self, batch_size: int) -> np.ndarray:
        """Positions in a global batch that this process feeds, in order of its devices.

        Raises:
          UserError: the batch does not divide over the devices.
        """
        if batch_size % self.count:
            raise UserError(
                f"A batch of {batch_size} does not divide over {self.count} devices; choose a "
                f"multiple of {self.count} for config.optimizer.batch_size and "
                "config.eval.batch_size."
            )
        local = batch_size // jax.process_count()
        return np.arange(local) + jax.process_index() * local

    @property
    def local_count(self) -> int:
        return jax.local_device_count()

    def replicate(self, tree: Any) -> Any:
        """Puts a tree that is the same in every process on every device."""
        sharding = NamedSharding(self._mesh, PartitionSpec())
        return jax.tree.map(lambda x: jax.device_put(x, sharding), tree)

    def shard(self, tree: Any) -> Any:
        """Deals this process's rows, (rows, …) in every leaf, out to its devices."""
        if self.kind == "pmap":
            return jax.tree.map(lambda x: x.reshape(self.local_count, -1, *x.shape[1:]), tree)
        sharding = NamedSharding(self._mesh, PartitionSpec(AXIS))
        return jax.tree.map(lambda x: jax.make_array_from_process_local_data(sharding, x), tree)

    def map(self, function: Callable, *, frames_sharded: bool, donate: bool = False) -> Callable:
        """Maps a per-device function over all devices.

        Args:
          function: (replicated, frames, batch) → replicated outputs, on one device.
          frames_sharded: whether ``frames`` is dealt out like the batch or replicated.
          donate: whether the first argument's memory may be reused.
        """
        donated = 0 if donate else ()
        if self.kind == "pmap":
            return jax.pmap(
                function,
                axis_name=AXIS,
                in_axes=(None, 0 if frames_sharded else None, 0),
                out_axes=None,
                donate_argnums=donated,
            )
        everywhere, dealt = PartitionSpec(), PartitionSpec(AXIS)
        mapped = jax.shard_map(
            function,
            mesh=self._mesh,
            in_specs=(everywhere, dealt if frames_sharded else everywhere, dealt),
            out_specs=everywhere,
            # With the check on, grad followed by pmean counts every device's share once more.
            check_vma=False,
        )
        return jax.jit(mapped, donate_argnums=donated)
