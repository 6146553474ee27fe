"""The table of errors that users rely on, row by row and route by route: status, type, code, param.

After each of them the server still answers (the fixture sees to it). What one field may hold is in
test_http_errors.py; Anthropic's form of an error in test_messages_api.py.
"""

from typing import Any

import pytest
from http_server import Deployment
from test_http_errors import check

from gllm.protocol.messages import FinishReason, RejectCode, Rejected

USER = [{"role": "user", "content": "hello"}]
# Every route with a body: a good one, the field that it cannot do without, and one that is ill-typed.
ROUTES: dict[str, tuple[dict[str, Any], str, tuple[str, Any, str]]] = {
    "/v1/completions": ({"prompt": "hello"}, "prompt", ("stop_token_ids", ["x"], "stop_token_ids[0]")),
    "/v1/chat/completions": (
        {"messages": USER},
        "messages",
        ("messages", [*USER, {"role": "user", "content": 1}], "messages[1].content"),
    ),
    "/v1/responses": (
        {"input": "hello"},
        "input",
        ("input", [{"role": "user", "content": 1}], "input[0].content"),
    ),
    "/tokenize": ({"prompt": "hello"}, "prompt", ("prompt", 5, "prompt")),
    "/detokenize": ({"tokens": [5]}, "tokens", ("tokens", [5, "x"], "tokens[1]")),
}  # fmt: skip
GENERATING = ["/v1/completions", "/v1/chat/completions", "/v1/responses"]
JSON = {"content-type": "application/json"}
every_route = pytest.mark.parametrize("path", ROUTES)


def test_the_table_has_every_route_that_takes_a_body(server: Deployment) -> None:
    document = server.http.get("/openapi.json").json()
    posts = {path for path, methods in document["paths"].items() if "requestBody" in methods.get("post", {})}
    assert posts == {*ROUTES, "/v1/messages", "/v1/messages/count_tokens"}


@every_route
@pytest.mark.parametrize("body", [b"", b"{", b"[1]", b"\xff{}", b'{"model": "tiny", "x": NaN}'])
def test_not_json(server: Deployment, path: str, body: bytes) -> None:
    check(server.http.post(path, content=body, headers=JSON), 400, None, "invalid_json")


@every_route
@pytest.mark.parametrize("content_type", ["text/plain", "application/xml; charset=utf-8", ""])
def test_a_wrong_content_type(server: Deployment, path: str, content_type: str) -> None:
    response = server.http.post(path, content=b"{}", headers={"content-type": content_type})
    check(response, 400, None, "invalid_json")


@every_route
def test_a_missing_or_ill_typed_field(server: Deployment, path: str) -> None:
    good, needed, (field, value, place) = ROUTES[path]
    check(server.post(path), 400, needed)
    check(server.post(path, **{**good, field: value}), 400, place)
    check(server.post(path, **good, colour=1), 400, "colour", "unknown_parameter")


@every_route
def test_an_unknown_model(server: Deployment, path: str) -> None:
    good, *_ = ROUTES[path]
    for name in ("gpt-4", "", "x" * 5000):
        check(server.post(path, **{**good, "model": name}), 404, "model", "model_not_found")


def test_an_unknown_model_by_its_address(server: Deployment) -> None:
    for name in ("gpt-4", "a/b/c", "x" * 5000, "%00"):
        check(server.http.get(f"/v1/models/{name}"), 404, "model", "model_not_found")


@every_route
def test_an_unknown_method(server: Deployment, path: str) -> None:
    for method in ("GET", "PUT", "DELETE", "PATCH", "OPTIONS"):
        response = server.http.request(method, path)
        check(response, 405)
        assert response.headers["allow"] == "POST"


@pytest.mark.parametrize(
    "path", ["/", "/v1", "/v1/", "/v1/completions/", "/v2/completions", "/v1/embeddings"]
)
def test_an_unknown_route(server: Deployment, path: str) -> None:
    check(server.http.post(path, json={}), 404)
    check(server.http.get(path), 404)


@every_route
def test_a_body_that_is_too_large(server: Deployment, path: str) -> None:
    large = b'{"x": "' + b"x" * 200_000 + b'"}'
    check(server.http.post(path, content=large, headers=JSON), 413)
    check(server.http.post(path, content=iter([large]), headers=JSON), 413)


@pytest.mark.parametrize("path", GENERATING)
@pytest.mark.parametrize("stream", [True, False])
def test_too_long_overloaded_late_failed(server: Deployment, path: str, stream: bool) -> None:
    good, needed, _ = ROUTES[path]
    long = (
        {needed: "x" * 300}
        if path != "/v1/chat/completions"
        else {"messages": [{"role": "user", "content": "x" * 300}]}
    )
    check(server.post(path, **long, stream=stream), 400, needed, "context_length_exceeded")
    server.scheduler.reject = Rejected(0, RejectCode.OVERLOADED, "a sentence of the scheduler")
    response = server.post(path, **good, stream=stream)
    check(response, 503, None, "overloaded")
    assert response.headers["retry-after"] == "1"
    server.scheduler.reject = Rejected(0, RejectCode.TIMEOUT, "a sentence of the scheduler")
    check(server.post(path, **good, stream=stream), 504, None, "timeout")
    server.scheduler.reject = None
    if not stream:
        server.scheduler.script = lambda _submit: [5, 5]
        server.scheduler.last_reason = FinishReason.ERROR
        check(server.post(path, **good), 500, None, "internal_error")


@pytest.mark.parametrize("path", GENERATING)
def test_an_engine_that_is_not_there(own_server: Deployment, path: str) -> None:
    good, *_ = ROUTES[path]
    own_server.scheduler.close()
    response = own_server.post(path, **good)
    while response.status_code == 200:
        response = own_server.post(path, **good)
    check(response, 503, None, "loading")
    assert response.headers["retry-after"] == "1"


@every_route
def test_bad_input_is_echoed_in_part_only(server: Deployment, path: str) -> None:
    good, needed, (field, _, _) = ROUTES[path]
    bad = "y" * 20_000
    for body in (
        {**good, bad: 1},
        {**good, "model": bad},
        {**good, field: {bad: bad}},
        {**good, needed: {bad: 1}},
    ):
        response = server.http.post(path, json={"model": "tiny", **body})
        assert response.status_code in (400, 404)
        error = response.json()["error"]
        assert "y" * 201 not in error["message"]
        assert "y" * 201 not in (error["param"] or "")
