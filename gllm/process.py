"""The life of one child process: who it is, where its sockets are, when it must end.

Every `main` of frontend, scheduler and worker is started as
`python -m gllm.<role>.main RUN_DIR --epoch N --lifeline FD [--name NAME]` and begins with `Child.start`.
Knows nothing of what the process computes.
"""

import argparse
import logging
import os
import shutil
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import setproctitle
import zmq

from gllm.config import DeploymentConfig
from gllm.protocol.channel import Channel, endpoint, hello
from gllm.protocol.messages import Failed, Message, Ready, Role, Stop

CONFIG_FILE = "config.json"
CONTROL = "control"  # launcher ROUTER <-> children DEALER
FRONTENDS = "frontends"  # scheduler ROUTER <-> frontends DEALER
PLANS = "plans"  # scheduler PUSH -> worker PULL
RESULTS = "results"  # worker PUSH -> scheduler PULL
SOCKETS = (CONTROL, FRONTENDS, PLANS, RESULTS)

EXIT_FAILED = 1

log = logging.getLogger("gllm")


class StartError(Exception):
    """This deployment cannot start; the message is one sentence that says how to mend it."""


class Child:
    """What every child process has: its configuration, its control channel, its end."""

    def __init__(self, role: Role, run_dir: Path, epoch: int, lifeline: int, name: str | None = None) -> None:
        self.role = role
        self.run_dir = run_dir
        self.epoch = epoch
        self.config = DeploymentConfig.from_json((run_dir / CONFIG_FILE).read_text())
        self.context: zmq.Context[Any] = zmq.Context()
        self.control = Channel.connect(
            self.context, zmq.DEALER, endpoint(run_dir, CONTROL), identity=name or role
        )
        self.control.send(hello(role, epoch))
        threading.Thread(target=_die_with_parent, args=(lifeline, run_dir), daemon=True).start()

    @classmethod
    def start(cls, role: Role, argv: list[str] | None = None) -> "Child":
        """The child that the command line describes, with its title, signals and log set."""
        parser = argparse.ArgumentParser(prog=f"gllm.{role}")
        parser.add_argument("run_dir", type=Path)
        parser.add_argument("--epoch", type=int, required=True)
        parser.add_argument("--lifeline", type=int, required=True)
        parser.add_argument("--name", default=str(role), help="where there are several of this role")
        given = parser.parse_args(argv)
        setproctitle.setproctitle(f"gllm::{given.name}")
        # Ctrl-C is the launcher's to see: it stops us in order.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        child = cls(role, given.run_dir, given.epoch, given.lifeline, given.name)
        set_up_log(given.name, child.config.frontend.log_level)
        return child

    def address(self, name: str) -> str:
        return endpoint(self.run_dir, name)

    def ready(self, detail: str = "") -> None:
        """Tell the launcher that this child serves."""
        self.control.send(Ready(detail))

    def told(self) -> Message | None:
        """What the launcher said, if anything."""
        return self.control.receive(timeout_s=0)

    def is_told_to_stop(self) -> bool:
        """Whether the launcher says stop, for children that hear nothing else; takes a microsecond."""
        return bool(self.control.socket.poll(0)) and isinstance(self.told(), Stop)

    def close(self) -> None:
        self.control.close()
        self.context.destroy(linger=0)


def run_child(role: Role, body: Callable[[Child], None], argv: list[str] | None = None) -> None:
    """Run `body` as the whole of a child process, and exit.

    An exception of `body` becomes one sentence to the launcher; the traceback of an unexpected one
    goes to the log, where the operator (and no client) sees it.
    """
    child = Child.start(role, argv)
    status = 0
    try:
        body(child)
    except StartError as error:
        _report(child, str(error))
        status = EXIT_FAILED
    except Exception as error:
        log.exception("%s failed", role)
        _report(child, f"the {role} failed: {type(error).__name__}: {error}")
        status = EXIT_FAILED
    child.close()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)  # threads of libraries must not hold up the end


def _report(child: Child, sentence: str) -> None:
    child.control.send(Failed(sentence[:4000]))
    child.control.socket.close(linger=2000)  # the one message that must leave before we do


def _die_with_parent(lifeline: int, run_dir: Path) -> None:
    """End this process once the launcher is gone: the read end of its pipe then sees the end of file.

    The launcher can no longer tidy up then, so whoever comes last removes the run directory.
    """
    try:
        os.read(lifeline, 1)
    finally:
        shutil.rmtree(run_dir, ignore_errors=True)
        os._exit(EXIT_FAILED)


def set_up_log(role: str, level: str) -> None:
    """Log lines on stderr that say which process speaks."""
    logging.basicConfig(
        level=level.upper(),
        stream=sys.stderr,
        format=f"%(asctime)s {role} %(levelname)s %(message)s",
        force=True,
    )
