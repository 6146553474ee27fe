"""The children of a deployment from their start to their end, and the run directory that they share.

Their configuration is a file in that private directory, where the sockets are, too. All hold the read end
of one pipe whose write end only this process has: when it dies, however it dies, they see that and end.
Knows nothing of signals to this process, which are its user's.
"""

import contextlib
import logging
import shutil
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import zmq

from gllm.config import DeploymentConfig
from gllm.launch.children import how_it_ended, lifeline, spawn
from gllm.launch.shared_port import reserved
from gllm.process import CONFIG_FILE, CONTROL, SOCKETS
from gllm.protocol.channel import PeerGone, Server, endpoint
from gllm.protocol.messages import Drain, Drained, Failed, Message, Ready, Role, Stop
from gllm.protocol.wire import ProtocolError
from gllm.timeline import check_writable, join

log = logging.getLogger("gllm")

TICK_S = 0.2  # how often pids are looked at
GRACE_S = 3.0  # how long a child that was told to stop may take
SERVING = (Role.FRONTEND, Role.SCHEDULER, Role.WORKER)  # in the order in which they are stopped
OFFLINE = (Role.SCHEDULER, Role.WORKER)


class LaunchError(RuntimeError):
    """Why a deployment could not start, or ended, in one sentence."""


class Deployment:
    """Running children and their run directory. One thread of its own talks to them.

    `modules` names another main module for a role: a worker that only sleeps, say. A child's name is its
    role; further frontends are `frontend.1`, `frontend.2` and so on.
    """

    def __init__(
        self, config: DeploymentConfig, roles: Sequence[Role], modules: Mapping[Role, str] | None = None
    ) -> None:
        self.run_dir = Path(tempfile.mkdtemp(prefix="gllm-", dir=config.ipc.dir))  # mode 0700
        self.details: dict[str, str] = {}  # what each child said when it was ready
        self.failure: str | None = None
        self._role_of = dict(_names(roles, config.frontend.num_processes))
        self._modules = {role: f"gllm.{role}.main" for role in roles} | dict(modules or {})
        self._children: dict[str, subprocess.Popen[bytes]] = {}
        self._peers: dict[str, bytes] = {}
        self._num_drained = 0
        self._settled = threading.Event()  # ready, or failed
        self._drained = threading.Event()
        self._stopping = threading.Event()
        self._drain_wanted = threading.Event()
        self._callbacks: list[Callable[[str], None]] = []
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._watch, args=(config,), name="gllm-launch", daemon=True)

    @classmethod
    def start(
        cls,
        config: DeploymentConfig,
        roles: Sequence[Role],
        *,
        modules: Mapping[Role, str] | None = None,
        timeout_s: float | None = None,
    ) -> "Deployment":
        """All `roles`, ready to serve; raises `LaunchError` with the reason if one cannot."""
        deployment = cls(config, roles, modules)
        deployment.begin()
        try:
            if not deployment.wait_ready(timeout_s):
                raise LaunchError(f"the processes were not ready after {timeout_s} s")
            if deployment.failure is not None:
                raise LaunchError(deployment.failure)
        except BaseException:
            deployment.stop()
            raise
        return deployment

    def begin(self) -> None:
        """Spawn the children; returns at once."""
        self._thread.start()

    def wait_ready(self, timeout_s: float | None = None) -> bool:
        """True once all children serve or one has failed (see `failure`); False after `timeout_s`."""
        return self._settled.wait(timeout_s)

    def address(self, name: str) -> str:
        """The address of the socket `name` in the run directory."""
        return endpoint(self.run_dir, name)

    def on_failure(self, callback: Callable[[str], None]) -> None:
        """Have `callback` called with the reason when a child dies; at once if one has."""
        with self._lock:
            self._callbacks.append(callback)
            failure = self.failure
        if failure is not None:
            callback(failure)

    def drain(self, timeout_s: float) -> bool:
        """Take no new requests and wait for the open ones; whether all of them ended in time."""
        self._drain_wanted.set()
        return self._drained.wait(timeout_s)

    def stop(self) -> None:
        """End all children, in order, and remove the run directory; may be called again."""
        self._stopping.set()
        self._thread.join()

    # ---- the thread ----------------------------------------------------------------------------

    def _watch(self, config: DeploymentConfig) -> None:
        """Spawn, listen, and in the end stop the children and tidy up."""
        context: zmq.Context[Any] = zmq.Context()
        told_to_drain = False
        trace_file = config.observability.trace_file
        try:
            with lifeline() as read_end, contextlib.ExitStack() as stack:
                try:
                    check_writable(trace_file)
                    if len(self._frontends) > 1:
                        config = _with_port(config, stack.enter_context(reserved(config.frontend)))
                    (self.run_dir / CONFIG_FILE).write_text(config.to_json())
                    for name in SOCKETS:
                        endpoint(self.run_dir, name)  # raises for a path that the system cannot take
                    control = Server(context, endpoint(self.run_dir, CONTROL))
                    for name, role in self._role_of.items():
                        self._children[name] = spawn(
                            self._modules[role], self.run_dir, name, epoch=1, lifeline=read_end
                        )
                    while not self._stopping.is_set() and self.failure is None:
                        self._listen(control, TICK_S)
                        self._look_at_pids(control)
                        if self._drain_wanted.is_set() and not told_to_drain:
                            for name in self._frontends:
                                self._tell(control, name, Drain())
                            told_to_drain = True
                    self._stop_children(control)
                except (OSError, ValueError) as error:
                    self._fail(str(error))
                finally:
                    for child in self._children.values():
                        child.kill()
                        child.wait()
                    if self._children:
                        _join_timeline(self.run_dir, trace_file)
        finally:
            context.destroy(linger=0)
            shutil.rmtree(self.run_dir, ignore_errors=True)
            self._settled.set()
            self._drained.set()

    def _listen(self, control: Server, timeout_s: float) -> None:
        """Take what the children said; wait `timeout_s` for the first of it."""
        while True:
            try:
                received = control.receive(timeout_s)
            except ProtocolError as error:
                log.error("a child sent something that is no message: %s", error)
                continue
            if received is None:
                return
            self._take(*received)
            timeout_s = 0.0

    @property
    def _frontends(self) -> list[str]:
        return [name for name, role in self._role_of.items() if role is Role.FRONTEND]

    def _take(self, peer: bytes, message: Message) -> None:
        name = peer.decode()  # a child's socket carries its name as identity
        self._peers[name] = peer
        if isinstance(message, Ready):
            self.details[name] = message.detail
            if len(self.details) == len(self._role_of):
                self._settled.set()
        elif isinstance(message, Failed):
            self._fail(message.sentence)
        elif isinstance(message, Drained):
            self._num_drained += 1
            if self._num_drained == len(self._frontends):
                self._drained.set()

    def _look_at_pids(self, control: Server) -> None:
        """A child that ended unasked is a failure; its own word for it counts, if it left one."""
        for name, child in self._children.items():
            status = child.poll()
            if status is not None and self.failure is None:
                self._listen(control, 0.0)
                self._fail(f"the {name} process (pid {child.pid}) {how_it_ended(status)}")

    def _fail(self, sentence: str) -> None:
        with self._lock:
            if self.failure is not None:
                return
            self.failure = sentence
            callbacks = list(self._callbacks)
        for callback in callbacks:
            callback(sentence)

    def _tell(self, control: Server, name: str, message: Message) -> None:
        if name in self._peers:
            with contextlib.suppress(PeerGone):  # it died this moment: the next look finds that
                control.send(self._peers[name], message)

    def _stop_children(self, control: Server) -> None:
        """Tell every child to stop, in order, and see it gone; who does not go is killed."""
        deadline = time.monotonic() + GRACE_S
        for name, child in self._children.items():
            self._tell(control, name, Stop())
            if name not in self._peers:
                child.terminate()  # it has not even connected: nothing is lost
            with contextlib.suppress(subprocess.TimeoutExpired):
                child.wait(max(deadline - time.monotonic(), 0.1))


def _join_timeline(run_dir: Path, path: str | None) -> None:
    try:
        join(run_dir, path)
    except (OSError, ValueError) as error:
        log.error("the trace file was not written: %s", error)


def _names(roles: Sequence[Role], num_frontends: int) -> Iterator[tuple[str, Role]]:
    for role in roles:
        yield str(role), role
        if role is Role.FRONTEND:
            yield from ((f"{role}.{number}", role) for number in range(1, num_frontends))


def _with_port(config: DeploymentConfig, port: int) -> DeploymentConfig:
    return config.model_copy(update={"frontend": config.frontend.model_copy(update={"port": port})})
