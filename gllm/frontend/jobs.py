"""What a generating request becomes: prompts in token ids, then one answer, whole or as events.

Knows request bodies and the text engine; nothing of HTTP.
"""

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from dataclasses import dataclass, replace
from functools import partial
from typing import TypeVar

from gllm.config.schema import LimitsConfig
from gllm.frontend.answer import Answer, Usage
from gllm.frontend.choices_answer import ChatAnswer, CompletionAnswer
from gllm.frontend.echo import Echo, with_echo
from gllm.frontend.messages import checked_messages
from gllm.frontend.params import ParameterError, QueueParams, SamplingParams
from gllm.frontend.served_model import ServedModel
from gllm.frontend.streaming import merged
from gllm.frontend.text_offsets import TextOffsets, offsets_in_prompt
from gllm.frontend.text_output import TextDelta, TextResult
from gllm.frontend.tool_calls.call import ToolParser
from gllm.frontend.tool_calls.demanded import demanded, parser_of_demanded
from gllm.frontend.tool_calls.forms import FORMS, with_calls
from gllm.frontend.tool_calls.strict import strict
from gllm.frontend.tools import Choice, ToolUse
from gllm.frontend.types import DEFAULT_COMPLETION_TOKENS, ChatBody, CompletionBody

T = TypeVar("T")

SHORT_TEXT = 256  # characters: encoding them takes less time than a thread's coming and going


@dataclass(slots=True)
class Job:
    """A request, encoded. params: those of each prompt. is_answer: of a chat, and whole.

    num_best: outputs that are kept of each prompt, those with the likeliest tokens; None: all.
    parser: makes the parser of one answer's calls of tools; None: there are none to read.
    is_parallel: an answer may hold several. echoes: with what the outputs of each prompt begin, if they
    show it.
    """

    prompts: Sequence[Sequence[int]]
    params: Sequence[SamplingParams]
    queue: QueueParams
    answer: Answer
    is_answer: bool = False
    parser: Callable[[], ToolParser] | None = None
    is_parallel: bool = True
    num_best: int | None = None
    echoes: Sequence[Echo] = ()

    @property
    def n(self) -> int:
        """Outputs of each prompt."""
        return self.params[0].n

    def usage(self) -> Usage:
        return Usage(sum(len(prompt) for prompt in self.prompts))

    def best(self, results: Sequence[TextResult]) -> list[TextResult]:
        """Of each prompt's outputs those that are shown, in the order of their prompts."""
        if self.num_best is None:
            return list(results)
        of_prompts = [results[start : start + self.n] for start in range(0, len(results), self.n)]
        ranked = [sorted(some, key=lambda result: -result.mean_logprob) for some in of_prompts]
        return [result for some in ranked for result in some[: self.num_best]]


