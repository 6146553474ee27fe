"""API keys, the operator's routes, budgets of a key, and what may not be held for ever: over real HTTP."""

import logging
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from http_server import Deployment, serving

from gllm.config.schema import FrontendConfig
from gllm.frontend.connection import HEADER_TIMEOUT_S
from gllm.frontend.tenants import Budget
from gllm.frontend.tokenizer import Tokenizer
from gllm.protocol.messages import PassedOver, RequestState

BATCH = {"key": "sk-batch", "requests_per_minute": 2}
KEYS = {"search": "sk-search", "batch": BATCH, "one": {"key": "sk-one", "max_concurrency": 1}}
GENERATING = ("/v1/completions", "/v1/chat/completions")
ADMIN_ROUTES = [("GET", "/v1/requests"), ("GET", "/v1/requests/x"), ("POST", "/reset_prefix_cache")]


@contextmanager
def a_server(tmp_path: Path, tokenizer: Tokenizer, limits: dict[str, Any] | None = None, **options: Any):  # type: ignore[no-untyped-def]
    frontend = FrontendConfig.model_validate(options)
    with serving(tmp_path, tokenizer, frontend=frontend, **(limits or {})) as running:
        yield running


@pytest.fixture(scope="module")
def keyed(tmp_path_factory: pytest.TempPathFactory, tokenizer: Tokenizer) -> Iterator[Deployment]:
    with a_server(
        tmp_path_factory.mktemp("k"), tokenizer, api_keys=KEYS, admin_api_keys="sk-admin"
    ) as running:
        yield running


def bearer(key: str) -> dict[str, str]:
    return {"authorization": f"Bearer {key}"}


def completion(server: Deployment, key: str, **body: Any) -> httpx.Response:
    body = {"model": "tiny", "prompt": "hello", **body}
    return server.http.post("/v1/completions", json=body, headers=bearer(key))


def error_of(answer: httpx.Response) -> tuple[int, str, str | None, str | None]:
    error = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    return answer.status_code, error["type"], error["code"], error["param"]


@pytest.mark.parametrize(
    "headers",
    [{}, bearer("sk-wrong"), {"authorization": "Bearer"}, {"authorization": "Basic sk-search"},
     {"authorization": "sk-search"},
     bearer("sk-search2"), {"x-api-key": "nope"}, bearer("sk-\xe9")],
)  # fmt: skip
def test_without_a_valid_key_nothing_is_answered(keyed: Deployment, headers: dict[str, str]) -> None:
    raw = {name: value.encode("latin-1") for name, value in headers.items()}
    for method, path in [
        ("GET", "/v1/models"),
        ("POST", "/v1/completions"),
        ("POST", "/v1/chat/completions"),
    ]:
        answer = keyed.http.request(method, path, headers=raw, content=b"{")
        assert error_of(answer) == (401, "authentication_error", "invalid_api_key", None)
        assert answer.headers["www-authenticate"] == "Bearer"
    keyed.answers("fine")
    assert completion(keyed, "sk-search").status_code == 200


@pytest.mark.parametrize("headers", [bearer("sk-search"), {"x-api-key": "sk-search"}, bearer("sk-admin")])
def test_any_of_the_keys_opens_the_api(keyed: Deployment, headers: dict[str, str]) -> None:
    assert keyed.http.get("/v1/models", headers=headers).status_code == 200


@pytest.mark.parametrize(("method", "path"), ADMIN_ROUTES)
def test_operators_routes_are_closed_to_all_but_admin_keys(keyed: Deployment, method: str, path: str) -> None:
    for headers in ({}, bearer("sk-search"), bearer("wrong")):
        answer = keyed.http.request(method, path, headers=headers)
        assert error_of(answer) == (403, "permission_error", None, None)
    assert keyed.http.request(method, path, headers=bearer("sk-admin")).status_code in (200, 404)


@pytest.mark.parametrize(("method", "path"), ADMIN_ROUTES)
def test_where_no_admin_key_is_set_they_are_closed_to_all(server: Deployment, method: str, path: str) -> None:
    answer = server.http.request(method, path, headers={"authorization": "Bearer"})
    assert error_of(answer) == (403, "permission_error", None, None)
    assert "--admin-api-key" in answer.json()["error"]["message"]


