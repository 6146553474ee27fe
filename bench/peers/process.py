"""One engine's process as the driver sees it: questions, answers, memory, and who else used the cores.

Linux only: it reads /proc. Knows nothing of what is asked.
"""

import contextlib
import json
import os
import queue
import signal
import subprocess
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any


class EngineFailed(Exception):
    """The engine ended, or did not answer in time; the message holds its last words."""


class EngineProcess:
    """A started engine; `ask` is one measurement."""

    def __init__(self, command: Sequence[str], environment: dict[str, str], log: Path) -> None:
        self.began = time.perf_counter()
        self._log = log
        with log.open("wb") as file:
            self._process = subprocess.Popen(
                command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=file,
                text=True, start_new_session=True,
            )  # fmt: skip
        self._lines: queue.SimpleQueue[str] = queue.SimpleQueue()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._lines.put(line)
        self._lines.put("")

    def answer(self, timeout_s: float) -> dict[str, Any]:
        """The next line of the engine; raises `EngineFailed`."""
        try:
            line = self._lines.get(timeout=timeout_s)
        except queue.Empty:
            raise EngineFailed(f"no answer within {timeout_s:g} s; {self._last_words()}") from None
        if not line:
            raise EngineFailed(f"ended with exit code {self._process.wait()}; {self._last_words()}")
        found: dict[str, Any] = json.loads(line)
        return found

    def ask(self, question: dict[str, Any], timeout_s: float) -> dict[str, Any]:
        assert self._process.stdin is not None
        try:
            print(json.dumps(question), file=self._process.stdin, flush=True)
        except OSError:
            raise EngineFailed(f"takes no question; {self._last_words()}") from None
        return self.answer(timeout_s)

    def peak_memory(self) -> int:
        """Bytes: the sum of the high-water marks of the processes that live now."""
        total = 0
        for pid in tree(self._process.pid):
            with contextlib.suppress(OSError):
                for line in Path(f"/proc/{pid}/status").read_text().splitlines():
                    if line.startswith("VmHWM"):
                        total += int(line.split()[1]) * 1024
        return total

    def cpu_seconds(self) -> float:
        """What its processes have used so far."""
        ticks = 0
        for pid in tree(self._process.pid):
            with contextlib.suppress(OSError):
                ticks += sum(map(int, _stat(pid)[11:15]))
        return ticks / os.sysconf("SC_CLK_TCK")

    def stop(self) -> None:
        """Ask it to end, and end all of its processes that do not."""
        pids = tree(self._process.pid)
        assert self._process.stdin is not None
        with contextlib.suppress(OSError):
            self._process.stdin.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(15)
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self._process.wait()

    def _last_words(self) -> str:
        lines = [line for line in self._log.read_text(errors="replace").splitlines() if line.strip()]
        return f"its log ends with {lines[-1][:300]!r}" if lines else "its log is empty"


def machine_cpu_seconds() -> float:
    """CPU time of the whole machine since it started, stolen time included."""
    with Path("/proc/stat").open() as file:
        user, nice, system, _idle, _iowait, *others = map(int, file.readline().split()[1:9])
    return (user + nice + system + sum(others)) / os.sysconf("SC_CLK_TCK")


def tree(root: int) -> list[int]:
    """`root` and all its living descendants."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                children.setdefault(int(_stat(int(entry.name))[1]), []).append(int(entry.name))
    found, waiting = [], [root]
    while waiting:
        pid = waiting.pop()
        found.append(pid)
        waiting += children.get(pid, [])
    return found


def _stat(pid: int) -> list[str]:
    """The fields of /proc/PID/stat behind the command's name."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
