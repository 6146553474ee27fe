"""What every route stands on: one model under one name, its jobs, and how a request is read and answered.

Knows requests and answers; nothing of paths.
"""

import time
from dataclasses import replace
from importlib.metadata import version

from starlette.requests import Request
from starlette.responses import Response

from gllm.config.schema import LimitsConfig
from gllm.frontend.body import read_object
from gllm.frontend.errors import ApiError, shutting_down
from gllm.frontend.jobs import Job, Jobs
from gllm.frontend.served_model import ServedModel
from gllm.frontend.streaming import EventStream, unless_gone

VERSION = version("gllm")


class Service:
    """One model, served.

    model: its name. is_draining: no new request is taken.
    """

    def __init__(self, model: ServedModel, limits: LimitsConfig, tokenizer_workers: int) -> None:
        self.text = model.text
        self.model = model.name
        self.limits = limits
        self.created = int(time.time())
        self.jobs = Jobs(model, limits, tokenizer_workers)
        self.is_draining = False

    async def read(self, request: Request) -> dict[str, object]:
        """The JSON object in the body; raises `ApiError`."""
        if self.is_draining:
            raise shutting_down()
        return await read_object(request, self.limits.max_body_bytes)

    def check_model(self, name: str) -> None:
        """Raise `ApiError` unless it is the model that is served."""
        if name != self.model:
            raise ApiError(
                404,
                f"the model {name[:200]!r} does not exist: this server has {self.model!r}",
                param="model",
                code="model_not_found",
            )

    async def answer(self, request: Request, job: Job, stream: bool) -> Response:
        """The answer of `job`: as events, or whole."""
        state = request.state
        name = job.queue.name or state.request_id
        job.queue = replace(job.queue, name=name, tenant=state.tenant)
        if stream:
            return await EventStream.begin(request.receive, self.jobs.events(job), job.answer.failure)
        answer = await unless_gone(request.receive, self.jobs.whole(job))
        return Response(answer, media_type="application/json")

    def close(self) -> None:
        """End the threads of the tokenizer."""
        self.jobs.close()
