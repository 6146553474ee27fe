"""The documented errors of a server's state and of its limits, row by row; and how little they repeat."""

import json
import re
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from fake_scheduler import FakeScheduler
from http_server import Deployment, serving

from gllm.config.schema import FrontendConfig
from gllm.frontend import body
from gllm.frontend.body import parse_object
from gllm.frontend.errors import ApiError
from gllm.frontend.tokenizer import Tokenizer
from gllm.protocol.messages import RejectCode, Rejected

Row = tuple[int, str, str | None, str | None]

INVALID, SERVER = "invalid_request_error", "server_error"


def row_of(response: httpx.Response) -> Row:
    error = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert len(response.content) < 2000
    return response.status_code, error["type"], error["code"], error["param"]


def refused(code: RejectCode) -> Callable[[Deployment], httpx.Response]:
    def ask(server: Deployment) -> httpx.Response:
        server.scheduler.reject = Rejected(0, code, "a sentence")
        return server.complete()

    return ask


ROWS: list[tuple[Callable[[Deployment], httpx.Response], Row, dict[str, str]]] = [
    (lambda s: s.complete(prompt="x" * 200_000), (413, INVALID, None, None), {}),
    (lambda s: s.http.get("/nowhere"), (404, INVALID, None, None), {}),
    (lambda s: s.http.get("/v1/completions"), (405, INVALID, None, None), {"allow": "POST"}),
    (lambda s: s.complete(model="other"), (404, INVALID, "model_not_found", "model"), {}),
    (lambda s: s.complete(temperature=3), (400, INVALID, None, "temperature"), {}),
    (refused(RejectCode.OVERLOADED), (503, SERVER, "overloaded", None), {"retry-after": "1"}),
    (refused(RejectCode.TIMEOUT), (504, SERVER, "timeout", None), {}),
    (refused(RejectCode.TOO_LONG), (400, INVALID, "context_length_exceeded", "prompt"), {}),
    (lambda s: s.http.get("/v1/requests"), (403, "permission_error", None, None), {}),
    (lambda s: s.http.post("/reset_prefix_cache"), (403, "permission_error", None, None), {}),
]


@pytest.mark.parametrize(("ask", "row", "headers"), ROWS, ids=range(len(ROWS)))
def test_each_row_has_its_status_type_code_and_param(
    server: Deployment, ask: Callable[[Deployment], httpx.Response], row: Row, headers: dict[str, str]
) -> None:
    response = ask(server)
    assert row_of(response) == row
    assert headers.items() <= response.headers.items()
    assert response.headers["x-request-id"]


def test_without_its_scheduler_it_is_loading_and_serves_again_when_that_is_back(
    tmp_path: Path, tokenizer: Tokenizer
) -> None:
    with serving(tmp_path, tokenizer) as server:
        server.scheduler.close()
        until = time.monotonic() + 60
        while (response := server.complete()).status_code != 503:
            assert time.monotonic() < until
        assert row_of(response) == (503, SERVER, "loading", None)
        assert response.headers["retry-after"] == "1"
        assert row_of(server.http.get("/ready")) == (503, SERVER, "loading", None)
        assert server.http.get("/live").status_code == 200
        assert server.http.get("/metrics").status_code == 503
        server.scheduler = FakeScheduler(server.address, tokenizer.vocab_size)
        server.answers("fine")
        while (response := server.complete()).status_code != 200:
            assert time.monotonic() < until
            time.sleep(0.05)
        assert server.http.get("/ready").status_code == 200


def test_while_draining_new_requests_are_refused_and_life_and_metrics_are_shown(
    own_server: Deployment,
) -> None:
    own_server.call(own_server.gateway.drain())
    for response in (own_server.complete(), own_server.http.get("/ready"), own_server.http.get("/health")):
        assert row_of(response) == (503, SERVER, "shutting_down", None)
        assert response.headers["retry-after"] == "1"
    assert own_server.http.get("/live").status_code == 200
    assert own_server.http.get("/metrics").status_code == 200


def test_errors_before_a_handler_have_the_form_of_their_api(tmp_path: Path, tokenizer: Tokenizer) -> None:
    keys = FrontendConfig.model_validate({"api_keys": "sk-1"})
    with serving(tmp_path, tokenizer, frontend=keys) as server:
        answer = server.http.post("/v1/messages", json={})
        assert answer.status_code == 401
        assert answer.json()["type"] == "error"
        assert answer.json()["error"]["type"] == "authentication_error"


@pytest.mark.parametrize("item", [b"1,", b"{},", b"[],"])
def test_a_body_of_millions_of_values_is_refused_before_it_is_read(item: bytes) -> None:
    body = b'{"prompt": [' + item * 2_000_001 + b"1]}"
    began = time.process_time()
    with pytest.raises(ApiError, match="more than 2000000 values") as caught:
        parse_object(body)
    assert caught.value.status == 400
    assert time.process_time() - began < 0.5
    assert len(parse_object(b'{"prompt": [' + b"1," * 10_000 + b"1]}")["prompt"]) == 10_001


def test_a_large_body_is_read_beside_the_event_loop(
    server: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads: list[str] = []

    def noted(read: bytes) -> dict[str, Any]:
        threads.append(threading.current_thread().name)
        return parse_object(read)

    monkeypatch.setattr(body, "LARGE_BYTES", 5000)
    monkeypatch.setattr(body, "parse_object", noted)
    server.answers("fine")
    assert server.complete().status_code == 200
    assert server.complete(prompt=[1] * 100, user="u" * 6000).status_code == 200
    assert threads[0] != threads[1]


JUNK = "\u00e4" * 3000


def test_no_error_repeats_more_than_200_characters_of_what_was_sent(server: Deployment) -> None:
    """Every field of every body, with long text as its value, within lists and as keys."""
    server.answers("fine")
    document = server.http.get("/openapi.json").json()
    num_asked = 0
    for path, methods in document["paths"].items():
        if "post" not in methods or "requestBody" not in methods["post"]:
            continue
        reference = methods["post"]["requestBody"]["content"]["application/json"]["schema"]["$ref"]
        fields = document["components"]["schemas"][reference.rpartition("/")[2]]["properties"]
        valid = {
            "model": "tiny",
            "messages": [{"role": "user", "content": "hi"}],
            "prompt": "hi",
            "input": "hi",
            "max_tokens": 3,
        }
        base = {name: value for name, value in valid.items() if name in fields}
        for name in [*fields, JUNK]:
            if name in ("prompt", "input", "user", "cache_salt", "system", "instructions"):
                continue  # text that may be long
            for value in (JUNK, [JUNK], {JUNK: 1}, [{JUNK: JUNK}], {"type": JUNK}, [{"type": JUNK}]):
                answer = server.http.post(
                    path, content=json.dumps(base | {name: value}).encode(), headers=TYPE
                )
                num_asked += 1
                if answer.status_code == 200:
                    continue
                assert answer.status_code < 500, (path, name)
                longest = max(map(len, re.findall("\u00e4+", str(answer.json()))), default=0)
                assert longest <= 200, (path, name, value, answer.json())
                assert str(answer.json()).count("\u00e4") <= 400, (path, name)
    assert num_asked > 200


TYPE: dict[str, Any] = {"content-type": "application/json"}
