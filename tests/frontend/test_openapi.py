"""The OpenAPI document says what is served: every route, every field, every answer."""

from typing import Any

import jsonschema
import pytest
from http_server import Deployment
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_request_fuzz import values
from test_tool_calls import ONE, WEATHER, shared  # noqa: F401 - the fixture of a model that calls tools

from gllm.config.schema import LimitsConfig
from gllm.frontend.adapters.messages_body import CountBody, MessagesBody
from gllm.frontend.adapters.responses_body import ResponsesBody
from gllm.frontend.generation_body import read_body
from gllm.frontend.messages import checked_messages
from gllm.frontend.openapi import document
from gllm.frontend.params import ParameterError
from gllm.frontend.routes.endpoint import Endpoint
from gllm.frontend.routes.tokens import DetokenizeBody, TokenizeBody
from gllm.frontend.types import ChatBody, CompletionBody

USER: list[Any] = [{"role": "user", "content": "hello"}]
BODIES: dict[str, dict[str, Any]] = {
    "/v1/completions": {"prompt": "hello"},
    "/v1/chat/completions": {"messages": USER},
    "/v1/responses": {"input": "hello"},
    "/v1/messages": {"messages": USER, "max_tokens": 400},
    "/v1/messages/count_tokens": {"messages": USER},
    "/tokenize": {"prompt": "hello"},
    "/detokenize": {"tokens": [5, 6]},
}
TOOLS: dict[str, Any] = {
    "/v1/chat/completions": [WEATHER],
    "/v1/responses": [{"type": "function", **WEATHER["function"]}],
    "/v1/messages": [{"name": "get_weather", "input_schema": {"type": "object"}}],
}


@pytest.fixture
def served(server: Deployment) -> dict[str, Any]:
    answer: dict[str, Any] = server.http.get("/openapi.json").json()
    return answer


def schema_at(served: dict[str, Any], *path: str) -> dict[str, Any]:
    """A schema of the document that can stand by itself."""
    found: Any = served
    for part in path:
        found = found[part]
    return {**found, "components": served["components"]}


def answer_schema(served: dict[str, Any], path: str, method: str, status: int) -> dict[str, Any]:
    responses = served["paths"][path][method]["responses"]
    which = str(status) if str(status) in responses else "default"
    return schema_at(
        responses[which]["content"]["application/json"] | {"components": served["components"]}, "schema"
    )


def test_every_schema_is_one_and_every_reference_leads_somewhere(served: dict[str, Any]) -> None:
    for schema in served["components"]["schemas"].values():
        jsonschema.Draft202012Validator.check_schema(schema)

    def references(value: Any) -> list[str]:
        if isinstance(value, dict):
            own = [value["$ref"]] if isinstance(value.get("$ref"), str) else []
            return own + [found for item in value.values() for found in references(item)]
        return [found for item in value for found in references(item)] if isinstance(value, list) else []

    known = {f"#/components/schemas/{name}" for name in served["components"]["schemas"]}
    assert set(references(served)) == known


def test_every_route_is_in_it_and_answers(server: Deployment, served: dict[str, Any]) -> None:
    routes = {
        (route.path.replace(":path}", "}"), method.lower())
        for route in server.gateway._app.routes
        for method in route.methods - {"HEAD"}  # type: ignore[attr-defined]
    }
    described = {(path, method) for path, methods in served["paths"].items() for method in methods}
    assert routes == described
    operations = [operation for methods in served["paths"].values() for operation in methods.values()]
    assert len({operation["operationId"] for operation in operations}) == len(operations)


@pytest.mark.parametrize("path", BODIES)
def test_answers_are_as_it_says(server: Deployment, served: dict[str, Any], path: str) -> None:
    for answer, extra in (("hello", {}), (ONE, {"tools": TOOLS.get(path)} if path in TOOLS else {})):
        server.answers(answer)
        response = server.post(path, **BODIES[path], **extra)
        assert response.status_code == 200, response.text
        jsonschema.validate(response.json(), answer_schema(served, path, "post", 200))
    for wrong in ({"model": "gpt-4"}, {"colour": 1}):
        response = server.post(path, **{**BODIES[path], **wrong})
        jsonschema.validate(response.json(), answer_schema(served, path, "post", response.status_code))


