"""A cheap HTTP client that streams answers and notes when each output arrived.

A time is taken when bytes are read, before anything is parsed; connections are kept and used again.
Knows nothing of when requests are due.
"""

import asyncio
import json
import ssl
import time
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import urlsplit

from gllm.bench.api import Api
from gllm.bench.errors import BenchError
from gllm.bench.metrics import Outcome
from gllm.bench.response import Events, Response, ResponseError

READ_SIZE = 1 << 16
MAX_ERROR = 500  # characters of an error that is not JSON


class Client:
    """Posts to one path of the server at `url`. Use as a context manager; `began` starts its clock."""

    def __init__(self, url: str, path: str, headers: Mapping[str, str]) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise BenchError(f"{url} is no URL of a server, such as http://127.0.0.1:8000")
        self.began = time.perf_counter()
        self._ssl = ssl.create_default_context() if parts.scheme == "https" else None
        self._address = parts.hostname, parts.port or (443 if self._ssl else 80)
        fields = {"Host": parts.netloc, "Content-Type": "application/json", **headers}
        lines = [f"POST {parts.path.rstrip('/')}{path} HTTP/1.1", *(f"{k}: {v}" for k, v in fields.items())]
        self._head = "\r\n".join(lines).encode() + b"\r\nContent-Length: "
        self._idle: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []

    async def __aenter__(self) -> "Client":
        return self

    async def __aexit__(self, *_: object) -> None:
        for _reader, writer in self._idle:
            writer.close()
        self._idle.clear()

    def now(self) -> float:
        """Seconds since the client's clock began."""
        return time.perf_counter() - self.began

    async def generate(self, api: Api, body: bytes, outcome: Outcome) -> None:
        """Send a request and fill in its outcome; what goes wrong becomes its error."""
        events = Events()
        refusal = b""
        outcome.sent = self.now()

        def take(response: Response, data: bytes) -> None:
            nonlocal refusal
            now = self.now()
            body = response.feed(data)
            if response.status == 200:
                for event in events.feed(body):
                    if event != b"[DONE]":
                        _note(api, json.loads(event), now, outcome)
            else:
                refusal += body

        try:
            response = await self._exchange(body, take)
            if response.status != 200:
                raise ResponseError(f"{response.status} {response.reason}: {_sentence(refusal)}")
            if not outcome.error and not outcome.outputs:
                raise ResponseError("the answer ended without any output")
        except (OSError, ResponseError, ValueError) as error:
            outcome.error = str(error) or type(error).__name__
        if outcome.error:
            outcome.outputs, outcome.num_output_tokens = [], 0
        else:  # a server without usage: as many tokens as outputs is the best that can be said
            outcome.num_output_tokens = outcome.num_output_tokens or len(outcome.outputs)

    async def _exchange(self, body: bytes, take: Callable[[Response, bytes], None]) -> Response:
        """Send `body`, on a connection that is open if there is one, and read the answer to its end."""
        message = self._head + str(len(body)).encode() + b"\r\n\r\n" + body
        while True:
            reader, writer, is_fresh = await self._connection()
            response = Response()
            try:
                writer.write(message)
                data = await reader.read(READ_SIZE)
                if not data and not is_fresh:  # the server closed it just now, for being idle
                    writer.close()
                    continue
                while not response.is_done:
                    if data:
                        take(response, data)
                    else:
                        response.end()
                    if not response.is_done:
                        data = await reader.read(READ_SIZE)
            except BaseException:
                writer.close()
                raise
            if response.keeps_alive:
                self._idle.append((reader, writer))
            else:
                writer.close()
            return response

    async def _connection(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter, bool]:
        while self._idle:
            reader, writer = self._idle.pop()
            if not reader.at_eof() and not writer.is_closing():
                return reader, writer, False
            writer.close()
        return *await asyncio.open_connection(*self._address, ssl=self._ssl), True


def _note(api: Api, event: Any, now: float, outcome: Outcome) -> None:
    if not isinstance(event, dict):
        raise ResponseError(f"the server sent an event that is no JSON object: {event!r:.80}")
    if "error" in event:
        error = event["error"]
        outcome.error = str(error.get("message", error) if isinstance(error, dict) else error)
    if choices := event.get("choices"):
        text = api.output(choices[0])
        if text is not None:
            outcome.outputs.append(now)
            outcome.text += text
    if usage := event.get("usage"):
        outcome.num_prompt_tokens = usage.get("prompt_tokens") or outcome.num_prompt_tokens
        outcome.num_output_tokens = usage.get("completion_tokens") or 0


def _sentence(body: bytes) -> str:
    """What the server said against a request, in its words where it has OpenAI's form."""
    try:
        return str(json.loads(body)["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return body[:MAX_ERROR].decode("utf-8", "replace")