def test_requests_are_listed_with_what_they_wait_for(keyed: Deployment) -> None:
    waited = [0] * len(PassedOver)
    waited[PassedOver.NO_PAGES] = 7
    keyed.scheduler.listed = [
        RequestState("mine", 0, False, 100, 0, 0, 50, 0, 1, 0, 0, 0, 2.5, 2.5, 0.0, waited),
        RequestState("mine", 1, True, 100, 100, 9, 50, 64, 0, 7, 0, 0, 2.5, 0.5, 0.1, [0] * len(PassedOver)),
    ]
    listed = keyed.http.get("/v1/requests?limit=10", headers=bearer("sk-admin")).json()
    assert (listed["num_running"], listed["num_waiting"]) == (1, 0)
    waiting, running = listed["data"]
    assert (waiting["id"], waiting["status"], waiting["waiting_for"]) == ("mine", "waiting", "no_pages")
    assert waiting["passed_over"]["no_pages"] == 7
    assert (waiting["num_preemptions"], waiting["queue_s"]) == (1, 2.5)
    assert (running["status"], running["waiting_for"], running["num_cached_tokens"]) == ("running", None, 64)
    one = keyed.http.get("/v1/requests/mine", headers=bearer("sk-admin")).json()
    assert (one["id"], len(one["outputs"])) == ("mine", 2)
    keyed.scheduler.listed = []
    gone = keyed.http.get(f"/v1/requests/{'x' * 3000}", headers=bearer("sk-admin"))
    assert error_of(gone) == (404, "invalid_request_error", None, "id")
    assert "x" * 201 not in gone.text
    wrong = keyed.http.get(f"/v1/requests?limit={'9' * 3000}", headers=bearer("sk-admin"))
    assert error_of(wrong) == (400, "invalid_request_error", None, "limit")
    assert "9" * 201 not in wrong.text
    assert keyed.http.post("/reset_prefix_cache", headers=bearer("sk-admin")).json() == {
        "num_forgotten_pages": 5
    }


def test_a_request_goes_to_the_scheduler_under_its_request_id_else_its_x_request_id(
    keyed: Deployment,
) -> None:
    keyed.answers("fine")
    body = {"model": "tiny", "prompt": "hello"}
    headers = {**bearer("sk-search"), "x-request-id": "trace-17"}
    answer = keyed.http.post("/v1/completions", json=body, headers=headers)
    assert answer.headers["x-request-id"] == "trace-17"
    assert keyed.scheduler.submits[-1].name == "trace-17"
    keyed.http.post("/v1/completions", json={**body, "request_id": "own-18"}, headers=headers)
    assert keyed.scheduler.submits[-1].name == "own-18"  # the body's own name is the nearer one


def test_a_key_over_its_requests_a_minute_is_told_when_to_come_again(keyed: Deployment) -> None:
    keyed.answers("fine")
    first, second = completion(keyed, "sk-batch"), completion(keyed, "sk-batch")
    assert (first.status_code, second.status_code) == (200, 200)
    assert first.headers["x-ratelimit-limit-requests"] == "2"
    assert first.headers["x-ratelimit-remaining-requests"] == "1"
    assert 25 < float(first.headers["x-ratelimit-reset-requests"].removesuffix("s")) <= 30
    third = completion(keyed, "sk-batch")
    assert error_of(third) == (429, "rate_limit_error", "rate_limit_exceeded", None)
    assert third.headers["x-ratelimit-remaining-requests"] == "0"
    assert 20 < int(third.headers["retry-after"]) <= 30
    assert completion(keyed, "sk-search").status_code == 200  # another key has its own
    assert "x-ratelimit-limit-requests" not in completion(keyed, "sk-search").headers


def test_a_key_with_all_its_requests_open_waits_for_one_to_end(keyed: Deployment) -> None:
    keyed.answers("and so on", stop=None)  # and then nothing more
    body = {"model": "tiny", "prompt": "hello", "max_tokens": 99, "stream": True}
    with keyed.http.stream("POST", "/v1/completions", json=body, headers=bearer("sk-one")) as response:
        lines = response.iter_lines()
        next(lines)
        refused = completion(keyed, "sk-one")
        assert error_of(refused) == (429, "rate_limit_error", "rate_limit_exceeded", None)
        assert refused.headers["retry-after"] == "1"
    keyed.answers("fine")
    until = time.monotonic() + 60
    while completion(keyed, "sk-one").status_code != 200:
        assert time.monotonic() < until
        time.sleep(0.02)


