r"""The interactive chat: reads a line, streams the answer, prints what the turn cost.

Speaks with an engine of its own or, by URL, with any server that has OpenAI's chat API; the
conversation does not know which. Knows nothing of templates, tokens or flags.
"""

import contextlib
import json
import os
import sys
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import httpx

if TYPE_CHECKING:
    from gllm.frontend.params import SamplingParams
    from gllm.llm import LLM

Message = dict[str, str]

PROMPT = ">>> "
WELCOME = r"Welcome to gLLM chat. \clear starts anew, Ctrl-C stops an answer, \exit leaves."


class ChatError(RuntimeError):
    """The other side did not answer; one sentence why."""


@dataclass(frozen=True)
class Piece:
    """Text that arrived, and the turn's token counts so far (0 while unknown)."""

    text: str
    num_input_tokens: int = 0
    num_output_tokens: int = 0


Speaker = Callable[[Sequence[Message]], Generator[Piece]]


@dataclass
class Turn:
    """Counts and clock of one answer; times in seconds of `time.perf_counter`."""

    started: float = field(default_factory=time.perf_counter)
    first_token: float | None = None
    ended: float = 0.0
    num_input_tokens: int = 0
    num_output_tokens: int = 0

    def take(self, piece: Piece) -> None:
        self.ended = time.perf_counter()
        if self.first_token is None and (piece.text or piece.num_output_tokens):
            self.first_token = self.ended
        self.num_input_tokens = piece.num_input_tokens or self.num_input_tokens
        self.num_output_tokens = piece.num_output_tokens or self.num_output_tokens

    def __str__(self) -> str:
        first = self.ended if self.first_token is None else self.first_token
        prefill = rate(self.num_input_tokens, first - self.started)
        decode = rate(self.num_output_tokens - 1, self.ended - first)
        return (
            f"#input: {self.num_input_tokens or '?'} #output: {self.num_output_tokens or '?'} "
            f"elapsed time: {self.ended - self.started:.2f} s "
            f"rate(prefill/decode): {prefill:.1f}/{decode:.1f} toks/s"
        )


def rate(num_tokens: int, seconds: float) -> float:
    """Tokens per second; 0 where there is nothing to divide."""
    return num_tokens / seconds if num_tokens > 0 and seconds > 0 else 0.0


def converse(speak: Speaker, system: str | None = None) -> None:
    r"""Talk until `\exit` or the end of input."""
    with contextlib.suppress(ImportError):
        import readline  # noqa: F401 (gives `input` a history and line editing)
    opening = [{"role": "system", "content": system}] if system else []
    messages = list(opening)
    print(WELCOME)
    while (line := read_line()) != r"\exit":
        if line == r"\clear":
            messages = list(opening)
        elif line:
            messages.append({"role": "user", "content": line})
            answer = take_turn(speak, messages)
            if answer:
                messages.append({"role": "assistant", "content": answer})
            else:
                messages.pop()  # what was not answered must not stand before the next question


def read_line() -> str:
    r"""The next line, without blanks around it; the end of input is read as `\exit`."""
    try:
        return input(PROMPT).strip()
    except EOFError:
        print()
        return r"\exit"
    except KeyboardInterrupt:
        print(r"  (\exit leaves)")
        return ""


def take_turn(speak: Speaker, messages: Sequence[Message]) -> str:
    """Stream one answer to the screen; returns it, or the part that arrived before Ctrl-C."""
    turn = Turn()
    answer = ""
    try:
        with contextlib.closing(speak(messages)) as pieces:
            for piece in pieces:
                turn.take(piece)
                answer += piece.text
                print(piece.text, end="", flush=True)
    except KeyboardInterrupt:
        print(" (stopped)", end="")
    except ChatError as error:
        print(f"\ngllm: {error}", file=sys.stderr, flush=True)
        return answer
    print(f"\n{turn}", flush=True)
    return answer


def offline_speaker(llm: "LLM", params: "SamplingParams") -> Speaker:
    """Answers from an engine in child processes of this one."""

    def speak(messages: Sequence[Message]) -> Generator[Piece]:
        try:
            num_input = len(llm.chat_prompt(messages))
            num_output = 0
            for delta in llm.stream_chat(messages, params):
                num_output += len(delta.token_ids)
                yield Piece(delta.text, num_input, num_output)
        except ValueError as error:  # too long for the context, or messages that the template refuses
            raise ChatError(f"{error} (\\clear starts anew)") from error

    return speak


def server_speaker(client: httpx.Client, model: str, options: Mapping[str, Any]) -> Speaker:
    """Answers from the server behind `client`; `options` are fields of OpenAI's chat request."""

    def speak(messages: Sequence[Message]) -> Generator[Piece]:
        body = {"model": model, "messages": list(messages), "stream": True,
                "stream_options": {"include_usage": True}} | dict(options)  # fmt: skip
        with reached(client), client.stream("POST", "/v1/chat/completions", json=body) as response:
            if response.is_error:
                response.read()
                raise ChatError(refusal(response))
            for event in events(response):
                if "error" in event:
                    raise ChatError(str(event["error"].get("message", event["error"])))
                usage = event.get("usage") or {}
                deltas = [choice.get("delta") or {} for choice in event.get("choices") or []]
                text = "".join(delta.get("content") or "" for delta in deltas)
                yield Piece(text, usage.get("prompt_tokens", 0), usage.get("completion_tokens", 0))

    return speak


@contextlib.contextmanager
def connect(url: str) -> Iterator[httpx.Client]:
    """A client of the server at `url`, with or without its `/v1`; the key is $OPENAI_API_KEY, if set."""
    key = os.environ.get("OPENAI_API_KEY")
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    timeout = httpx.Timeout(10.0, read=None)  # a long queue is no error
    base = url.rstrip("/").removesuffix("/v1")
    with httpx.Client(base_url=base, headers=headers, timeout=timeout) as client:
        yield client


def first_model(client: httpx.Client) -> str:
    """The id of the first model that the server lists."""
    with reached(client):
        response = client.get("/v1/models")
    if response.is_error:
        raise ChatError(refusal(response))
    try:
        return str(response.json()["data"][0]["id"])
    except (ValueError, KeyError, IndexError, TypeError):
        raise ChatError(f"{client.base_url} lists no model: name one with --served-model-name") from None


@contextlib.contextmanager
def reached(client: httpx.Client) -> Iterator[None]:
    """Turns what goes wrong on the way to the server into a sentence."""
    try:
        yield
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise ChatError(f"no answer from {client.base_url}: {error or type(error).__name__}") from error


def refusal(response: httpx.Response) -> str:
    """What the server said against the request, in its words where it has OpenAI's form."""
    try:
        return str(response.json()["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return f"the server answered {response.status_code} {response.reason_phrase}"


def events(response: httpx.Response) -> Iterator[dict[str, Any]]:
    """The JSON events of a server-sent stream, up to `[DONE]`."""
    for line in response.iter_lines():
        if line.startswith("data:"):
            data = line.removeprefix("data:").strip()
            if data == "[DONE]":
                return
            try:
                event: dict[str, Any] = json.loads(data)
            except ValueError:
                raise ChatError(f"the server sent an event that is not JSON: {data:.80}") from None
            yield event
