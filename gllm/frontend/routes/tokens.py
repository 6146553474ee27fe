"""vLLM's POST /tokenize and /detokenize."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, WithJsonSchema
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from gllm.frontend.answer_shapes import Detokenized, Tokenized
from gllm.frontend.body_schemas import MESSAGES, TOOLS, or_null
from gllm.frontend.generation_body import Unchecked, read_body
from gllm.frontend.params import ParameterError
from gllm.frontend.routes.endpoint import Endpoint
from gllm.frontend.service import Service
from gllm.frontend.types import ChatBody
from gllm.protocol.wire import INT32_MAX

STATUSES = frozenset({400, 404, 413, 503})


class TokenizeBody(BaseModel):
    """POST /tokenize: a prompt, or the messages of a chat; either as it would be generated from."""

    model_config = ConfigDict(strict=True, extra="forbid")

    model: str | None = None
    prompt: str | None = None
    messages: Annotated[Unchecked, WithJsonSchema(or_null(MESSAGES))] = None
    add_special_tokens: bool | None = None
    add_generation_prompt: bool | None = None
    continue_final_message: bool | None = None
    tools: Annotated[Unchecked, WithJsonSchema(TOOLS)] = None
    return_token_strs: bool | None = None


class DetokenizeBody(BaseModel):
    """POST /detokenize"""

    model_config = ConfigDict(strict=True, extra="forbid")

    model: str | None = None
    tokens: list[Annotated[int, Field(ge=0, le=INT32_MAX)]]


def endpoints(service: Service) -> list[Endpoint]:
    tokenizer = service.text.tokenizer

    async def tokenize(request: Request) -> Response:
        body = read_body(TokenizeBody, await service.read(request))
        if body.model is not None:
            service.check_model(body.model)
        tokens = await prompt_of(body)
        names = [tokenizer.id_to_token(token) for token in tokens] if body.return_token_strs else None
        return JSONResponse(
            {
                "count": len(tokens),
                "max_model_len": service.text.engine.limits.max_model_len,
                "tokens": tokens,
                "token_strs": names,
            }
        )

    async def prompt_of(body: TokenizeBody) -> list[int]:
        if (body.prompt is None) == (body.messages is None):
            raise ParameterError("prompt", "give either prompt, a text, or messages, a chat")
        if body.prompt is None:
            if body.add_special_tokens:
                raise ParameterError(
                    "add_special_tokens",
                    "add_special_tokens true is not possible with messages: their template has them",
                    "unsupported_parameter",
                )
            chat = body.model_dump(exclude={"prompt", "return_token_strs", "add_special_tokens"})
            return await service.jobs.chat_prompt(ChatBody.read(chat | {"model": service.model}))
        for name in ("add_generation_prompt", "continue_final_message", "tools"):
            if getattr(body, name) is not None:
                raise ParameterError(name, f"{name} belongs to messages, not to a prompt: leave it out")
        return await service.jobs.encode(body.prompt, body.add_special_tokens is not False)

    async def detokenize(request: Request) -> Response:
        body = read_body(DetokenizeBody, await service.read(request))
        if body.model is not None:
            service.check_model(body.model)
        vocab_size = service.text.engine.limits.vocab_size
        if max(body.tokens, default=0) >= vocab_size:
            raise ParameterError("tokens", f"a token is not one of [0, {vocab_size - 1}]")
        return JSONResponse({"prompt": tokenizer.decode(body.tokens, skip_special_tokens=False)})

    return [
        Endpoint(
            method="POST", path="/tokenize", handle=tokenize, tag="tokens", body=TokenizeBody,
            answer=Tokenized,
            summary="The tokens of a text or a chat", statuses=STATUSES,
        ),
        Endpoint(
            method="POST", path="/detokenize", handle=detokenize, tag="tokens", body=DetokenizeBody,
            answer=Detokenized,
            summary="The text of tokens", statuses=STATUSES,
        ),
    ]  # fmt: skip
