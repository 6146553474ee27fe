"""`LLM`: prompts in, results out, in the call forms that vLLM's users know.

Behind it run the server's scheduler and worker processes (see `gllm.offline`). Knows nothing of
processes, sockets or HTTP.
"""

import asyncio
import contextlib
import weakref
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self, TypeVar, cast

from gllm.config import DeploymentConfig, load
from gllm.frontend.chat import ANSWER, Ending
from gllm.frontend.engine import Refused
from gllm.frontend.generation import GenerationFailed
from gllm.frontend.messages import checked_messages
from gllm.frontend.params import SamplingParams
from gllm.frontend.text_output import TextDelta
from gllm.frontend.tokenizer import Tokenizer
from gllm.offline import OfflineEngine
from gllm.outputs import Progress, RequestOutput, completion_output, prompt_table

Prompt = str | Sequence[int] | Mapping[str, Any]
Conversation = Sequence[Mapping[str, Any]]
P = TypeVar("P", Prompt, Conversation)
EachParams = SamplingParams | Sequence[SamplingParams] | None


@dataclass(slots=True)
class Request:
    """A prompt, tokenized and checked, and how to go on from it. index: its place in the call.

    is_answer: what follows is a whole answer of a chat.
    """

    index: int
    text: str | None
    token_ids: list[int]
    params: SamplingParams
    is_answer: bool


