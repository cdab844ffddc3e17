"""Work spread over processes, whose finished pieces an interrupted build does not do again."""

import concurrent.futures
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

Item = TypeVar("Item")
Result = TypeVar("Result")

_UNFINISHED = "unfinished."


def run(
    function: Callable[[Item], Result],
    items: Sequence[Item],
    workers: int,
    *,
    sizes: Sequence[int],
    description: str,
    unit: str,
) -> Iterator[Result]:
    """Yields `function(item)` of each item, in order, with a progress bar.

    Args:
        function: what to do; like items and results it can be pickled.
        items: what to do it to.
        workers: number of processes; one works in this process.
        sizes: how many units of progress each item is.
        description, unit: for the progress bar, which is shown on a terminal only.
    """
    with tqdm(total=sum(sizes), desc=description, unit=f" {unit}", disable=None) as progress:
        if workers == 1:
            results: Iterable[Result] = map(function, items)
        else:
            # Not forked, since libraries of this process have threads.
            pool = concurrent.futures.ProcessPoolExecutor(
                workers, multiprocessing.get_context("forkserver"), _leave_with_parent
            )
            results = pool.map(function, items)
        try:
            for result, size in zip(results, sizes, strict=True):
                yield result
                progress.update(size)
        finally:
            if workers > 1:
                pool.shutdown(cancel_futures=True)


def _leave_with_parent() -> None:
    """Ends this worker when its parent is gone, however that ended."""

    def watch(parent: BaseProcess) -> None:
        connection.wait([parent.sentinel])
        os._exit(1)

    if parent := multiprocessing.parent_process():
        threading.Thread(target=watch, args=(parent,), daemon=True).start()


def fingerprint(*what: Any) -> str:
    """A short name for values of JSON's types: equal for equal values only."""
    return hashlib.sha256(json.dumps(what).encode()).hexdigest()[:16]


def write_whole(path: Path, write: Callable[[Path], Result]) -> Result:
    """Calls `write` with a path beside `path` and renames it: `path` is whole or not there."""
    unfinished = path.with_name(f"{_UNFINISHED}{os.getpid()}.{path.name}")
    result = write(unfinished)
    os.replace(unfinished, path)
    return result


def remove_unfinished(folder: Path) -> None:
    """Removes what killed processes left of `write_whole`."""
    for path in folder.glob(f"{_UNFINISHED}*"):
        path.unlink()
