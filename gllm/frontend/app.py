"""The HTTP gateway: routes, errors, request ids, draining.

Knows no API by itself; the tables of `routes` say what is served. Nothing that a client sends may end
more than that client's request.
"""

import asyncio
import logging
import re
import time
from uuid import uuid4

from starlette.applications import Starlette
from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gllm.config.schema import FrontendConfig, LimitsConfig
from gllm.frontend.errors import ApiError, api_error
from gllm.frontend.openapi import document_endpoint
from gllm.frontend.routes import messages, openai, operator, responses, status, tokens
from gllm.frontend.routes.endpoint import Access, Endpoint
from gllm.frontend.served_model import ServedModel
from gllm.frontend.service import Service
from gllm.frontend.streaming import ClientGone
from gllm.frontend.tenants import Tenants

log = logging.getLogger("gllm.access")

REQUEST_ID = re.compile(r"[\x21-\x7e]{1,128}")
BODY_HEADERS = {b"content-length", b"transfer-encoding"}
CLIENT_CLOSED = 499  # nobody reads it; it is for the log


class Gateway:
    """The ASGI application over one model. like_vllm: metrics are repeated under vLLM's names."""

    def __init__(
        self,
        model: ServedModel,
        limits: LimitsConfig,
        frontend: FrontendConfig | None = None,
        *,
        like_vllm: bool = False,
    ) -> None:
        frontend = frontend or FrontendConfig()
        self.service = Service(model, limits, frontend.tokenizer_workers)
        self._meters = model.text.engine.meters
        self._tenants = Tenants.of(frontend.api_keys, frontend.admin_api_keys, limits, frontend.num_processes)
        self._meters.on_spent = self._tenants.spend
        self._logs_requests = frontend.log_requests
        self._num_open = 0
        self._idle = asyncio.Event()
        self._idle.set()
        served = [
            endpoint
            for api in (status, openai, responses, messages, tokens)
            for endpoint in api.endpoints(self.service)
        ]
        served += operator.endpoints(self.service, like_vllm=like_vllm)
        served.append(document_endpoint(served, self.service, needs_keys=bool(frontend.api_keys)))
        app = Starlette(
            routes=[self._route(endpoint) for endpoint in served],
            exception_handlers={HTTPException: _http_error},
        )
        app.router.redirect_slashes = False
        self._app: ASGIApp = app
        if frontend.allowed_origins is not None:
            self._app = _with_cors(app, frontend.allowed_origins)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Every request passes here: it gets its X-Request-Id, and counts as open until it is answered."""
        request_id = _request_id(scope)
        state = scope.setdefault("state", {})
        state["request_id"] = request_id
        began = time.monotonic()
        status = 0
        framing = {name for name, _ in scope["headers"]} & BODY_HEADERS
        body_ended = not framing

        async def receive_body() -> Message:
            nonlocal body_ended
            message = await receive()
            body_ended = body_ended or not message.get("more_body", False)
            return message

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                self._meters.count("http_responses", state.get("path", "other"), str(status))
                headers = MutableHeaders(scope=message)
                headers["x-request-id"] = request_id
                if "entered" in state:
                    headers.update(state["entered"].headers(time.monotonic()))
                if not body_ended:
                    headers["connection"] = "close"  # nobody will read the rest of that body
            await send(message)

        self._num_open += 1
        self._idle.clear()
        try:
            if framing == BODY_HEADERS:
                # Some proxies believe one of them and some the other: a way to smuggle requests.
                error = ApiError(400, "give either Content-Length or Transfer-Encoding, not both")
                await _error_response(error)(scope, receive_body, send_with_id)
            else:
                await self._app(scope, receive_body, send_with_id)
        finally:
            if "entered" in state:
                state["entered"].leave()
            if self._logs_requests:
                # The path as it was sent: its escapes are none, so it cannot make up lines of its own.
                path = scope.get("raw_path", b"").decode("latin-1")[:200]
                tenant, ms = state.get("tenant", "-"), 1e3 * (time.monotonic() - began)
                method = scope["method"][:20]
                log.info("%s %s %d %.1f ms key=%s id=%s", method, path, status, ms, tenant, request_id)
            self._num_open -= 1
            if not self._num_open:
                self._idle.set()

    async def drain(self) -> None:
        """Take no new generation requests; returns when nothing is open."""
        self.service.is_draining = True
        await self._idle.wait()

    def close(self) -> None:
        """End the tokenizer threads."""
        self.service.close()

    def _route(self, endpoint: Endpoint) -> Route:
        """The route of `endpoint`, for those whom it lets in; whatever it raises becomes an answer."""

        async def handle(request: Request) -> Response:
            request.state.path = endpoint.path
            try:
                self._let_in(request, endpoint)
                return await endpoint.handle(request)
            except ClientGone:
                return Response(status_code=CLIENT_CLOSED)
            except Exception as error:
                told = api_error(error)
                return Response(endpoint.error_body(told), told.status, told.headers, "application/json")

        return Route(endpoint.path, handle, methods=[endpoint.method])

    def _let_in(self, request: Request, endpoint: Endpoint) -> None:
        """Raise `ApiError` unless the caller may use it now; a generation counts as open from here on."""
        if endpoint.access is Access.OPEN:
            return
        if endpoint.access is Access.ADMIN:
            request.state.tenant = self._tenants.admin(request.headers).name
            return
        tenant = self._tenants.caller(request.headers)
        request.state.tenant = tenant.name
        if endpoint.body is not None:
            tenant.enter(time.monotonic())
            request.state.entered = tenant


def _with_cors(app: ASGIApp, origins: str) -> ASGIApp:
    """`app` for web pages of these origins, too; keys travel in a header, never in a cookie."""
    return CORSMiddleware(
        app,
        allow_origins=[origin.strip() for origin in origins.split(",")],
        allow_methods=["GET", "POST"],
        allow_headers=["*"],
        expose_headers=["x-request-id", "retry-after"],
    )


def _request_id(scope: Scope) -> str:
    """The client's own X-Request-Id if it is a decent one, else a new one."""
    for name, value in scope["headers"]:
        if name == b"x-request-id" and REQUEST_ID.fullmatch(given := value.decode("latin-1")):
            return str(given)
    return uuid4().hex


def _error_response(error: ApiError) -> Response:
    return Response(error.body(), error.status, error.headers, "application/json")


async def _http_error(request: Request, error: Exception) -> Response:
    """Starlette's own refusals: no such route, or not with this method."""
    assert isinstance(error, HTTPException)
    headers = {}
    if error.status_code == 405:
        # Starlette writes them in the order of a set.
        allowed = ", ".join(sorted((error.headers or {}).get("Allow", "").split(", ")))
        sentence = f"{request.method:.20} is not possible here: use {allowed}"
        headers = {"allow": allowed}
    else:
        sentence = f"there is nothing at {request.url.path[:200]}: see /v1/models and /v1/chat/completions"
    return _error_response(ApiError(error.status_code, sentence, headers=headers))