def test_a_key_over_its_tokens_a_minute_waits_until_they_are_there_again(
    tmp_path: Path, tokenizer: Tokenizer
) -> None:
    with a_server(tmp_path, tokenizer, limits={"tokens_per_minute": 10}) as server:
        server.answers("one two three four five six seven", stop=None)
        used = server.complete(max_tokens=12).json()["usage"]["total_tokens"]
        assert used > 10
        answer = server.complete()
        assert error_of(answer) == (429, "rate_limit_error", "rate_limit_exceeded", None)
        assert answer.headers["x-ratelimit-limit-tokens"] == "10"
        assert answer.headers["x-ratelimit-remaining-tokens"] == "0"
        # What was overdrawn comes back first, then one token.
        assert abs(int(answer.headers["retry-after"]) - 6 * (used - 10 + 1)) <= 1
        assert server.http.get("/v1/models").status_code == 200


def test_a_budget_refills_steadily_and_holds_a_minute_at_most() -> None:
    budget = Budget(60, now=0.0)
    budget.spend(60, 0.0)
    assert budget.level(0.0) == 0
    assert budget.level(1.0) == pytest.approx(1)
    assert budget.seconds_until(3, 1.0) == pytest.approx(2)
    assert budget.level(500.0) == 60
    budget.spend(90, 500.0)
    assert budget.level(500.0) == -30
    assert budget.seconds_until(1, 500.0) == pytest.approx(31)


def test_web_pages_of_other_origins_are_let_in_only_when_named(
    tmp_path: Path, tokenizer: Tokenizer, server: Deployment
) -> None:
    asks = {"origin": "https://chat.example", "access-control-request-method": "POST"}
    assert "access-control-allow-origin" not in server.http.options("/v1/completions", headers=asks).headers
    options = {"allowed_origins": "https://chat.example, https://b.example", "api_keys": "sk-1"}
    with a_server(tmp_path, tokenizer, **options) as named:
        answer = named.http.options("/v1/completions", headers=asks)
        assert (answer.status_code, answer.headers["access-control-allow-origin"]) == (
            200,
            "https://chat.example",
        )
        other = named.http.options("/v1/completions", headers={**asks, "origin": "https://evil.example"})
        assert "access-control-allow-origin" not in other.headers
        refused = named.http.get("/v1/models", headers={"origin": "https://chat.example"})
        assert refused.status_code == 401


def test_the_access_log_has_a_line_a_request_and_never_a_prompt(
    tmp_path: Path, tokenizer: Tokenizer, caplog: pytest.LogCaptureFixture
) -> None:
    with a_server(tmp_path, tokenizer, log_requests=True, api_keys="team=sk-1") as server:
        server.answers("fine")
        with caplog.at_level(logging.INFO, "gllm.access"):
            completion(server, "sk-1", prompt="my deepest secret")
            server.http.get("/v1/mod%0Aels?secret=1")
            until = time.monotonic() + 60
            while len(lines := [r.getMessage() for r in caplog.records if r.name == "gllm.access"]) < 2:
                assert time.monotonic() < until
                time.sleep(0.01)  # a line is written when its answer is sent
    assert lines[0].startswith("POST /v1/completions 200 ")
    assert "key=team id=" in lines[0]
    assert lines[1].startswith("GET /v1/mod%0Aels 404 ")
    assert "secret" not in caplog.text
    assert "sk-1" not in caplog.text


def test_hundreds_of_clients_that_only_connect_do_not_keep_others_out(server: Deployment) -> None:
    host, port = server.listener.getsockname()[:2]
    idle = [socket.create_connection((host, port)) for _ in range(300)]
    try:
        began = time.monotonic()
        server.answers("fine")
        assert server.complete().status_code == 200
        assert time.monotonic() - began < HEADER_TIMEOUT_S / 2
    finally:
        for client in idle:
            client.close()


def test_requests_over_the_limit_at_once_are_refused_and_none_is_lost(keyed: Deployment) -> None:
    keyed.answers("one two three")
    statuses: list[int] = []

    def ask() -> None:
        statuses.append(completion(keyed, "sk-one").status_code)

    threads = [threading.Thread(target=ask) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(statuses) == 16
    assert set(statuses) <= {200, 429}
    assert 200 in statuses
