"""Starting, stopping and failing of `gllm serve`, seen from outside."""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import httpx
import pytest
from served import MODEL, ROOT, serve

TITLES = {"gllm::frontend", "gllm::scheduler", "gllm::worker"}
LONG = {"model": MODEL, "prompt": [5, 6, 7], "max_tokens": 400, "ignore_eos": True, "temperature": 0}


def is_alive(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists()


def test_only_the_worker_has_torch_in_it() -> None:
    """Read from the running children themselves, after they have answered a request."""
    with serve() as served:
        httpx.post(
            f"{served.url}/v1/completions", json=LONG | {"max_tokens": 2}, timeout=60
        ).raise_for_status()
        mapped = {title: Path(f"/proc/{pid}/maps").read_text() for title, pid in served.children().items()}
    assert {title for title, maps in mapped.items() if "libtorch" in maps} == {"gllm::worker"}
    assert {title for title, maps in mapped.items() if "/numpy/" in maps} == {"gllm::worker"}
    assert {title for title, maps in mapped.items() if "/tokenizers/" in maps} == {"gllm::frontend"}


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_lets_running_requests_finish_and_leaves_nothing(number: int) -> None:
    with serve() as served:
        children = served.children()
        assert children.keys() == TITLES
        answers = []
        body = LONG | {"max_tokens": 1000}  # still running when the signal comes

        def ask() -> None:
            answers.append(httpx.post(f"{served.url}/v1/completions", json=body, timeout=120))

        asking = threading.Thread(target=ask)
        asking.start()
        while not answers and not served.stats().num_running:
            time.sleep(0.01)
        assert served.stop(number) == 0
        asking.join()
        assert answers[0].status_code == 200
        assert answers[0].json()["usage"]["completion_tokens"] == 1000
        assert not any(is_alive(pid) for pid in children.values())
        assert list(served.ipc_dir.iterdir()) == []


def test_while_draining_new_requests_get_503() -> None:
    with serve() as served, httpx.Client(base_url=served.url, timeout=60) as client:
        body = LONG | {"max_tokens": 1500, "stream": True}
        with client.stream("POST", "/v1/completions", json=body) as response:
            lines = response.iter_lines()
            next(lines)
            served.process.send_signal(signal.SIGTERM)
            short = LONG | {"max_tokens": 1}
            while (refused := httpx.post(f"{served.url}/v1/completions", json=short, timeout=60)).is_success:
                pass  # the signal is on its way to the frontend
            assert refused.status_code == 503
            assert refused.json()["error"]["code"] == "shutting_down"
            assert "retry-after" in refused.headers
            assert [line for line in lines if line][-1] == "data: [DONE]"
        assert served.process.wait(60) == 0


def test_a_second_signal_does_not_wait() -> None:
    with serve() as served, httpx.Client(base_url=served.url, timeout=60) as client:
        body = LONG | {"max_tokens": 2000, "stream": True}
        with client.stream("POST", "/v1/completions", json=body) as response:
            next(response.iter_lines())
            served.process.send_signal(signal.SIGTERM)
            time.sleep(0.3)
            began = time.monotonic()
            assert served.stop() == 0
            assert time.monotonic() - began < 5


@pytest.mark.parametrize("title", sorted(TITLES))
def test_a_killed_child_ends_all_within_5_s_and_says_why(title: str) -> None:
    with serve() as served:
        children = served.children()
        os.kill(children[title], signal.SIGKILL)
        began = time.monotonic()
        assert served.process.wait(60) == 1
        assert time.monotonic() - began < 5
        assert served.process.stderr is not None
        role = title.removeprefix("gllm::")
        last = served.process.stderr.read().splitlines()[-1]
        assert last == f"gllm: the {role} process (pid {children[title]}) was ended by SIGKILL"
        assert not any(is_alive(pid) for pid in children.values())
        assert list(served.ipc_dir.iterdir()) == []


def test_children_end_when_the_launcher_is_killed() -> None:
    with serve() as served:
        children = served.children()
        served.process.kill()
        deadline = time.monotonic() + 60
        while any(is_alive(pid) for pid in children.values()):
            assert time.monotonic() < deadline
            time.sleep(0.1)
        assert list(served.ipc_dir.iterdir()) == []


def refusal(*arguments: str) -> str:
    """What `gllm serve` says on stderr when it cannot start; it must say it in one line."""
    done = subprocess.run(
        [sys.executable, "-m", "gllm", "serve", *arguments, "--log-level", "critical"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode != 0
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    return line


def test_a_port_in_use_is_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        line = refusal("configs/demo.yaml", "--port", str(port))
    assert f"port {port}" in line
    assert "--port" in line


def test_a_cache_too_small_for_one_sequence_names_the_length_that_fits() -> None:
    line = refusal("configs/demo.yaml", "--port", "0", "--max-total-tokens", "512")
    assert "max_model_len" in line
    assert "512" in line


def test_a_missing_directory_is_named() -> None:
    assert "no/such/model" in refusal("--model-path", "no/such/model")
