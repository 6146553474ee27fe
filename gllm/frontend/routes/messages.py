"""Anthropic's Messages API: POST /v1/messages and /v1/messages/count_tokens."""

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from gllm.frontend.adapters.messages_answer import MessagesAnswer, error_body
from gllm.frontend.adapters.messages_body import CountBody, MessagesBody
from gllm.frontend.answer_shapes import InputTokens, Message, MessagesError
from gllm.frontend.generation_body import read_body
from gllm.frontend.routes.endpoint import Endpoint
from gllm.frontend.routes.openai import GENERATING
from gllm.frontend.service import Service
from gllm.frontend.types import ChatBody


def endpoints(service: Service) -> list[Endpoint]:
    async def messages(request: Request) -> Response:
        body = MessagesBody.read(await service.read(request))
        service.check_model(body.model)
        translated = body.translated()
        with translated.in_its_words():
            job = await service.jobs.chat(ChatBody.read(translated.chat), MessagesAnswer(service.model))
            return await service.answer(request, job, bool(body.stream))

    async def count_tokens(request: Request) -> Response:
        body = read_body(CountBody, await service.read(request), CountBody.NEUTRAL)
        service.check_model(body.model)
        translated = body.translated()
        with translated.in_its_words():
            prompt = await service.jobs.chat_prompt(ChatBody.read(translated.chat))
        return JSONResponse({"input_tokens": len(prompt)})

    return [
        Endpoint(
            method="POST", path="/v1/messages", handle=messages, tag="generation",
            summary="The answer in a chat, in the shape of Anthropic's Messages API", body=MessagesBody,
            answer=Message, error=MessagesError, streams=True, statuses=GENERATING, error_body=error_body,
        ),
        Endpoint(
            method="POST", path="/v1/messages/count_tokens", handle=count_tokens, tag="tokens",
            summary="How many tokens the prompt of such a chat has", body=CountBody,
            answer=InputTokens, error=MessagesError,
            statuses=frozenset({400, 404, 413, 503}), error_body=error_body,
        ),
    ]  # fmt: skip
