"""Every answer that was ever paid for, in one file that is only appended to.

Each line is one event in JSON, on the disk before anything else is done with it:

    sent      a request that costs money is about to go out, with the most it may cost
    answered  the reply as it came, what it cost; or, with a `rule`, a refusal that is final
    failed    no reply; `cost` is 0 where the server refused it, the most where nobody knows

A `sent` without an end was under way when its process died and counts with the most it may have
cost. A torn last line is what a killed process leaves, and is cut off.
"""

from __future__ import annotations

import json
import os
import threading
from pathlib import Path
from typing import Any

from launch.errors import ArtifactError, InputError
from recap.answers import Identity


class Ledger:
    """An open ledger, which one process at a time may hold; a context manager.

    Args:
        path: The file; made if absent.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._write = threading.Lock()
        self._replies: dict[Identity, dict[str, Any]] = {}
        self.spent = 0
        """Picodollars that all lines cost when the file was opened, unended requests included."""

    def __enter__(self) -> Ledger:
        from filelock import FileLock, Timeout

        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._lock = FileLock(self._path.with_name(f".{self._path.name}.lock"))
        try:
            self._lock.acquire(timeout=0)
        except Timeout:
            raise InputError(
                f"{self._path}: another process writes this ledger. Wait for it, or give this one "
                "a ledger of its own."
            ) from None
        try:
            self._read()
            is_new = not self._path.exists()
            self._file = self._path.open("ab")
            if is_new:
                _sync_folder(self._path.parent)
        except BaseException:
            self._lock.release()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()
        self._lock.release()

    def __contains__(self, asked: Identity) -> bool:
        return asked in self._replies

    def reply(self, asked: Identity) -> dict[str, Any]:
        """Return the `answered` line of a question."""
        return self._replies[asked]

    def sent(self, asked: Identity, *, attempt: str, most: int) -> None:
        """Note that a request is about to go out."""
        self._append({"event": "sent", "attempt": attempt, **asked._asdict(), "most": most})

    def answered(self, asked: Identity, *, is_final: bool, **line: Any) -> None:
        """Note a reply; a final one is never asked for again."""
        whole = {"event": "answered", **asked._asdict(), "final": is_final, **line}
        self._append(whole)
        if is_final:
            self._replies[asked] = whole

    def failed(self, asked: Identity, **line: Any) -> None:
        """Note that a request had no reply."""
        self._append({"event": "failed", **asked._asdict(), **line})

    def _append(self, line: dict[str, Any]) -> None:
        data = json.dumps(line, ensure_ascii=False).encode("utf-8", "backslashreplace") + b"\n"
        with self._write:
            self._file.write(data)
            self._file.flush()
            os.fsync(self._file.fileno())

    def _read(self) -> None:
        if not self._path.exists():
            return
        open_sends: dict[str, int] = {}
        end = 0
        with self._path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                if not line.endswith(b"\n"):
                    break
                end += len(line)
                try:
                    event = json.loads(line)
                    asked = Identity(event["model"], event["instruction"], event["item"])
                    if event["event"] == "sent":
                        open_sends[event["attempt"]] = event["most"]
                        continue
                    open_sends.pop(event["attempt"], None)
                    self.spent += event["cost"]
                    if event.get("final"):
                        self._replies[asked] = event
                except (ValueError, KeyError, TypeError) as error:
                    raise ArtifactError(
                        f"{self._path}: line {number:,} is no event of a ledger ({error!r}); only "
                        "the last line may be torn. Restore the file, or give another path."
                    ) from error
        self.spent += sum(open_sends.values())
        if end < self._path.stat().st_size:
            os.truncate(self._path, end)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
