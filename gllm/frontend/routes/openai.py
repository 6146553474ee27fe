"""OpenAI's API: /v1/models, /v1/completions, /v1/chat/completions."""

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from gllm.frontend.answer_shapes import ChatCompletion, Completion, Model, ModelList
from gllm.frontend.params import ParameterError
from gllm.frontend.routes.endpoint import Endpoint
from gllm.frontend.service import Service
from gllm.frontend.types import ChatBody, CompletionBody

GENERATING = frozenset({400, 404, 413, 500, 503, 504})


def endpoints(service: Service) -> list[Endpoint]:
    def card() -> dict[str, object]:
        return {
            "id": service.model,
            "object": "model",
            "created": service.created,
            "owned_by": "gllm",
            "root": service.model,
            "parent": None,
            "max_model_len": service.text.engine.limits.max_model_len,
        }

    async def models(request: Request) -> Response:
        del request
        return JSONResponse({"object": "list", "data": [card()]})

    async def one_model(request: Request) -> Response:
        service.check_model(request.path_params["name"])
        return JSONResponse(card())

    async def completions(request: Request) -> Response:
        body = CompletionBody.read(await service.read(request))
        service.check_model(body.model)
        return await service.answer(request, await service.jobs.completion(body), bool(body.stream))

    async def chat_completions(request: Request) -> Response:
        body = ChatBody.read(await service.read(request))
        service.check_model(body.model)
        try:
            return await service.answer(request, await service.jobs.chat(body), bool(body.stream))
        except ParameterError as error:
            error.param = "messages" if error.param == "prompt" else error.param
            raise

    return [
        Endpoint(
            method="GET", path="/v1/models", handle=models, tag="models", answer=ModelList,
            summary="The model that is served"
        ),
        Endpoint(
            method="GET", path="/v1/models/{name:path}", handle=one_model, tag="models",
            answer=Model,
            summary="One model by its name", statuses=frozenset({404}),
        ),
        Endpoint(
            method="POST", path="/v1/completions", handle=completions, tag="generation",
            summary="What follows a text", body=CompletionBody, answer=Completion, streams=True,
            statuses=GENERATING,
        ),
        Endpoint(
            method="POST", path="/v1/chat/completions", handle=chat_completions, tag="generation",
            summary="The answer in a chat", body=ChatBody, answer=ChatCompletion, streams=True,
            statuses=GENERATING,
        ),
    ]  # fmt: skip
