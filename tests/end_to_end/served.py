"""A server as a user starts it, and what only its scheduler knows."""

import contextlib
import os
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import zmq

from gllm.process import FRONTENDS
from gllm.protocol.channel import Channel, endpoint, hello
from gllm.protocol.messages import Role, SchedulerReady, Stats, StatsRequest

ROOT = Path(__file__).resolve().parent.parent.parent
MODEL = "demo/model"
READY_S = 60


@dataclass
class Served:
    url: str
    process: subprocess.Popen[str]
    ipc_dir: Path

    @property
    def run_dir(self) -> Path:
        (found,) = self.ipc_dir.iterdir()
        return found

    def stats(self) -> Stats:
        """Asked from the scheduler over its own socket, as another frontend would."""
        with zmq.Context() as context:
            scheduler = Channel.connect(context, zmq.DEALER, endpoint(self.run_dir, FRONTENDS))
            with contextlib.closing(scheduler):
                scheduler.send(hello(Role.FRONTEND))
                assert isinstance(scheduler.receive(60), SchedulerReady)
                scheduler.send(StatsRequest())
                stats = scheduler.receive(60)
        assert isinstance(stats, Stats)
        return stats

    def children(self) -> dict[str, int]:
        """Process ids by title."""
        found = {}
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                with contextlib.suppress(OSError):
                    parent = (entry / "stat").read_text().rsplit(")", 1)[1].split()[1]
                    if int(parent) == self.process.pid:
                        title = (entry / "cmdline").read_bytes().rstrip(b"\0 ").decode()
                        found[title] = int(entry.name)
        return found

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Signal, wait, and return the exit code."""
        self.process.send_signal(number)
        return self.process.wait(60)


@contextlib.contextmanager
def serve(*flags: str) -> Iterator[Served]:
    """`gllm serve` with the demo model on a free port, ended with SIGTERM."""
    # Not pytest's tmp_path: a socket's path may have no more than 107 bytes.
    with tempfile.TemporaryDirectory(prefix="gllm-test-") as ipc_dir:
        yield from _serve(Path(ipc_dir), *flags)


def _serve(ipc_dir: Path, *flags: str) -> Iterator[Served]:
    command = [sys.executable, "-m", "gllm", "serve", "configs/demo.yaml", "--port", "0"]
    command += ["--ipc-dir", str(ipc_dir), "--log-level", "warning", *flags]
    # The library path of this checkout, wherever pytest was started.
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    with process:
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            url = re.search(r"http://\S+", line)
            if url is None:
                process.kill()
                raise AssertionError(f"not ready: {line!r} {process.communicate()[1]!r}")
            yield Served(url[0], process, ipc_dir)
        finally:
            if process.poll() is None:
                process.terminate()
                try:
                    process.wait(60)
                except subprocess.TimeoutExpired:
                    process.kill()
