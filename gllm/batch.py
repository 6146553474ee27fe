"""`gllm batch`: a file of requests in OpenAI's batch form, answered by the gateway's own code.

Each line goes through the HTTP application, in this process, so that its answer is the server's,
refusals included. Knows the envelope of a line; nothing of what is in a body.
"""

import asyncio
import contextlib
import json
import os
import sys
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, BinaryIO
from uuid import uuid4

import httpx
from tqdm import tqdm

from gllm.config import ConfigError, DeploymentConfig
from gllm.config.schema import FrontendConfig
from gllm.frontend.app import Gateway
from gllm.frontend.body import parse_object
from gllm.frontend.errors import ApiError
from gllm.frontend.served_model import ServedModel
from gllm.frontend.tool_calls.forms import form_in_force
from gllm.offline import OfflineEngine

URLS = ("/v1/chat/completions", "/v1/completions")

Json = dict[str, Any]


class BadLine(ValueError):
    """A line that is no request, and why."""


@dataclass(slots=True)
class Entry:
    """A line of the input. problem: why it cannot be asked at all."""

    number: int
    custom_id: str | None = None
    url: str = ""
    body: Any = None
    problem: str | None = None

    @property
    def num_prompts(self) -> int:
        """How many sequences of the scheduler this one line makes."""
        prompt = self.body.get("prompt") if isinstance(self.body, dict) else None
        is_several = isinstance(prompt, list) and not all(isinstance(item, int) for item in prompt)
        num_prompts = len(prompt) if prompt and is_several else 1
        outputs = [self.body.get(name) for name in ("n", "best_of")] if isinstance(self.body, dict) else []
        return num_prompts * max([1, *(number for number in outputs if type(number) is int)])


def run(config: DeploymentConfig, input_file: str, output_file: str) -> int:
    """The whole of `gllm batch`: 0 as soon as every line has an answer or an error."""
    with contextlib.ExitStack() as stack:
        lines = sys.stdin.buffer if input_file == "-" else stack.enter_context(open(input_file, "rb"))
        if os.path.exists(output_file) and input_file != "-" and os.path.samefile(input_file, output_file):
            raise ConfigError(f"{output_file} is the input: name another file for the answers")
        out = sys.stdout.buffer if output_file == "-" else stack.enter_context(open(output_file, "wb"))
        engine = stack.enter_context(contextlib.closing(OfflineEngine(config)))
        batch = engine.call(answer_all(engine, config, lines, out))
    print(f"gllm: {batch.num_answered} answered, {batch.num_refused} refused", file=sys.stderr)
    return 0


async def answer_all(
    engine: OfflineEngine, config: DeploymentConfig, lines: Iterable[bytes], out: BinaryIO
) -> "Batch":
    """A line of `out` for each request of `lines`, in their order; runs in the engine's loop."""
    tool_form = form_in_force(config.frontend, engine.tokenizer.family)
    # Keys and their budgets are for a server's clients.
    limits = config.limits.model_copy(
        update={"requests_per_minute": None, "tokens_per_minute": None, "max_concurrency": None}
    )
    gateway = Gateway(
        ServedModel(config.model.name, engine.text, engine.template, tool_form),
        limits,
        FrontendConfig(tokenizer_workers=config.frontend.tokenizer_workers),
    )
    transport = httpx.ASGITransport(gateway)
    with contextlib.closing(gateway):
        async with httpx.AsyncClient(transport=transport, base_url="http://gllm", timeout=None) as client:
            batch = Batch(client, out, engine.max_open)
            await batch.run(lines)
            return batch


class Batch:
    """One run. At most `max_open` prompts are with the scheduler at once: more, and it would refuse some."""

    def __init__(self, client: httpx.AsyncClient, out: BinaryIO, max_open: int) -> None:
        self.num_answered = self.num_refused = 0
        self._client = client
        self._out = out
        self._max_open = max_open
        self._numbers: dict[str, int] = {}  # of the lines, by custom_id
        self._open: deque[tuple[Entry, asyncio.Task[Json]]] = deque()
        self._num_open_prompts = 0

    async def run(self, lines: Iterable[bytes]) -> None:
        with contextlib.closing(tqdm(desc="Batch", unit=" requests", disable=None)) as bar:
            async with asyncio.TaskGroup() as group:
                for number, line in enumerate(lines, 1):
                    if line.strip():
                        entry = self._read(number, line)
                        while self._open and self._num_open_prompts + entry.num_prompts > self._max_open:
                            bar.update(await self._write_first())
                        self._open.append((entry, group.create_task(self._answer(entry))))
                        self._num_open_prompts += entry.num_prompts
                while self._open:
                    bar.update(await self._write_first())

    def _read(self, number: int, line: bytes) -> Entry:
        """What a line asks for; never raises, for a bad line must not end the run."""
        entry = Entry(number)
        try:
            given = parse_object(line)
            custom_id = given.get("custom_id")
            if not isinstance(custom_id, str) or not custom_id:
                raise BadLine("custom_id is missing: give each line a string of its own")
            entry.custom_id = custom_id
            first = self._numbers.setdefault(custom_id, number)
            if first != number:
                raise BadLine(f"custom_id {custom_id!r:.80} is already that of line {first}")
            if given.get("method") != "POST":
                raise BadLine(f"method is {given.get('method')!r:.80}, expected 'POST'")
            if given.get("url") not in URLS:
                raise BadLine(f"url is {given.get('url')!r:.80}, expected {' or '.join(URLS)}")
            if not isinstance(given.get("body"), dict):
                raise BadLine("body is missing: give the request as an object")
            if given["body"].get("stream"):
                raise BadLine("stream is not possible in a batch: leave it out")
            entry.url, entry.body = given["url"], given["body"]
        except BadLine as error:
            entry.problem = str(error)
        except ApiError as error:
            entry.problem = error.sentence.replace("the body", "it", 1)
        return entry

    async def _answer(self, entry: Entry) -> Json:
        """The line of the output for `entry`."""
        answer: Json = {
            "id": f"batch_req_{uuid4().hex}",
            "custom_id": entry.custom_id,
            "response": None,
            "error": None,
        }
        if entry.problem is not None:
            message = f"line {entry.number}: {entry.problem}"
            return answer | {"error": {"code": "invalid_line", "message": message}}
        response = await self._client.post(entry.url, json=entry.body)
        return answer | {
            "response": {
                "status_code": response.status_code,
                "request_id": response.headers["x-request-id"],
                "body": response.json(),
            }
        }

    async def _write_first(self) -> int:
        """Wait for the oldest open line and write its answer; returns the number of lines written."""
        entry, task = self._open[0]
        answer = await task
        self._open.popleft()
        self._num_open_prompts -= entry.num_prompts
        self._out.write(json.dumps(answer, ensure_ascii=False).encode() + b"\n")
        self._out.flush()
        is_answered = answer["response"] is not None and answer["response"]["status_code"] == 200
        self.num_answered += is_answered
        self.num_refused += not is_answered
        return 1
