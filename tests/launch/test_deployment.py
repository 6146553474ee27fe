"""Children start, are watched, and always end: with the real scheduler and a worker that sleeps."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from gllm.config import DeploymentConfig, from_options
from gllm.launch import OFFLINE, Deployment, LaunchError
from gllm.protocol.messages import Role

WORKER = {Role.WORKER: "stand_ins"}


@pytest.fixture(autouse=True)
def stand_in(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))
    monkeypatch.setenv("GLLM_BENCH_SLEEP_MS", "1")
    monkeypatch.setenv("GLLM_BENCH_OUT", str(tmp_path / "steps.json"))
    monkeypatch.delenv("STAND_IN_FAULT", raising=False)


@pytest.fixture
def config(tmp_path: Path) -> DeploymentConfig:
    (tmp_path / "run").mkdir()
    return from_options(model="unused", ipc_dir=str(tmp_path / "run"), log_level="error")


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def title_of(pid: int) -> str:
    return Path(f"/proc/{pid}/cmdline").read_bytes().rstrip(b"\0 ").decode()


def pids_of(deployment: Deployment) -> dict[Role, int]:
    return {role: child.pid for role, child in deployment._children.items()}


def wait_until_gone(pids: list[int], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while any(is_alive(pid) for pid in pids):
        assert time.monotonic() < deadline, (
            f"still alive after {seconds} s: {[p for p in pids if is_alive(p)]}"
        )
        time.sleep(0.05)


def test_children_serve_under_their_titles_in_a_private_directory(config: DeploymentConfig) -> None:
    deployment = Deployment.start(config, OFFLINE, modules=WORKER, timeout_s=120)
    pids = pids_of(deployment)
    try:
        assert deployment.run_dir.stat().st_mode & 0o777 == 0o700
        assert {role: title_of(pid) for role, pid in pids.items()} == {
            Role.SCHEDULER: "gllm::scheduler",
            Role.WORKER: "gllm::worker",
        }
    finally:
        deployment.stop()
    deployment.stop()  # once more does nothing
    assert not any(is_alive(pid) for pid in pids.values())
    assert not deployment.run_dir.exists()
    assert deployment.failure is None


@pytest.mark.parametrize("role", [Role.WORKER, Role.SCHEDULER])
def test_a_killed_child_ends_all_with_its_reason(config: DeploymentConfig, role: Role) -> None:
    deployment = Deployment.start(config, OFFLINE, modules=WORKER, timeout_s=120)
    reasons: list[str] = []
    deployment.on_failure(reasons.append)
    pids = pids_of(deployment)
    os.kill(pids[role], signal.SIGKILL)
    wait_until_gone(list(pids.values()), 30)
    deployment.stop()
    assert reasons == [f"the {role} process (pid {pids[role]}) was ended by SIGKILL"]
    assert not deployment.run_dir.exists()
    deployment.on_failure(reasons.append)
    assert len(reasons) == 2, "who asks late hears it at once"


@pytest.mark.parametrize(
    ("fault", "sentence"),
    [
        ("refuses", "the model is too large: choose a smaller one"),
        ("raises", "the worker failed: ZeroDivisionError: one over nothing"),
        ("vanishes", r"the worker process \(pid \d+\) ended unexpectedly with exit code 7"),
    ],
)
def test_a_child_that_cannot_start_gives_its_reason(
    config: DeploymentConfig, monkeypatch: pytest.MonkeyPatch, fault: str, sentence: str
) -> None:
    monkeypatch.setenv("STAND_IN_FAULT", fault)
    with pytest.raises(LaunchError, match=f"^{sentence}$"):
        Deployment.start(config, OFFLINE, modules=WORKER, timeout_s=120)
    assert os.listdir(str(config.ipc.dir)) == []


def test_a_start_that_takes_too_long_is_given_up(
    config: DeploymentConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STAND_IN_FAULT", "is slow")
    with pytest.raises(LaunchError, match="not ready after"):
        Deployment.start(config, OFFLINE, modules=WORKER, timeout_s=1)
    assert os.listdir(str(config.ipc.dir)) == []


def test_children_end_when_their_parent_is_killed(config: DeploymentConfig) -> None:
    script = f"""
from gllm.config import from_options
from gllm.launch import OFFLINE, Deployment
from gllm.protocol.messages import Role
config = from_options(model="unused", ipc_dir={str(config.ipc.dir)!r}, log_level="error")
deployment = Deployment.start(config, OFFLINE, modules={{Role.WORKER: "stand_ins"}})
print(*(child.pid for child in deployment._children.values()), flush=True)
import time
time.sleep(60)
"""
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        pids = [int(pid) for pid in parent.stdout.readline().split()]
        assert len(pids) == 2
        parent.kill()
    wait_until_gone(pids, 60)
    assert os.listdir(str(config.ipc.dir)) == []


def test_a_run_directory_too_long_for_sockets_is_named_before_anything_starts(tmp_path: Path) -> None:
    long = tmp_path / ("d" * (107 - len(str(tmp_path)) - len("/gllm-12345678/control.sock") - 1))
    long.mkdir()
    config = from_options(model="unused", ipc_dir=str(long), log_level="error")
    with pytest.raises(LaunchError, match="choose a shorter directory with --ipc-dir"):
        Deployment.start(config, OFFLINE, modules=WORKER, timeout_s=120)
    assert os.listdir(long) == []