@pytest.mark.parametrize("path", ["/health", "/version", "/v1/models", "/v1/models/tiny"])
def test_answers_without_a_body_are_as_it_says(server: Deployment, served: dict[str, Any], path: str) -> None:
    described = "/v1/models/{name}" if path.endswith("tiny") else path
    jsonschema.validate(server.http.get(path).json(), answer_schema(served, described, "get", 200))


@pytest.mark.parametrize("path", BODIES)
def test_a_field_that_is_not_supported_is_described_by_the_values_that_are_taken(
    server: Deployment, served: dict[str, Any], path: str
) -> None:
    schema = schema_at(served, "paths", path, "post", "requestBody", "content", "application/json", "schema")
    properties = served["components"]["schemas"][schema["$ref"].rpartition("/")[2]]["properties"]
    neutral = {
        name: item["enum"]
        for name, item in properties.items()
        if "not supported" in item.get("description", "")
    }
    assert len(neutral) > 20
    server.answers("x")
    for index in range(max(len(taken) for taken in neutral.values())):
        fields = {name: taken[index % len(taken)] for name, taken in neutral.items()}
        fields |= {"stream": None}
        body = {**BODIES[path], **{name: value for name, value in fields.items() if name in properties}}
        response = server.post(path, **body)
        assert response.status_code == 200, response.text


KINDS: list[Any] = [
    ChatBody,
    CompletionBody,
    ResponsesBody,
    MessagesBody,
    CountBody,
    TokenizeBody,
    DetokenizeBody,
]


def _schema(kind: Any) -> Any:
    async def nothing(request: Any) -> Any:
        raise NotImplementedError

    endpoint = Endpoint(method="POST", path="/x", handle=nothing, summary="", tag="", body=kind)
    made = document([endpoint], model="tiny", version="1", needs_keys=False)
    return {"$ref": f"#/components/schemas/{kind.__name__}", "components": made["components"]}


SCHEMAS = {kind: jsonschema.Draft202012Validator(_schema(kind)) for kind in KINDS}


@st.composite
def near_bodies(draw: st.DrawFn) -> tuple[Any, dict[str, Any]]:
    """A good body, one field of which is replaced by anything."""
    kind = draw(st.sampled_from(KINDS))
    path = (kind.__doc__ or "").removeprefix("POST ").split(":")[0]
    body = {"model": "tiny", **BODIES[path]}
    names = sorted({*kind.model_fields, *_schema(kind)["components"]["schemas"][kind.__name__]["properties"]})
    name = draw(st.sampled_from(names))
    return kind, {**body, name: draw(values)}


@settings(max_examples=600, suppress_health_check=[HealthCheck.too_slow])
@given(case=near_bodies())
def test_what_it_forbids_is_refused(case: tuple[Any, dict[str, Any]]) -> None:
    kind, body = case
    if SCHEMAS[kind].is_valid(body):
        return
    with pytest.raises(ParameterError):  # noqa: PT012 - whichever step finds it
        if kind in (TokenizeBody, DetokenizeBody, CountBody):
            read = read_body(kind, body, getattr(kind, "NEUTRAL", {}))
        else:
            read = kind.read(body)
        if body["model"] != "tiny":
            raise ParameterError("model", "the route refuses it")
        if hasattr(read, "translated"):
            read = ChatBody.read(read.translated().chat)
        if isinstance(read, ChatBody):
            checked_messages(read.messages)
            read.tool_use()
        if isinstance(read, CompletionBody):
            read.prompts(LimitsConfig())
        if isinstance(read, TokenizeBody):
            if read.messages is not None:
                checked_messages(read.messages)
            ChatBody.read({"model": "tiny", "messages": USER, "tools": read.tools}).tool_use()
        if isinstance(read, ChatBody | CompletionBody):
            if read.params(LimitsConfig(), {}).structured_outputs is not None:
                raise ParameterError(None, "whether it is a grammar, the compiler says")
            read.queue()
