"""GET /health and /version."""

import asyncio

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from gllm.frontend.answer_shapes import Health, Version
from gllm.frontend.engine import EngineLost
from gllm.frontend.errors import RETRY, SERVER, ApiError, shutting_down
from gllm.frontend.routes.endpoint import Access, Endpoint
from gllm.frontend.service import VERSION, Service

STATS_TIMEOUT_S = 2.0
MAX_STEP_AGE_S = 60.0  # a step that takes longer than the longest prefill is stuck


def endpoints(service: Service) -> list[Endpoint]:
    async def health(request: Request) -> Response:
        """200 only while the scheduler answers and its steps come back."""
        del request
        if service.is_draining:
            raise shutting_down()
        try:
            stats = await asyncio.wait_for(service.text.engine.stats(), STATS_TIMEOUT_S)
        except TimeoutError:
            raise _unhealthy(f"the scheduler did not answer within {STATS_TIMEOUT_S:g} s") from None
        except EngineLost:
            raise _unhealthy("the scheduler is not there") from None
        if stats.oldest_step_s > MAX_STEP_AGE_S:
            raise _unhealthy(f"a step has been running for {stats.oldest_step_s:.0f} s")
        return JSONResponse({"status": "ok"})

    async def version(request: Request) -> Response:
        del request
        return JSONResponse({"version": VERSION})

    return [
        Endpoint(
            method="GET", path="/health", handle=health, tag="status", access=Access.OPEN,
            answer=Health,
            summary="Whether steps really progress", statuses=frozenset({503}),
        ),
        Endpoint(
            method="GET", path="/version", handle=version, tag="status", answer=Version, access=Access.OPEN,
            summary="The version of gLLM",
        ),
    ]  # fmt: skip


def _unhealthy(reason: str) -> ApiError:
    return ApiError(503, f"not healthy: {reason}", kind=SERVER, code="unhealthy", headers=RETRY)
