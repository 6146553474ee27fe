"""The HTTP gateway: routes, errors, request ids, draining.

Knows one model under one name. Nothing that a client sends may end more than that client's request.
"""

import asyncio
import re
import time
from collections.abc import Awaitable, Callable
from uuid import uuid4

from starlette.applications import Starlette
from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import Message, Receive, Scope, Send

from gllm.config.schema import LimitsConfig
from gllm.frontend.body import read_object
from gllm.frontend.chat import ChatTemplate
from gllm.frontend.engine import EngineLost
from gllm.frontend.errors import RETRY, SERVER, ApiError, api_error, shutting_down
from gllm.frontend.generation import TextEngine
from gllm.frontend.jobs import Job, Jobs
from gllm.frontend.params import ParameterError
from gllm.frontend.responses import VERSION
from gllm.frontend.streaming import ClientGone, EventStream, unless_gone
from gllm.frontend.types import ChatBody, CompletionBody, GenerationBody

STATS_TIMEOUT_S = 2.0
MAX_STEP_AGE_S = 60.0  # a step that takes longer than the longest prefill is stuck
REQUEST_ID = re.compile(r"[\x21-\x7e]{1,128}")
BODY_HEADERS = {b"content-length", b"transfer-encoding"}
CLIENT_CLOSED = 499  # nobody reads it; it is for the log

Handler = Callable[[Request], Awaitable[Response]]


class Gateway:
    """The ASGI application over one engine.

    model: the name that requests must give. chat_template: None answers chats with 400.
    """

    def __init__(
        self,
        text: TextEngine,
        *,
        model: str,
        chat_template: ChatTemplate | None,
        limits: LimitsConfig,
        tokenizer_workers: int = 1,
    ) -> None:
        self._text = text
        self._model = model
        self._limits = limits
        self._created = int(time.time())
        self._jobs = Jobs(
            text, model=model, chat_template=chat_template, limits=limits, num_threads=tokenizer_workers
        )
        self._draining = False
        self._num_open = 0
        self._idle = asyncio.Event()
        self._idle.set()
        self._app = Starlette(
            routes=[
                Route("/health", self._handled(self.health)),
                Route("/version", self._handled(self.version)),
                Route("/v1/models", self._handled(self.models)),
                Route("/v1/models/{name:path}", self._handled(self.one_model)),
                Route("/v1/completions", self._handled(self.completions), methods=["POST"]),
                Route("/v1/chat/completions", self._handled(self.chat_completions), methods=["POST"]),
            ],
            exception_handlers={HTTPException: _http_error},
        )
        self._app.router.redirect_slashes = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Every request passes here: it gets its X-Request-Id, and counts as open until it is answered."""
        request_id = _request_id(scope)
        framing = {name for name, _ in scope["headers"]} & BODY_HEADERS
        body_ended = not framing

        async def receive_body() -> Message:
            nonlocal body_ended
            message = await receive()
            body_ended = body_ended or not message.get("more_body", False)
            return message

        async def send_with_id(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers["x-request-id"] = request_id
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
            self._num_open -= 1
            if not self._num_open:
                self._idle.set()

    async def drain(self) -> None:
        """Take no new generation requests; returns when nothing is open."""
        self._draining = True
        await self._idle.wait()

    def close(self) -> None:
        """End the tokenizer threads."""
        self._jobs.close()

    # ---- routes --------------------------------------------------------------------------------

    async def health(self, request: Request) -> Response:
        """200 only while the scheduler answers and its steps come back."""
        del request
        if self._draining:
            raise shutting_down()
        try:
            stats = await asyncio.wait_for(self._text.engine.stats(), STATS_TIMEOUT_S)
        except TimeoutError:
            raise _unhealthy(f"the scheduler did not answer within {STATS_TIMEOUT_S:g} s") from None
        except EngineLost:
            raise _unhealthy("the scheduler is not there") from None
        if stats.oldest_step_s > MAX_STEP_AGE_S:
            raise _unhealthy(f"a step has been running for {stats.oldest_step_s:.0f} s")
        return JSONResponse({"status": "ok"})

    async def version(self, request: Request) -> Response:
        del request
        return JSONResponse({"version": VERSION})

    async def models(self, request: Request) -> Response:
        del request
        return JSONResponse({"object": "list", "data": [self._card()]})

    async def one_model(self, request: Request) -> Response:
        self._check_model(request.path_params["name"])
        return JSONResponse(self._card())

    async def completions(self, request: Request) -> Response:
        body = CompletionBody.read(await self._read(request))
        self._check_model(body.model)
        return await self._answer(request, body, await self._jobs.completion(body))

    async def chat_completions(self, request: Request) -> Response:
        body = ChatBody.read(await self._read(request))
        self._check_model(body.model)
        try:
            return await self._answer(request, body, await self._jobs.chat(body))
        except ParameterError as error:
            error.param = "messages" if error.param == "prompt" else error.param
            raise

    # ---- the way of a request ------------------------------------------------------------------

    def _handled(self, handler: Handler) -> Handler:
        """`handler`, whose exceptions become answers."""

        async def handle(request: Request) -> Response:
            try:
                return await handler(request)
            except ClientGone:
                return Response(status_code=CLIENT_CLOSED)
            except Exception as error:
                return _error_response(api_error(error))

        return handle

    async def _read(self, request: Request) -> dict[str, object]:
        if self._draining:
            raise shutting_down()
        return await read_object(request, self._limits.max_body_bytes)

    def _check_model(self, name: str) -> None:
        if name != self._model:
            raise ApiError(
                404,
                f"the model {name[:200]!r} does not exist: this server has {self._model!r}",
                param="model",
                code="model_not_found",
            )

    async def _answer(self, request: Request, body: GenerationBody, job: Job) -> Response:
        if body.stream:
            return await EventStream.begin(request.receive, self._jobs.events(job))
        answer = await unless_gone(request.receive, self._jobs.whole(job))
        return Response(answer, media_type="application/json")

    def _card(self) -> dict[str, object]:
        return {
            "id": self._model,
            "object": "model",
            "created": self._created,
            "owned_by": "gllm",
            "root": self._model,
            "parent": None,
            "max_model_len": self._text.engine.limits.max_model_len,
        }


def _request_id(scope: Scope) -> str:
    """The client's own X-Request-Id if it is a decent one, else a new one."""
    for name, value in scope["headers"]:
        if name == b"x-request-id" and REQUEST_ID.fullmatch(given := value.decode("latin-1")):
            return str(given)
    return uuid4().hex


def _error_response(error: ApiError) -> Response:
    return Response(error.body(), error.status, error.headers, "application/json")


def _unhealthy(reason: str) -> ApiError:
    return ApiError(503, f"not healthy: {reason}", kind=SERVER, code="unhealthy", headers=RETRY)


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
