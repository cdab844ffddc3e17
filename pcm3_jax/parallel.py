"""How per-device functions are laid over devices and processes: the only file that knows.

A per-device function takes (replicated, frames, batch) and returns something replicated; any
exchange between devices happens inside it, over the axis `AXIS`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

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
        # In the order of the processes, as `jax.pmap` has it and `local_rows` counts them;
        # `jax.make_mesh` may choose another, to suit the wiring.
        devices = sorted(jax.devices(), key=lambda device: device.process_index)
        self._mesh = Mesh(np.array(devices), (AXIS,))

    def check_divides(self, key: str, batch_size: int) -> None:
        """Raises a `UserError` unless the batch of a configuration key divides over the devices."""
        if batch_size % self.count:
            raise UserError(
                f"config.{key} is {batch_size}, which does not divide over {self.count} devices; "
                f"choose a multiple of {self.count}."
            )

    def local_rows(self, batch_size: int) -> np.ndarray:
        """Positions in a global batch that this process feeds, in order of its devices."""
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
        everywhere, dealt = PartitionSpec(), PartitionSpec(AXIS)
        if self.kind == "pmap":
            mapped = jax.pmap(
                function,
                axis_name=AXIS,
                in_axes=(None, 0 if frames_sharded else None, 0),
                out_axes=None,
                donate_argnums=donated,
            )
            if jax.process_count() == 1:
                return mapped
            # Between processes `jax.pmap` returns arrays of the own devices only.
            return lambda *args: multihost_utils.host_local_array_to_global_array(
                mapped(*args), self._mesh, everywhere
            )
        mapped = jax.shard_map(
            function,
            mesh=self._mesh,
            in_specs=(everywhere, dealt if frames_sharded else everywhere, dealt),
            out_specs=everywhere,
            # With the check on, grad followed by pmean counts every device's share once more.
            check_vma=False,
        )
        return jax.jit(mapped, donate_argnums=donated)


def wait_for_all(name: str) -> None:
    """Returns once every process has come to the point of that name."""
    multihost_utils.sync_global_devices(name)
