"""Servers before a worker that computes nothing: ours, and vLLM's with an executor of ours below it.

Both take 512 requests at once, in steps of at most 8192 tokens. A single frontend gets a core for itself
and all else the others, so that "one frontend process on one core" is just that. Linux only: it reads /proc.
"""

import contextlib
import os
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from bench.null_steps import STEP_FILE, TOKENS, NullSteps, words_of
from bench.online import environment, started
from bench.peers.process import tree
from gllm.config import from_options
from gllm.frontend.tokenizer import Tokenizer
from gllm.launch import SERVING, Deployment
from gllm.protocol.messages import Role

TICKS_S = os.sysconf("SC_CLK_TCK")
MAX_NUM_SEQS = 512
MAX_NUM_BATCHED_TOKENS = 8192
ROLES = {
    "gllm::frontend": "frontend",
    "gllm::scheduler": "scheduler",
    "gllm::worker": "worker",
    "vllm.entrypoints.openai.api_server": "frontend",
    "VLLM::EngineCore": "scheduler",  # with the executor in it
}


@dataclass(frozen=True)
class Server:
    """A running one. words: that its tokens are, in the order of `null_steps`. roles: of its processes."""

    port: int
    steps: NullSteps
    words: list[str]
    roles: dict[int, str]

    def cpu_s(self) -> dict[str, float]:
        """CPU seconds of each role so far."""
        used = dict.fromkeys(ROLES.values(), 0.0)
        for pid, role in self.roles.items():
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            used[role] += (int(fields[11]) + int(fields[12])) / TICKS_S
        return used


@contextlib.contextmanager
def served(model: str, num_frontends: int, peers: Path | None) -> Iterator[Server]:
    """Ours, or with `peers`, the folder that `bench/peers/install.sh` made, vLLM's."""
    words = words_of(Tokenizer.load(model).pieces())
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        step_file = Path(folder, "step")
        step_file.write_bytes(bytes(8))
        variables = {STEP_FILE: str(step_file), TOKENS: ",".join(map(str, words.values()))}
        steps = NullSteps(step_file, list(words.values()))
        if peers is None:
            os.environ |= variables
            port, root = stack.enter_context(_ours(model, num_frontends)), os.getpid()
        else:
            variables = environment(os.cpu_count() or 1) | variables
            log = Path(folder, "log")
            port, root = stack.enter_context(
                started(lambda port: _vllm_at(port, model, num_frontends, peers), variables, log)
            )
        roles = _roles(root)
        _share_out_cores(roles)
        yield Server(port, steps, list(words), roles)


@contextlib.contextmanager
def _ours(model: str, num_frontends: int) -> Iterator[int]:
    config = from_options(
        model=model,
        port=0,
        max_num_seqs=MAX_NUM_SEQS,
        max_num_batched_tokens=MAX_NUM_BATCHED_TOKENS,
        log_level="warning",
        **({"api_server_count": num_frontends} if num_frontends > 1 else {}),
    )
    deployment = Deployment.start(config, SERVING, modules={Role.WORKER: "bench.null_worker"}, timeout_s=60)
    try:
        yield int(deployment.details[Role.FRONTEND].rpartition(":")[2])
    finally:
        deployment.stop()


def _vllm_at(port: int, model: str, num_frontends: int, peers: Path) -> list[str]:
    return [
        str(peers.resolve() / "vllm/bin/python"), "-m", "vllm.entrypoints.openai.api_server",
        "--model", model, "--host", "127.0.0.1", "--port", str(port),
        "--api-server-count", str(num_frontends),
        "--distributed-executor-backend", "bench.peers.vllm_null.NullExecutor",
        "--max-num-seqs", str(MAX_NUM_SEQS), "--max-num-batched-tokens", str(MAX_NUM_BATCHED_TOKENS),
        "--max-model-len", "2048", "--disable-uvicorn-access-log",
    ]  # fmt: skip


def _roles(root: int) -> dict[int, str]:
    """The processes below `root`, and itself, that have a role in the gateway."""
    found: dict[int, str] = {}
    for pid in tree(root):
        command = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        found.update((pid, role) for title, role in ROLES.items() if title in command)
    return found


def _share_out_cores(roles: dict[int, str]) -> None:
    """A single frontend alone on one core."""
    cores = sorted(os.sched_getaffinity(0))
    frontends = [pid for pid, role in roles.items() if role == "frontend"]
    if len(cores) == 1 or len(frontends) > 1:
        return
    for pid in roles:
        for thread in Path(f"/proc/{pid}/task").iterdir():
            os.sched_setaffinity(int(thread.name), cores[:1] if pid in frontends else cores[1:])
