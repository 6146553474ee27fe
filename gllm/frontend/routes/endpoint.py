"""One row of the table of routes: what is served, and what the OpenAPI document says of it.

Knows nothing of any API.
"""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Literal

from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import Response

from gllm.frontend.errors import ApiError

Handler = Callable[[Request], Awaitable[Response]]


class Access(Enum):
    """Whom a route lets in."""

    OPEN = "open"  # everybody
    KEY = "key"  # who has an API key, where there are any
    ADMIN = "admin"  # who has an admin key; nobody where there is none


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """A method and path with its handler; what the handler raises becomes an answer (`errors.api_error`).

    path: in Starlette's form, "/v1/models/{name:path}". summary: one line for the document.
    body: the type that checks its JSON body. answer: that of its JSON answer with status 200, None
    where it has another `media_type`. streams: `stream: true` answers with server-sent events.
    query: JSON schemas of its parameters by name. access: whom it lets in. statuses: of errors, beside
    those that every route has. error, error_body: the form of errors, where it is not OpenAI's.
    """

    method: Literal["GET", "POST", "DELETE"]
    path: str
    handle: Handler
    summary: str
    tag: str
    body: type[BaseModel] | None = None
    answer: type[BaseModel] | None = None
    media_type: str = "application/json"
    streams: bool = False
    query: Mapping[str, Any] = field(default_factory=dict)
    access: Access = Access.KEY
    statuses: frozenset[int] = frozenset()
    error: type[BaseModel] | None = None
    error_body: Callable[[ApiError], bytes] = ApiError.body
