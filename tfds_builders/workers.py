"""Multiprocessing with a progress bar, and removal of partial files, for resumable builds."""

import concurrent.futures
import contextlib
import hashlib
import json
import multiprocessing
import os
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from multiprocessing import connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, TypeVar

from tqdm import tqdm

from pcm3_jax.runtime.files import PARTIAL

Item = TypeVar("Item")
Result = TypeVar("Result")


def run(
    function: Callable[[Item], Result],
    items: Sequence[Item],
    workers: int,
    sizes: Sequence[int],
    description: str,
    unit: str,
) -> Iterator[Result]:
    """Yields `function(item)` of each item, in order, with a progress bar.

    Args:
        function: must be picklable, as must items and results.
        items: arguments of the calls, one each.
        workers: number of processes; 1 uses this process.
        sizes: how far each item advances the progress bar.
        description, unit: of the progress bar, which is shown on a terminal only.
    """
    with contextlib.ExitStack() as stack:
        results: Iterable[Result] = map(function, items)
        if workers > 1:
            # Not "fork": libraries in this process have running threads.
            pool = concurrent.futures.ProcessPoolExecutor(
                workers, multiprocessing.get_context("forkserver"), _leave_with_parent
            )
            stack.callback(pool.shutdown, cancel_futures=True)
            results = pool.map(function, items)
        bar = tqdm(total=sum(sizes), desc=description, unit=f" {unit}", disable=None)
        progress = stack.enter_context(bar)
        for result, size in zip(results, sizes, strict=True):
            yield result
            progress.update(size)


def _leave_with_parent() -> None:
    """Ends this worker when its parent ends, even if the parent is killed."""

    def watch(parent: BaseProcess) -> None:
        connection.wait([parent.sentinel])
        os._exit(1)

    if parent := multiprocessing.parent_process():
        threading.Thread(target=watch, args=(parent,), daemon=True).start()


def fingerprint(*what: Any) -> str:
    """A short hash of JSON-compatible values."""
    return hashlib.sha256(json.dumps(what).encode()).hexdigest()[:16]


def remove_unfinished(folder: Path) -> None:
    """Removes temporary files that killed processes left in `files.whole`."""
    for path in folder.glob(f"{PARTIAL}*"):
        path.unlink()
