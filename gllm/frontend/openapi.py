"""The OpenAPI document, made from the table of endpoints and the types that check bodies.

Knows OpenAPI 3.1; what is served, and what a field means, the table and the types say.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from gllm.frontend.answer_shapes import Error
from gllm.frontend.fields import HARMLESS, NEUTRAL, SERVICE_TIERS
from gllm.frontend.routes.endpoint import Access, Endpoint
from gllm.frontend.service import VERSION, Service

REFERENCE = "#/components/schemas/{model}"
JSON = "application/json"
PATH_PARAMETER = re.compile(r"{(\w+)(?::\w+)?}")
REASONS: Mapping[int, str] = {
    200: "The answer",
    400: "The request cannot be honoured",
    401: "No key, or a wrong one",
    403: "The key may not do that",
    404: "There is no such model or thing",
    413: "The body is too large",
    429: "More requests than the key may make",
    500: "This server failed",
    503: "Try again later",
    504: "The deadline has passed",
}
ID_HEADER = {"X-Request-Id": {"description": "The request's own, or a new one", "schema": {"type": "string"}}}


SCHEMES = {
    Access.KEY.value: {
        "type": "http",
        "scheme": "bearer",
        "description": "An API key, or an admin key",
    },
    Access.ADMIN.value: {
        "type": "http",
        "scheme": "bearer",
        "description": "An admin key; without one the route is closed",
    },
}
BY_ACCESS: Mapping[Access, frozenset[int]] = {
    Access.OPEN: frozenset(),
    Access.KEY: frozenset({401}),
    Access.ADMIN: frozenset({403}),
}


def document_endpoint(served: Sequence[Endpoint], service: Service, *, needs_keys: bool) -> Endpoint:
    """GET /openapi.json, which describes `served` and itself."""

    async def openapi(request: Request) -> Response:
        del request
        described = [*served, endpoint]
        return JSONResponse(document(described, model=service.model, version=VERSION, needs_keys=needs_keys))

    endpoint = Endpoint(
        method="GET", path="/openapi.json", handle=openapi, tag="status", summary="This document"
    )
    return endpoint


def document(endpoints: Sequence[Endpoint], *, model: str, version: str, needs_keys: bool) -> dict[str, Any]:
    """The whole document. model: the only name that requests may give. needs_keys: there are API keys."""
    schemas: dict[str, Any] = {}
    paths: dict[str, dict[str, Any]] = {}
    for endpoint in endpoints:
        path = PATH_PARAMETER.sub(r"{\1}", endpoint.path)
        operation = _operation(endpoint, model, schemas)
        if endpoint.access is Access.ADMIN or (needs_keys and endpoint.access is Access.KEY):
            operation["security"] = [{endpoint.access.value: []}]
        paths.setdefault(path, {})[endpoint.method.lower()] = operation
    return {
        "openapi": "3.1.0",
        "info": {"title": "gLLM", "version": version},
        "paths": paths,
        "components": {"schemas": schemas, "securitySchemes": SCHEMES},
    }


def _operation(endpoint: Endpoint, model: str, schemas: dict[str, Any]) -> dict[str, Any]:
    failure = {JSON: {"schema": _named(endpoint.error or Error, schemas)}}
    success: dict[str, Any] = {}
    if endpoint.answer is not None:
        success[JSON] = {"schema": _named(endpoint.answer, schemas)}
    elif endpoint.media_type == JSON:
        success[JSON] = {"schema": {"type": "object"}}
    else:
        success[endpoint.media_type] = {"schema": {"type": "string"}}
    if endpoint.streams:
        events = "Server-sent events, with `stream: true`"
        success["text/event-stream"] = {"schema": {"type": "string", "description": events}}
    statuses = (
        endpoint.statuses | BY_ACCESS[endpoint.access] | ({429} if endpoint.body is not None else set())
    )
    responses = {
        str(status): {"description": REASONS[status], "headers": ID_HEADER, "content": content}
        for status, content in [(200, success), *((status, failure) for status in sorted(statuses))]
    }
    # What the connection itself may answer: headers that are too long, a body that comes too late.
    responses["default"] = {
        "description": "Any other error",
        "content": {JSON: {"schema": _named(Error, schemas)}},
    }
    operation: dict[str, Any] = {
        "operationId": f"{endpoint.method.lower()}{re.sub('[^A-Za-z0-9]+', '_', endpoint.path).rstrip('_')}",
        "summary": endpoint.summary,
        "tags": [endpoint.tag],
        "responses": responses,
    }
    if names := PATH_PARAMETER.findall(endpoint.path):
        operation["parameters"] = [
            {"name": name, "in": "path", "required": True, "schema": {"type": "string", "minLength": 1}}
            for name in names
        ]
    if endpoint.query:
        operation["parameters"] = operation.get("parameters", []) + [
            {"name": name, "in": "query", "schema": schema} for name, schema in endpoint.query.items()
        ]
    if endpoint.body is not None:
        body = _body(endpoint.body, model, schemas)
        operation["requestBody"] = {"required": True, "content": {JSON: {"schema": body}}}
    return operation


def _body(kind: type[BaseModel], model: str, schemas: dict[str, Any]) -> dict[str, Any]:
    """The schema of a body: the fields of its type, and those that are known and must be neutral."""
    reference = _named(kind, schemas)
    schema = schemas[kind.__name__]
    properties = schema["properties"]
    for name in getattr(kind, "ABSENT", ()):
        properties.pop(name, None)
    if "model" in properties:
        optional = "model" not in schema.get("required", ())
        properties["model"] = {"enum": [model, None]} if optional else {"const": model}
    neutral = {**NEUTRAL, **getattr(kind, "NEUTRAL", {}), "service_tier": SERVICE_TIERS}
    neutral |= getattr(kind, "NEUTRAL", {})
    for name, values in neutral.items():
        note = "Known, but not supported: only a value that asks for nothing is taken"
        properties.setdefault(name, {"enum": _distinct([None, *values]), "description": note})
    for name in HARMLESS:
        properties.setdefault(name, {"description": "Taken; it changes no output"})
    return reference


def _distinct(values: Iterable[Any]) -> list[Any]:
    kept: list[Any] = []
    for value in values:
        if not any(value is other or (type(value) is type(other) and value == other) for other in kept):
            kept.append(value)
    return kept


def _named(kind: type[BaseModel], schemas: dict[str, Any]) -> dict[str, str]:
    """A reference to the schema of `kind`, which is put among `schemas` with all that it uses."""
    if kind.__name__ not in schemas:
        schema = kind.model_json_schema(ref_template=REFERENCE)
        schemas |= schema.pop("$defs", {})
        schemas[kind.__name__] = schema
    return {"$ref": REFERENCE.format(model=kind.__name__)}
