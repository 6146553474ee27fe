"""Two frontend processes on one port: seen from outside as one server."""

import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import httpx
from prometheus_client.parser import text_string_to_metric_families
from served import MODEL, ROOT, Served, serve

ASK = {"model": MODEL, "prompt": [5, 6, 7], "max_tokens": 4, "ignore_eos": True, "temperature": 0}
TWO = ("--api-server-count", "2", "--admin-api-key", "sk-admin")
ADMIN = {"authorization": "Bearer sk-admin"}


def ended(served: Served) -> float:
    """Outputs that ended, as one scrape (of whichever process) tells it."""
    text = httpx.get(f"{served.url}/metrics", timeout=60).text
    for family in text_string_to_metric_families(text):
        if family.name == "gllm:request_success":
            return sum(sample.value for sample in family.samples)
    return 0


def test_two_frontends_share_a_port_their_counts_and_their_end() -> None:
    with serve(*TWO) as served:
        children = served.children()
        assert children.keys() == {"gllm::frontend", "gllm::frontend.1", "gllm::scheduler", "gllm::worker"}
        sockets = {title: len(list(Path(f"/proc/{pid}/fd").iterdir())) for title, pid in children.items()}
        texts = set()
        clients = [httpx.Client(base_url=served.url, timeout=60) for _ in range(16)]
        for client in clients:  # each on a connection of its own, which is kept
            answer = client.post("/v1/completions", json=ASK)
            assert answer.status_code == 200
            texts.add(answer.json()["choices"][0]["text"])
        assert len(texts) == 1
        for title in ("gllm::frontend", "gllm::frontend.1"):
            now = len(list(Path(f"/proc/{children[title]}/fd").iterdir()))
            assert now > sockets[title], "all connections went to the other process"
        for client in clients:
            client.close()
        until = time.monotonic() + 60
        while {ended(served) for _ in range(8)} != {16}:  # a frontend tells the others once a second
            assert time.monotonic() < until
            time.sleep(0.2)

        answers: list[httpx.Response] = []
        body = ASK | {"max_tokens": 600}

        def ask(number: int) -> None:
            headers = {"x-request-id": f"long-{number}"}
            answers.append(httpx.post(f"{served.url}/v1/completions", json=body, headers=headers, timeout=60))

        asking = [threading.Thread(target=ask, args=(number,)) for number in range(6)]
        for thread in asking:
            thread.start()
        seen: set[str] = set()
        while not answers and len(seen) < 6:
            listed = httpx.get(f"{served.url}/v1/requests", headers=ADMIN, timeout=60).json()["data"]
            seen |= {state["id"] for state in listed}
        assert seen
        assert seen <= {f"long-{number}" for number in range(6)}
        assert served.stop(signal.SIGTERM) == 0
        for thread in asking:
            thread.join()
        assert [answer.status_code for answer in answers] == [200] * 6
        assert not any(Path(f"/proc/{pid}").exists() for pid in children.values())


def test_a_port_that_several_frontends_have_is_noticed_by_the_next_server() -> None:
    with serve(*TWO) as served:
        port = served.url.rpartition(":")[2]
        command = [sys.executable, "-m", "gllm", "serve", "configs/demo.yaml", "--port", port]
        second = subprocess.run(
            [*command, "--api-server-count", "2"], cwd=ROOT, capture_output=True, text=True, timeout=60
        )
        assert second.returncode == 1
        assert f"cannot listen on 127.0.0.1 port {port}" in second.stderr
        assert httpx.post(f"{served.url}/v1/completions", json=ASK, timeout=60).status_code == 200
