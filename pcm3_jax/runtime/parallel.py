"""How per-device functions are laid over devices and processes: the only file that knows.

A per-device function takes (replicated, frames, batch) and returns something replicated; any
exchange between devices happens inside it, over the axis `AXIS`.
"""

from __future__ import annotations

import ctypes
import re
import signal
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from pcm3_jax.errors import UserError

AXIS = "data"

# Seconds after which a silent process counts as dead, and seconds that one which ends early waits
# for the others to end too.  In both cases all must know within a minute.
_HEARTBEAT, _SHUTDOWN = 30, 20
# In what Gloo, NCCL and the coordination service say when another process is gone.  NCCL has other
# errors, too, of networks and drivers.
_GONE = re.compile(
    "gloo|remote process|coordination|heartbeat|barrier|connection (closed|reset)|UNAVAILABLE",
    re.IGNORECASE,
)


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

    def fitting(self, batch_size: int, count: int) -> int:
        """Rows of a batch: ``batch_size``, or what ``count`` samples make where they are fewer."""
        return min(batch_size, -(-count // self.count) * self.count)

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

        def everywhere(x: Any) -> jax.Array:
            if jax.process_count() == 1 or not getattr(x, "is_fully_addressable", True):
                return jax.device_put(x, sharding)
            # To compare the processes' values `jax.device_put` would gather all of them on every
            # device, as many data sets as there are processes.
            host = np.asarray(x)
            return jax.make_array_from_callback(host.shape, sharding, lambda index: host[index])

        return jax.tree.map(everywhere, tree)

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


def agreed(here: bool) -> bool:
    """Whether it is so in all processes, each of which must ask."""
    return bool(np.all(multihost_utils.process_allgather(np.array(here))))


def join_processes(*address: Any) -> None:
    """Makes this process one of several of a run.

    Args:
      address: nothing on a Cloud TPU, which knows; else the "host:port" of process 0, the number
        of processes, and which of them this one is.

    Raises:
      UserError: nothing was given and this is no Cloud TPU.
    """
    timeouts: dict[str, Any] = {
        "heartbeat_timeout_seconds": _HEARTBEAT,
        "shutdown_timeout_seconds": _SHUTDOWN,
    }
    if address:
        # Else JAX would take one GPU a process wherever it notices Slurm or MPI.
        timeouts["cluster_detection_method"] = "deactivate"
    try:
        jax.distributed.initialize(*address, **timeouts)
    except ValueError as error:
        raise UserError("--coordinator=auto finds no Cloud TPU; use host:port.") from error


def lost_process(error: BaseException | None) -> bool:
    """Whether an error, or what it came from, tells that another process of the run is gone."""
    while error is not None:
        if isinstance(error, jax.errors.JaxRuntimeError) and jax.process_count() > 1:
            return bool(_GONE.search(str(error)))
        error = error.__cause__ or error.__context__
    return False


def on_abort(leave: Callable[[], None]) -> None:
    """Has ``leave`` called when the runtime aborts this process.

    The coordination service does so, from a thread of its own, once another process is gone.  It
    has no setting to do anything else, and Python's own handlers would have to wait for the main
    thread, which waits for that other process.
    """
    global _on_abort
    _on_abort = ctypes.CFUNCTYPE(None, ctypes.c_int)(lambda _: leave())
    ctypes.CDLL(None).signal(signal.SIGABRT, _on_abort)


# The C library does not keep it alive.
_on_abort = None
