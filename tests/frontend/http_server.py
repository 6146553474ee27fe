"""The real HTTP server in a thread of its own, and a client's view of it."""

import asyncio
import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import uvloop
from fake_scheduler import MAX_MODEL_LEN, FakeScheduler

from gllm.config.schema import FrontendConfig, LimitsConfig
from gllm.frontend.app import Gateway
from gllm.frontend.chat import ChatTemplate
from gllm.frontend.engine import EngineClient
from gllm.frontend.generation import NEUTRAL, TextEngine
from gllm.frontend.main import HttpServer, listen, url_of
from gllm.frontend.served_model import ServedModel
from gllm.frontend.tokenizer import Tokenizer


class Deployment:
    """The HTTP server in a thread of its own, with the scheduler behind it."""

    def __init__(
        self,
        scheduler: FakeScheduler,
        address: str,
        tokenizer: Tokenizer,
        limits: LimitsConfig,
        sampling_defaults: Mapping[str, Any] = NEUTRAL,
        template: ChatTemplate | None = None,
        tool_form: str | None = None,
        frontend: FrontendConfig | None = None,
    ) -> None:
        self.scheduler = scheduler
        self.tokenizer = tokenizer
        self.listener = listen("127.0.0.1", 0)
        self.url = url_of(self.listener)
        self.address = address
        self._frontend = frontend
        self._limits = limits
        self._sampling_defaults = sampling_defaults
        self._template = template or ChatTemplate.find(tokenizer)
        self._tool_form = tool_form
        self._started = threading.Event()
        self._thread = threading.Thread(target=lambda: uvloop.run(self._live()), daemon=True)
        self._thread.start()
        assert self._started.wait(60)
        self.http = httpx.Client(base_url=self.url, timeout=60)

    async def _live(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.engine = EngineClient(self.address)
        await self.engine.start(10)
        text = TextEngine(self.engine, self.tokenizer, [], 0, self._sampling_defaults)
        model = ServedModel("tiny", text, self._template, self._tool_form)
        self.gateway = Gateway(model, self._limits, self._frontend)
        self.http_server = HttpServer(self.gateway, self._started.set)
        serving = asyncio.create_task(self.http_server.serve(sockets=[self.listener]))
        await serving
        self.gateway.close()
        await self.engine.close()

    def answers(self, text: str, stop: str | None = "<|im_end|>") -> None:
        """Have the scheduler generate `text`, then the token `stop`."""
        ids = self.tokenizer.encode(text)
        ends = [] if stop is None else [self.tokenizer.special_id(stop)]
        self.scheduler.script = lambda _submit: ids + ends

    def post(self, path: str, **body: Any) -> httpx.Response:
        return self.http.post(path, json={"model": "tiny", **body})

    def complete(self, **body: Any) -> httpx.Response:
        return self.post("/v1/completions", **{"prompt": "hello", **body})

    def chat(self, **body: Any) -> httpx.Response:
        return self.post(
            "/v1/chat/completions", **{"messages": [{"role": "user", "content": "hello"}], **body}
        )

    def events(self, path: str, **body: Any) -> list[Any]:
        """The JSON of each server-sent event, which must end with [DONE]."""
        with self.http.stream("POST", path, json={"model": "tiny", "stream": True, **body}) as response:
            response.read()
            assert response.status_code == 200, response.text
            assert response.headers["content-type"].startswith("text/event-stream")
            blocks = response.text.split("\n\n")
        assert blocks[-2:] == ["data: [DONE]", ""]
        return [json.loads(block.removeprefix("data: ")) for block in blocks[:-2]]

    def call(self, coroutine: Any) -> Any:
        """Run `coroutine` in the server's loop."""
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop).result(10)

    def close(self) -> None:
        self.http.close()
        self.http_server.should_exit = True
        self._thread.join(60)
        assert not self._thread.is_alive()


@contextmanager
def serving(
    directory: Path,
    tokenizer: Tokenizer,
    sampling_defaults: Mapping[str, Any] = NEUTRAL,
    template: ChatTemplate | None = None,
    tool_form: str | None = None,
    max_model_len: int = MAX_MODEL_LEN,
    frontend: FrontendConfig | None = None,
    **more_limits: Any,
) -> Iterator[Deployment]:
    """A server with small limits and its scheduler; the socket between them is in `directory`."""
    address = f"ipc://{directory}/f.sock"
    scheduler = FakeScheduler(address, tokenizer.vocab_size, max_model_len)
    limits = LimitsConfig(
        max_body_bytes=100_000,
        max_prompts=8,
        max_stop_strings=4,
        max_stop_len=20,
        max_n=8,
        max_logprobs=5,
        **more_limits,
    )
    running = Deployment(
        scheduler, address, tokenizer, limits, sampling_defaults, template, tool_form, frontend
    )
    yield running
    running.close()
    scheduler.close()