class LLM:
    """A model in processes of its own, for offline use.

        with LLM(model="demo/model") as llm:
            for output in llm.generate(["One, two,"], SamplingParams(max_tokens=8)):
                print(output.outputs[0].text)

    model: the checkpoint's directory. options: those of `gllm serve`, as keywords (`max_num_seqs=64`).
    config: a YAML file, or a configuration already made. Without `with`, call `close`; the end of
    Python closes what was forgotten. ValueError, or LaunchError where the processes cannot start.
    """

    def __init__(
        self,
        model: str | Path | None = None,
        *,
        config: str | Path | DeploymentConfig | None = None,
        **options: Any,
    ) -> None:
        if not isinstance(config, DeploymentConfig):
            config = load(None if config is None else str(config), None, model=model, **options)
        elif model is not None or options:
            raise TypeError("a whole configuration is given: it takes no model and no options beside it")
        self.config = config
        self._engine = OfflineEngine(config)
        self._end = weakref.finalize(self, self._engine.abandon)  # at the latest when Python ends

    def generate(
        self, prompts: Prompt | Iterable[Prompt], sampling_params: EachParams = None, use_tqdm: bool = True
    ) -> list[RequestOutput]:
        """What follows each prompt, in the order of the prompts.

        A prompt is a string, a list of token ids, `{"prompt": text}` or `{"prompt_token_ids": [...]}`;
        sampling_params are for all prompts, or one for each; without any those of
        `get_default_sampling_params`. All prompts are checked before the first
        runs: ValueError names the one that is wrong. Ctrl-C cancels what runs.
        """
        return self._answer(_prompts(prompts), self._read, sampling_params, use_tqdm, is_answer=False)

    def chat(
        self,
        messages: Conversation | Iterable[Conversation],
        sampling_params: EachParams = None,
        use_tqdm: bool = True,
        *,
        add_generation_prompt: bool = True,
        continue_final_message: bool = False,
    ) -> list[RequestOutput]:
        """The answer to a conversation, or to each of several, by the chat template; else as `generate`.

        continue_final_message (then with add_generation_prompt=False): go on with the words of the
        final message instead of answering it.
        """
        ending = Ending(add_generation_prompt, continue_final_message)

        def read(conversation: Conversation) -> tuple[str | None, list[int]]:
            return self._render(conversation, ending)

        return self._answer(
            _conversations(messages), read, sampling_params, use_tqdm, is_answer=add_generation_prompt
        )

    def stream_chat(
        self, messages: Conversation, sampling_params: SamplingParams | None = None
    ) -> Generator[TextDelta]:
        """The answer to one conversation as it comes; closing the iterator cancels it."""
        with _sentences("the conversation"):
            params = sampling_params or self.get_default_sampling_params()
            if params.n != 1:
                raise ValueError(f"n is {params.n}, but one answer is streamed")
            return self._stream(self._checked(0, *self._render(messages), params, is_answer=True))

    def chat_prompt(self, messages: Conversation) -> list[int]:
        """The token ids that the chat template makes of a conversation; ValueError where it refuses it."""
        return self._render(messages)[1]

    def get_default_sampling_params(self) -> SamplingParams:
        """What is used where none are given: the checkpoint's, unless generation_config="vllm"."""
        return SamplingParams(**self._engine.text.sampling_defaults)

    @property
    def max_model_len(self) -> int:
        """The longest sequence, prompt and answer together, in tokens."""
        return self._engine.text.engine.limits.max_model_len

    def get_tokenizer(self) -> Tokenizer:
        """The model's tokenizer: `encode(text)` and `decode(token_ids)`."""
        return self._engine.tokenizer

    def close(self) -> None:
        """End the processes; may be called again."""
        self._end.detach()
        self._engine.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # ---- prompts to requests -------------------------------------------------------------------

    def _read(self, prompt: Prompt) -> tuple[str | None, list[int]]:
        """The text of a prompt, if it has one, and its token ids."""
        content: Any = prompt
        if isinstance(prompt, Mapping):
            if "prompt_token_ids" in prompt:
                return prompt.get("prompt"), _token_ids(prompt["prompt_token_ids"])
            content = prompt.get("prompt")
        if isinstance(content, str):
            return content, self._engine.tokenizer.encode(content)
        return None, _token_ids(content)

    def _render(self, messages: Conversation, ending: Ending = ANSWER) -> tuple[str | None, list[int]]:
        """The text and the token ids of a conversation."""
        template = self._engine.template
        if template is None:
            raise ValueError("this model has no chat template: name a file with chat_template=FILE")
        plain = [dict(message) if isinstance(message, Mapping) else message for message in messages]
        checked = checked_messages(plain)
        ids = template.encode(checked, ending)
        return template.render(checked, ending), ids

    def _checked(
        self, index: int, text: str | None, token_ids: list[int], params: SamplingParams, is_answer: bool
    ) -> Request:
        """A request that fits; its answer ends where the context does, as in vLLM. Raises ParameterError."""
        room = self._engine.text.room(len(token_ids))
        if params.max_tokens is not None and params.max_tokens > room:
            params = replace(params, max_tokens=room)
        self._engine.text.check(token_ids, params)
        return Request(index, text, token_ids, params, is_answer)

    # ---- requests to results -------------------------------------------------------------------

    def _stream(self, request: Request) -> Generator[TextDelta]:
        with _sentences("the conversation"):
            stream = self._engine.text.stream(request.token_ids, request.params, is_answer=request.is_answer)
            yield from self._engine.iterate(stream)

    def _answer(
        self,
        prompts: list[P],
        read: Callable[[P], tuple[str | None, list[int]]],
        params: EachParams,
        use_tqdm: bool,
        *,
        is_answer: bool,
    ) -> list[RequestOutput]:
        requests = []
        each = _each(self.get_default_sampling_params() if params is None else params, len(prompts))
        for index, (prompt, its_params) in enumerate(zip(prompts, each, strict=True)):
            with _sentences(f"prompt {index}"):
                requests.append(self._checked(index, *read(prompt), its_params, is_answer))
        with contextlib.closing(Progress(len(requests), use_tqdm)) as progress:
            return self._engine.call(self._complete_all(requests, progress.take))

    async def _complete_all(
        self, requests: list[Request], on_finished: Callable[[RequestOutput], None]
    ) -> list[RequestOutput]:
        """Results in the order of `requests`, of which only as many are open as the scheduler may queue."""
        results: dict[int, RequestOutput] = {}
        waiting = iter(requests)

        async def take_turns() -> None:
            for request in waiting:
                results[request.index] = await self._complete(request)
                on_finished(results[request.index])

        try:
            async with asyncio.TaskGroup() as group:
                most = max((request.params.n for request in requests), default=1)  # sequences of one request
                for _ in range(min(len(requests), max(self._engine.max_open // most, 1))):
                    group.create_task(take_turns())
        except ExceptionGroup as group_error:
            raise group_error.exceptions[0] from None
        return [results[request.index] for request in requests]

    async def _complete(self, request: Request) -> RequestOutput:
        with _sentences(f"prompt {request.index}"):
            async with self._engine.turns:
                results = await self._engine.text.generate(
                    request.token_ids, request.params, request.is_answer
                )
        bytes_of = self._engine.tokenizer.bytes_of
        return RequestOutput(
            str(request.index),
            request.text,
            request.token_ids,
            [completion_output(index, result, bytes_of) for index, result in enumerate(results)],
            prompt_logprobs=prompt_table(request.token_ids, results[0].prompt_logprobs, bytes_of)
            if request.params.prompt_logprobs is not None
            else None,
        )


def _prompts(given: Prompt | Iterable[Prompt]) -> list[Prompt]:
    """The prompts of one call; a list of integers is one prompt, in token ids."""
    if isinstance(given, str | Mapping):
        return [given]
    prompts = list(given)
    is_one = bool(prompts) and isinstance(prompts[0], int)
    return [cast("Prompt", prompts)] if is_one else cast("list[Prompt]", prompts)


def _conversations(given: Conversation | Iterable[Conversation]) -> list[Conversation]:
    conversations = list(given)
    is_one = bool(conversations) and isinstance(conversations[0], Mapping)
    return [cast("Conversation", conversations)] if is_one else cast("list[Conversation]", conversations)


def _each(given: SamplingParams | Sequence[SamplingParams], num_prompts: int) -> Sequence[SamplingParams]:
    """Sampling parameters for each prompt."""
    if isinstance(given, SamplingParams):
        return [given] * num_prompts
    if len(given) != num_prompts:
        raise ValueError(
            f"{num_prompts} prompts, but {len(given)} sampling_params: give one for each, or one"
        )
    return given


def _token_ids(given: Any) -> list[int]:
    if isinstance(given, Sequence) and all(type(token) is int for token in given):
        return list(given)
    raise ValueError(
        "a prompt is a string, a list of token ids, {'prompt': text} or {'prompt_token_ids': [...]}, "
        f"not {given!r:.80}"
    )


@contextlib.contextmanager
def _sentences(subject: str) -> Iterator[None]:
    """Says whose fault it was, in the error types that callers of a library expect."""
    try:
        yield
    except (ValueError, Refused) as error:
        raise ValueError(f"{subject}: {error}") from error
    except GenerationFailed as error:
        raise RuntimeError(f"{subject}: {error}") from error
