"""One child process: how it is spawned, what ties its life to the launcher's, how it ended.

Each child is a fresh interpreter running `python -m gllm.<role>.main`: nothing is forked, nothing
pickled, and a user's script needs no `__main__` guard. Knows nothing of what the children say.
"""

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import gllm


@contextlib.contextmanager
def lifeline() -> Iterator[int]:
    """The read end of a pipe whose write end nobody but this process has, for as long as it lives."""
    read_end, write_end = os.pipe()
    try:
        yield read_end
    finally:
        os.close(read_end)
        os.close(write_end)


def spawn(module: str, run_dir: Path, name: str, *, epoch: int, lifeline: int) -> "subprocess.Popen[bytes]":
    """A fresh interpreter that runs `module` as the main one of a child.

    In a session of its own: Ctrl-C in the terminal is for the launcher, which stops all in order.
    """
    package_root = str(Path(gllm.__file__).resolve().parent.parent)
    path = os.pathsep.join(filter(None, [package_root, os.environ.get("PYTHONPATH")]))
    command = [sys.executable, "-P", "-m", module, str(run_dir)]
    return subprocess.Popen(
        [*command, "--epoch", str(epoch), "--lifeline", str(lifeline), "--name", name],
        stdin=subprocess.DEVNULL,
        pass_fds=[lifeline],
        start_new_session=True,
        env={**os.environ, "PYTHONPATH": path},
    )


def how_it_ended(status: int) -> str:
    if status < 0:
        return f"was ended by {signal.Signals(-status).name}"
    return f"ended unexpectedly with exit code {status}"
