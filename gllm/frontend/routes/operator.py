"""What operators ask: metrics, life and readiness, who runs and who waits, an empty prefix cache."""

import asyncio
from collections.abc import Awaitable
from typing import Any, Literal, TypeVar

from prometheus_client import CONTENT_TYPE_PLAIN_0_0_4
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from gllm.frontend.answer_shapes import Health, Shape
from gllm.frontend.engine import EngineLost
from gllm.frontend.errors import RETRY, SERVER, ApiError, shutting_down
from gllm.frontend.metrics import exposition
from gllm.frontend.routes.endpoint import Access, Endpoint
from gllm.frontend.service import Service
from gllm.protocol.messages import MAX_LISTED, MAX_NAME, PassedOver, RequestState

T = TypeVar("T")

ANSWER_TIMEOUT_S = 5.0
DEFAULT_LISTED = 100


class SequenceListed(Shape):
    """One output of a request. passed_over: steps in which it was first in line and lacked that."""

    id: str
    output: int
    status: Literal["running", "waiting"]
    waiting_for: str | None
    num_ahead: int
    passed_over: dict[str, int]
    num_prompt_tokens: int
    num_cached_tokens: int
    num_computed_tokens: int
    num_generated_tokens: int
    max_tokens: int
    num_preemptions: int
    num_pages: int
    priority: int
    age_s: float
    queue_s: float
    prefill_s: float


class RequestsListed(Shape):
    object: Literal["list"]
    num_running: int
    num_waiting: int
    data: list[SequenceListed]


class OneRequest(Shape):
    object: Literal["request"]
    id: str
    outputs: list[SequenceListed]


class CacheReset(Shape):
    num_forgotten_pages: int


def endpoints(service: Service, *, like_vllm: bool) -> list[Endpoint]:
    """like_vllm: metrics are repeated under vLLM's prefix."""
    engine = service.text.engine

    async def live(request: Request) -> Response:
        """This process runs its event loop; nothing is said of the engine."""
        del request
        return JSONResponse({"status": "ok"})

    async def ready(request: Request) -> Response:
        """Whether a new request would be taken now."""
        del request
        if service.is_draining:
            raise shutting_down()
        await _answered(engine.stats())
        return JSONResponse({"status": "ok"})

    async def metrics(request: Request) -> Response:
        del request
        stats = await _answered(engine.stats())
        text = exposition(stats, engine.limits, service.model, like_vllm)
        return Response(text, media_type=CONTENT_TYPE_PLAIN_0_0_4)

    async def requests(request: Request) -> Response:
        most = _limit(request.query_params.get("limit"))
        found = await _answered(engine.requests("", most))
        return JSONResponse(
            {
                "object": "list",
                "num_running": found.num_running,
                "num_waiting": found.num_waiting,
                "data": [_state(state) for state in found.requests],
            }
        )

    async def one_request(request: Request) -> Response:
        name = request.path_params["id"]
        found = await _answered(engine.requests(name[:MAX_NAME], MAX_LISTED))
        if not found.requests or len(name) > MAX_NAME:
            raise ApiError(
                404,
                f"no request {name[:200]!r} runs or waits: give the request_id, or X-Request-Id, of "
                "one that has not ended",
                param="id",
            )
        return JSONResponse(
            {"object": "request", "id": name, "outputs": [_state(state) for state in found.requests]}
        )

    async def reset_prefix_cache(request: Request) -> Response:
        del request
        return JSONResponse({"num_forgotten_pages": await _answered(engine.reset_prefix_cache())})

    lost = frozenset({503})
    return [
        Endpoint(
            method="GET", path="/live", handle=live, tag="status", access=Access.OPEN, answer=Health,
            summary="Whether this process runs",
        ),
        Endpoint(
            method="GET", path="/ready", handle=ready, tag="status", access=Access.OPEN, answer=Health,
            summary="Whether a new request would be taken", statuses=lost,
        ),
        Endpoint(
            method="GET", path="/metrics", handle=metrics, tag="status", access=Access.OPEN,
            summary="Metrics in Prometheus' text form", media_type="text/plain; version=0.0.4", statuses=lost,
        ),
        Endpoint(
            method="GET", path="/v1/requests", handle=requests, tag="operator", access=Access.ADMIN,
            query={"limit": {"type": "integer", "minimum": 1, "maximum": MAX_LISTED}}, answer=RequestsListed,
            summary="Who runs and who waits, and why", statuses=frozenset({400, 403, 503}),
        ),
        Endpoint(
            method="GET", path="/v1/requests/{id}", handle=one_request, tag="operator", access=Access.ADMIN,
            answer=OneRequest,
            summary="Where a request is, and what it waited for", statuses=frozenset({403, 404, 503}),
        ),
        Endpoint(
            method="POST", path="/reset_prefix_cache", handle=reset_prefix_cache, tag="operator",
            access=Access.ADMIN, answer=CacheReset, summary="Forget what the pages of the KV cache contain",
            statuses=frozenset({403, 503}),
        ),
    ]  # fmt: skip


async def _answered(answer: Awaitable[T]) -> T:
    """What the scheduler says; raises `ApiError` if it is not there, or silent."""
    try:
        return await asyncio.wait_for(answer, ANSWER_TIMEOUT_S)
    except TimeoutError:
        sentence = f"the scheduler did not answer within {ANSWER_TIMEOUT_S:g} s"
        raise ApiError(503, sentence, kind=SERVER, code="unhealthy", headers=RETRY) from None
    except EngineLost:
        raise ApiError(
            503, "the scheduler is not there", kind=SERVER, code="loading", headers=RETRY
        ) from None


def _limit(written: str | None) -> int:
    if written is None:
        return DEFAULT_LISTED
    if not written.isdecimal() or len(written) > 9 or not 1 <= int(written) <= MAX_LISTED:
        raise ApiError(
            400, f"limit is {written[:200]!r}, expected a number from 1 to {MAX_LISTED}", param="limit"
        )
    return int(written)


def _state(state: RequestState) -> dict[str, Any]:
    """A sequence for people. passed_over: steps in which it was first in line and lacked something."""
    counts = zip(PassedOver, state.passed_over, strict=True)
    lacked = {reason.name.lower(): count for reason, count in counts if reason is not PassedOver.BEHIND}
    reason = None
    if not state.is_running:
        reason = "behind" if state.num_ahead else max(lacked, key=lambda name: lacked[name])
    return {
        "id": state.name,
        "output": state.output,
        "status": "running" if state.is_running else "waiting",
        "waiting_for": reason,
        "num_ahead": state.num_ahead,
        "passed_over": lacked,
        "num_prompt_tokens": state.num_prompt_tokens,
        "num_cached_tokens": state.num_cached_tokens,
        "num_computed_tokens": state.num_computed_tokens,
        "num_generated_tokens": state.num_generated_tokens,
        "max_tokens": state.max_tokens,
        "num_preemptions": state.num_preemptions,
        "num_pages": state.num_pages,
        "priority": state.priority,
        "age_s": round(state.age_s, 6),
        "queue_s": round(state.queue_s, 6),
        "prefill_s": round(state.prefill_s, 6),
    }
