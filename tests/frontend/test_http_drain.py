"""Draining: what runs finishes, what is new is told to go elsewhere."""

import threading
import time

import httpx
from http_server import Deployment


def test_open_requests_finish_and_new_ones_are_refused(own_server: Deployment) -> None:
    server = own_server
    server.answers("hello you")
    server.scheduler.paused.set()
    answers: list[httpx.Response] = []
    threads = [
        threading.Thread(target=lambda: answers.append(server.complete())),
        threading.Thread(target=lambda: answers.append(server.chat(stream=True))),
    ]
    for thread in threads:
        thread.start()
    while len(server.scheduler.submits) < 2:
        time.sleep(0.005)
    drained = threading.Event()

    def drain() -> None:
        server.call(server.gateway.drain())
        drained.set()

    threading.Thread(target=drain, daemon=True).start()
    deadline = time.monotonic() + 60
    while server.http.get("/health").status_code == 200:
        assert time.monotonic() < deadline
    for refused in (server.complete(), server.chat(stream=True), server.http.get("/health")):
        assert refused.status_code == 503
        assert refused.json()["error"]["code"] == "shutting_down"
        assert refused.json()["error"]["type"] == "server_error"
        assert refused.headers["retry-after"]
    assert server.http.get("/v1/models").status_code == 200
    assert not drained.is_set()
    server.scheduler.paused.clear()
    for thread in threads:
        thread.join(60)
    plain, stream = sorted(answers, key=lambda answer: answer.text.startswith("data:"))
    assert plain.json()["choices"][0]["text"] == "hello you"
    assert stream.text.endswith("data: [DONE]\n\n")
    assert drained.wait(60)


def test_closing_the_engine_ends_open_streams_with_an_error(own_server: Deployment) -> None:
    server = own_server
    server.scheduler.script = lambda _submit: [5]
    with server.http.stream(
        "POST", "/v1/completions", json={"model": "tiny", "prompt": "a", "stream": True}
    ) as stream:
        lines = stream.iter_lines()
        assert next(lines).startswith("data: ")
        server.call(server.engine.close())
        rest = [line for line in lines if line]
    assert '"code": "loading"' in rest[-2]
    assert rest[-1] == "data: [DONE]"
    refused = server.complete()
    assert refused.status_code == 503
    assert server.http.get("/health").status_code == 503