class Jobs:
    """Makes jobs of bodies and answers of jobs.

    num_threads: tokenizing runs in so many, since a long text must not stop the streams of others.
    """

    def __init__(self, model: ServedModel, limits: LimitsConfig, num_threads: int) -> None:
        self._text = model.text
        self._model = model.name
        self._template = model.chat_template
        self._tool_form = model.tool_form
        self._limits = limits
        self._threads = ThreadPoolExecutor(num_threads, "gllm-tokenizer")

    async def completion(self, body: CompletionBody) -> Job:
        """The job of a completion; raises `ParameterError`."""
        prompts = body.prompts(self._limits)
        params = body.params(self._limits, self._text.sampling_defaults)
        encode = self._text.tokenizer.encode

        def encode_all() -> list[list[int]]:
            return [encode(prompt) if isinstance(prompt, str) else prompt for prompt in prompts]

        is_short = sum(map(len, prompts)) <= SHORT_TEXT
        encoded = encode_all() if is_short else await self._in_thread(encode_all)
        encoded = [_truncated(prompt, body.truncate_prompt_tokens) for prompt in encoded]
        asked = body.num_tokens_asked()
        if asked is None and params.max_tokens is None:
            params = replace(params, max_tokens=DEFAULT_COMPLETION_TOKENS)
        # All are checked before the first is generated.
        each = [self._checked(prompt, params, asked) for prompt in encoded]
        num_best = None if body.best_of is None else body.n or 1
        echoes = self._echoes(body, prompts, encoded) if body.echo else ()
        tokenizer, num_shown = self._text.tokenizer, num_best or params.n

        def offsets_of(choice: int) -> TextOffsets:
            place = choice // num_shown
            own = tokenizer.detokenizer(params.skip_special_tokens, after=encoded[place])
            if not echoes:
                return TextOffsets(own)
            text, ids = echoes[place].text, echoes[place].token_ids
            return TextOffsets(own, offsets_in_prompt(text, ids, tokenizer), len(text))

        return Job(
            encoded,
            each,
            body.queue(),
            CompletionAnswer(self._model, body.shows(), tokenizer.bytes_of, offsets_of, body.request_id),
            num_best=num_best,
            echoes=echoes,
        )

    async def chat(self, body: ChatBody, answer: Answer | None = None) -> Job:
        """The job of a chat, answered in the form of `answer`, else of a chat; raises `ParameterError`."""
        use = body.tool_use()
        parser = self._parser(use)
        params = body.params(self._limits, self._text.sampling_defaults)
        if (wish := demanded(use) or strict(use, self._tool_form or "")) is not None:
            if params.structured_outputs is not None:
                raise ParameterError(
                    "tool_choice",
                    "tool_choice, or a strict tool, limits the answer, and another field does: give only one",
                )
            params = replace(params, structured_outputs=wish)
        prompt = await self.chat_prompt(body)
        params = self._checked(prompt, params, body.num_tokens_asked())
        return Job(
            [prompt],
            [params],
            body.queue(),
            answer or ChatAnswer(self._model, body.shows(), self._text.tokenizer.bytes_of, body.request_id),
            is_answer=body.ending().add_generation_prompt,
            parser=parser,
            is_parallel=use.is_parallel,
        )

    async def chat_prompt(self, body: ChatBody) -> list[int]:
        """The tokens of a chat; raises `ParameterError`."""
        template = self._template
        if template is None:
            raise ParameterError(
                "messages",
                "this model has no chat template: use /v1/completions, or start the server with "
                "--chat-template FILE",
            )
        messages = checked_messages(body.messages)
        ending, tools = body.ending(), body.tool_use().definitions
        prompt = await self._in_thread(lambda: template.encode(messages, ending, tools))
        return _truncated(prompt, body.truncate_prompt_tokens)

    async def encode(self, text: str, add_special_tokens: bool) -> list[int]:
        """The tokens of a text."""
        return await self._in_thread(lambda: self._text.tokenizer.encode(text, add_special_tokens))

    async def whole(self, job: Job) -> bytes:
        """The JSON of the answer: all outputs in the order of their prompts, generated at the same time."""
        outputs: list[list[TextDelta]] = [[] for _ in range(len(job.prompts) * job.n)]
        async with aclosing(merged(self._streams(job))) as deltas:
            async for index, delta in deltas:
                outputs[index * job.n + delta.output].append(delta)
        results = [TextResult.of(output) for output in outputs]
        for index, result in enumerate(results):
            result.prompt = job.prompts[index // job.n]
        usage = job.usage()
        usage.completion_tokens = sum(len(result.token_ids) for result in results)
        usage.cached_tokens = sum(result.num_cached_tokens for result in results[:: job.n])
        return job.answer.whole(job.best(results), usage)

    async def events(self, job: Job) -> AsyncGenerator[bytes, None]:
        """The answer as server-sent events."""
        usage, answer, n = job.usage(), job.answer, job.n
        opening = answer.opening(len(job.prompts) * n, usage)
        async with aclosing(merged(self._streams(job))) as deltas:
            async for index, delta in deltas:
                usage.completion_tokens += len(delta.token_ids)
                if delta.finish_reason is not None and not delta.output:
                    usage.cached_tokens += delta.num_cached_tokens
                yield opening + answer.event(index * n + delta.output, delta, usage)
                opening = b""
        yield answer.closing(usage)

    def close(self) -> None:
        """End the threads."""
        self._text.close()
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _checked(self, prompt: Sequence[int], params: SamplingParams, asked: int | None) -> SamplingParams:
        """`params` for this prompt; a length that the request did not ask for ends with the context."""
        if asked is None and params.max_tokens is not None and prompt:
            params = replace(params, max_tokens=min(params.max_tokens, self._text.room(len(prompt))))
        self._text.check(prompt, params)
        return params

    def _streams(self, job: Job) -> list[AsyncGenerator[TextDelta, None]]:
        streams = [
            self._text.stream(prompt, params, job.queue, job.is_answer)
            for prompt, params in zip(job.prompts, job.params, strict=True)
        ]
        if job.echoes:
            return [with_echo(stream, echo) for stream, echo in zip(streams, job.echoes, strict=True)]
        if (parser := job.parser) is None:
            return streams
        return [with_calls(stream, parser, job.is_parallel, job.n) for stream in streams]

    def _echoes(
        self, body: CompletionBody, prompts: Sequence[str | list[int]], encoded: Sequence[Sequence[int]]
    ) -> list[Echo]:
        """How each prompt is shown: as it was given, but for what was cut away."""
        decode = self._text.tokenizer.decode
        is_whole = body.truncate_prompt_tokens is None
        return [
            Echo(
                given if isinstance(given, str) and is_whole else decode(ids),
                ids,
                is_all=body.num_tokens_asked() == 0,
            )
            for given, ids in zip(prompts, encoded, strict=True)
        ]

    def _parser(self, use: ToolUse) -> Callable[[], ToolParser] | None:
        """What reads the calls of a chat; raises `ParameterError` where it is not known how to."""
        if use.choice is Choice.NONE:
            return None
        if use.choice is not Choice.AUTO:
            return parser_of_demanded(use)
        if self._tool_form is None:
            raise ParameterError(
                "tools",
                "this server does not read calls of tools, since its model's form is not known or they are "
                "switched off: start it with --enable-auto-tool-choice and --tool-call-parser, one of "
                f"{', '.join(FORMS)}, or set tool_choice to none",
                "unsupported_parameter",
            )
        return partial(FORMS[self._tool_form], use.names)

    async def _in_thread(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._threads, work)


def _truncated(prompt: list[int], most: int | None) -> list[int]:
    """The last `most` tokens of a prompt."""
    return prompt if most is None else prompt[-most:]
