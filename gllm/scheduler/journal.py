"""Frames into files, by a thread of its own: a slow or full disk never holds up who records.

Each file takes about `max_bytes`, then the recording goes on in a new one; the file of that name is
always the newest, as with logrotate, and the oldest beyond `max_files` are removed. What is written
reaches the file within FLUSH_S. Knows nothing of what a frame says.
"""

import contextlib
import fcntl
import logging
import os
import threading
from collections import deque
from io import FileIO
from pathlib import Path

from gllm.scheduler.recording import MAGIC, RecordingError, numbered

log = logging.getLogger("gllm")

FLUSH_S = 0.5
FLUSH_BYTES = 1 << 20  # do not wait so long for that many
MAX_QUEUED_BYTES = 1 << 27  # a disk that far behind cannot keep up
CLOSE_TIMEOUT_S = 2.0


class Journal:
    """A file that grows, and its predecessors."""

    def __init__(self, path: Path, max_bytes: int, max_files: int) -> None:
        """Raises `RecordingError` where a recording would destroy something else, OSError where it
        cannot be written."""
        self.path = path
        self.max_files = max_files
        self.has_stopped = False  # for good: the disk is full, say
        self._max_bytes = max_bytes
        self._part_bytes = 0
        self._first_bytes = 0
        self._queue: deque[bytes | None] = deque()  # None: what follows goes into a new file
        self._num_queued_bytes = 0  # counted by the caller alone ...
        self._num_written_bytes = 0  # ... and by the thread alone
        self._wake = threading.Event()
        self._is_closing = False
        _check_names(path)
        self._file = self._next_file()
        self._thread = threading.Thread(target=self._write_out, name="gllm-record", daemon=True)
        self._thread.start()

    @property
    def is_full(self) -> bool:
        """Whether a new part is due. One that had to begin with much takes as much again before."""
        return self._part_bytes >= max(self._max_bytes, 2 * self._first_bytes)

    def begin_part(self, first: bytes) -> None:
        """`first` and what follows go into a new file; the very first part has its file already."""
        if self._part_bytes:
            self._queue.append(None)
        self._part_bytes = 0
        self.write(MAGIC + first)
        self._first_bytes = self._part_bytes

    def write(self, frame: bytes) -> None:
        """Queue `frame`; never blocks, never raises."""
        if self.has_stopped:
            return
        self._queue.append(frame)
        self._part_bytes += len(frame)
        self._num_queued_bytes += len(frame)
        behind = self._num_queued_bytes - self._num_written_bytes
        if behind > FLUSH_BYTES and not self._wake.is_set():
            self._wake.set()
        if behind > MAX_QUEUED_BYTES:
            self.stop(f"the disk is {behind} bytes behind")

    def stop(self, why: str) -> None:
        """Take nothing more; what is queued is still written, if it can be."""
        if not self.has_stopped:
            self.has_stopped = True
            log.error("%s: the recording stops here, serving goes on: %s", self.path, why)

    def close(self) -> None:
        """Write what is queued, if the disk takes it within CLOSE_TIMEOUT_S."""
        self._is_closing = True
        self._wake.set()
        self._thread.join(CLOSE_TIMEOUT_S)

    # ---- the thread ----------------------------------------------------------------------------

    def _write_out(self) -> None:
        try:
            while not self._is_closing and not self.has_stopped:
                self._wake.wait(FLUSH_S)
                self._wake.clear()
                self._flush()
            self._flush()
        except OSError as error:
            self.stop(error.strerror or str(error))
        with contextlib.suppress(OSError):
            self._file.close()
        self._queue.clear()

    def _flush(self) -> None:
        """All that is queued, to the file."""
        chunk = bytearray()
        while self._queue:
            item = self._queue.popleft()
            if item is not None:
                chunk += item
            if item is None or len(chunk) > FLUSH_BYTES:
                self._write(chunk)
            if item is None:
                self._file.close()
                self._file = self._next_file()
        self._write(chunk)

    def _write(self, chunk: bytearray) -> None:
        while chunk:
            num_bytes = self._file.write(chunk)
            self._num_written_bytes += num_bytes
            del chunk[:num_bytes]

    def _next_file(self) -> FileIO:
        """Every file one number older, the oldest removed, and a new one that only we can read."""
        number = 0
        while numbered(self.path, number).exists():
            number += 1
        for older in range(number - 1, -1, -1):
            if older + 1 >= self.max_files:
                numbered(self.path, older).unlink()
            else:
                numbered(self.path, older).rename(numbered(self.path, older + 1))
        file = FileIO(self.path, "xb", opener=lambda path, flags: os.open(path, flags, 0o600))
        with contextlib.suppress(OSError):  # where a file system has no locks, nothing warns
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return file


def _check_names(path: Path) -> None:
    """Every file that we would rename or remove must be a recording, and nobody's that is alive."""
    number = 0
    while (file := numbered(path, number)).exists():
        if not file.is_file():
            raise RecordingError(f"{file} is no file: choose another name for the recording")
        with file.open("rb") as reading:
            if reading.read(len(MAGIC)) not in (MAGIC, b""):
                raise RecordingError(
                    f"{file} exists and is no recording: choose another name, or remove it first"
                )
            try:
                fcntl.flock(reading, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise RecordingError(f"another process records into {file}: choose another name") from None
            except OSError:
                pass
        number += 1
