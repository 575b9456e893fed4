"""Work cut into parts: spread over processes, skipped when done, never done twice at once.

A part is complete exactly when its final file exists. That holds because every writer fills a
temporary file and renames it (`launch.manifest.atomic_path`), so no part is ever half there.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Protocol, TypeVar, runtime_checkable

from launch.errors import CaptionmixError, StoppedError
from launch.manifest import SCRATCH

T = TypeVar("T")
R = TypeVar("R")

LOCKS = f"{SCRATCH}/locks"
"""Folder, below the artifact's, with one lock file per part."""


@runtime_checkable
class Advances(Protocol):
    """What `map_parts` needs of a progress bar."""

    def advance(self, num: int = 1) -> None:
        """Count finished parts."""


def pending(out: Path, names: Sequence[str]) -> list[str]:
    """Return the parts whose final file is absent, in the given order."""
    return [name for name in names if not (out / name).is_file()]


def take(out: Path, names: Sequence[str]) -> Iterator[str]:
    """Give this process one pending part after another, each locked while it is worked on.

    Several processes may take from the same names at once, on one machine or on several that share
    the folder. A part that another process holds is passed over and looked at again later: if that
    process died, its lock died with it. The iteration ends when no part is left that nobody holds,
    so another process may still be at work: ask `pending` before you call the whole complete.

    Args:
        out: Folder of the artifact.
        names: Final files of the parts, relative to `out`.
    """
    from filelock import FileLock, Timeout

    is_moving = True
    while is_moving:
        is_moving = False
        for name in pending(out, names):
            path = out / LOCKS / f"{name.replace('/', '--')}.lock"
            path.parent.mkdir(parents=True, exist_ok=True)
            lock = FileLock(path)
            try:
                lock.acquire(blocking=False)
            except Timeout:
                continue
            try:
                # Between the look and the lock, the former holder may have finished.
                if (out / name).is_file():
                    continue
                yield name
                if not (out / name).is_file():
                    raise CaptionmixError(
                        f"{out / name}: the part was worked on and its file is not there; "
                        "whoever takes a part must write it before taking the next."
                    )
                is_moving = True
            finally:
                lock.release()


def map_parts(
    work: Callable[[T], R],
    items: Sequence[T],
    *,
    num_workers: int,
    progress: Advances | None = None,
) -> list[R]:
    """Apply `work` to every item, in processes of their own, and keep the order.

    Args:
        work: A function of a module, since it is sent to a fresh process by name.
        items: What it is applied to; each must pickle.
        num_workers: Processes; 0 and 1 work in this process, item by item.
        progress: Advanced by one for each finished item, in the order in which they finish.

    Raises:
        Exception: Whatever `work` raised first, with a note that names the item. Items not yet
            begun are dropped.
        StoppedError: A worker was killed.
    """
    if num_workers <= 1 or len(items) <= 1:
        results = []
        for index, item in enumerate(items):
            try:
                results.append(work(item))
            except Exception as error:
                error.add_note(_where(index, items))
                raise
            if progress is not None:
                progress.advance(1)
        return results

    from concurrent.futures import ProcessPoolExecutor, as_completed
    from concurrent.futures.process import BrokenProcessPool
    from multiprocessing import get_context

    # Spawn: a fork of a process with threads (torch, arrow) may hang on a lock that it inherited.
    pool = ProcessPoolExecutor(
        max_workers=min(num_workers, len(items)),
        mp_context=get_context("spawn"),
        initializer=_begin_worker,
    )
    try:
        futures = {pool.submit(work, item): index for index, item in enumerate(items)}
        found: dict[int, R] = {}
        for future in as_completed(futures):
            index = futures[future]
            try:
                found[index] = future.result()
            except BrokenProcessPool as error:
                raise StoppedError(
                    f"a worker process was killed while {len(items) - len(found)} of {len(items)} "
                    "parts were left, perhaps for lack of memory. Start the same command again: "
                    "finished parts are kept; fewer workers need less memory."
                ) from error
            except Exception as error:
                error.add_note(_where(index, items))
                raise
            if progress is not None:
                progress.advance(1)
        return [found[index] for index in range(len(items))]
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _where(index: int, items: Sequence[T]) -> str:
    shown = repr(items[index])
    shown = shown if len(shown) <= 200 else shown[:200] + "..."
    return f"part {index + 1} of {len(items)}: {shown}"


def _begin_worker() -> None:
    """Make a worker mind its own business: one thread, and never outlive its parent."""
    # One thread each: the workers already fill the cores, and results must not depend on how many.
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ[name] = "1"
    # Ctrl-C reaches the whole group; the parent alone decides what it means.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_die_with_parent, daemon=True).start()


def _die_with_parent() -> None:
    """Leave at once when the parent is gone: an orphan would write into a resumed folder."""
    from multiprocessing import parent_process

    parent = parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
