"""OpenAI's Responses API: POST /v1/responses, stateless."""

from starlette.requests import Request
from starlette.responses import Response

from gllm.frontend.adapters.responses_answer import ResponsesAnswer
from gllm.frontend.adapters.responses_body import ResponsesBody
from gllm.frontend.answer_shapes import ResponseObject
from gllm.frontend.routes.endpoint import Endpoint
from gllm.frontend.routes.openai import GENERATING
from gllm.frontend.service import Service
from gllm.frontend.types import ChatBody


def endpoints(service: Service) -> list[Endpoint]:
    async def responses(request: Request) -> Response:
        body = ResponsesBody.read(await service.read(request))
        service.check_model(body.model)
        translated = body.translated()
        with translated.in_its_words():
            chat = ChatBody.read(translated.chat)
            chat.tool_use()  # before an answer repeats the tools
            job = await service.jobs.chat(chat, ResponsesAnswer(service.model, body.echoed()))
            return await service.answer(request, job, bool(body.stream))

    return [
        Endpoint(
            method="POST", path="/v1/responses", handle=responses, tag="generation",
            summary="The answer in a chat, in the shape of OpenAI's Responses API; nothing is stored",
            body=ResponsesBody, answer=ResponseObject, streams=True, statuses=GENERATING,
        ),
    ]  # fmt: skip
