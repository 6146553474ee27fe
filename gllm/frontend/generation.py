"""Text out of the engine: what is asked is checked, what comes has a finish reason and truthful counts.

Knows one prompt at a time, as token ids; nothing of HTTP or chats.
"""

import itertools
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from hashlib import blake2b
from types import MappingProxyType
from typing import Any

from gllm.frontend.engine import QUEUE_AS_IT_COMES, Chunk, EngineClient, Refused
from gllm.frontend.params import ParameterError, QueueParams, SamplingParams
from gllm.frontend.stops import StopMatcher
from gllm.frontend.structured.grammar import Grammars
from gllm.frontend.text_output import TextDelta, TextResult
from gllm.frontend.text_reader import TextReader
from gllm.frontend.tokenizer import Tokenizer
from gllm.frontend.wishes import check_ids, sampling_of
from gllm.protocol.messages import MAX_STOP_IDS, FinishReason, RejectCode
from gllm.protocol.wire import INT64_MAX

REASONS = {FinishReason.STOP: "stop", FinishReason.LENGTH: "length", FinishReason.ABORT: "abort"}

NEUTRAL: Mapping[str, Any] = MappingProxyType({})


class ContextLengthError(ParameterError):
    """The prompt, or the prompt with what was asked for, is longer than the model's context."""

    def __init__(self, sentence: str, param: str = "prompt") -> None:
        super().__init__(param, sentence, "context_length_exceeded")


class GenerationFailed(Exception):
    """The engine gave this request up."""


class TextEngine:
    """Prompts in, text out. Many requests at once, each by its own call.

    sampling_defaults: fields of `SamplingParams` for requests that are silent about them.
    """

    def __init__(
        self,
        engine: EngineClient,
        tokenizer: Tokenizer,
        eos_token_ids: Sequence[int],
        default_seed: int,
        sampling_defaults: Mapping[str, Any] = NEUTRAL,
    ) -> None:
        self.engine = engine
        self.tokenizer = tokenizer
        # The tokenizer may name an end of turn that the other files do not, and the family one more.
        named = () if tokenizer.eos_token_id is None else (tokenizer.eos_token_id,)
        stops = (*eos_token_ids, *named, *tokenizer.family_stop_ids)
        self.eos_token_ids = tuple(dict.fromkeys(stops))
        self.sampling_defaults = sampling_defaults
        self._begins_blank = tokenizer.family is not None and tokenizer.family.begins_blank
        self._default_seed = default_seed
        self._grammars: Grammars | None = None  # made with the first grammar
        self._num_drawn = itertools.count()

    def close(self) -> None:
        """End the threads of grammars."""
        if self._grammars is not None:
            self._grammars.close()

    @property
    def grammars(self) -> Grammars:
        """Compiles structured outputs for this model; its engine must have started."""
        if self._grammars is None:
            self._grammars = Grammars(self.tokenizer, self.eos_token_ids, self.engine.limits.vocab_size)
        return self._grammars

    def room(self, num_prompt_tokens: int) -> int:
        """Tokens that fit behind such a prompt; raises `ContextLengthError` where there is none."""
        length = self.engine.limits.max_model_len
        if num_prompt_tokens >= length:
            raise ContextLengthError(
                f"This model's maximum context length is {length} tokens. However, your prompt has "
                f"{num_prompt_tokens} tokens and at least one must be left for the answer. Please shorten it."
            )
        return length - num_prompt_tokens

    def check(self, prompt_ids: Sequence[int], params: SamplingParams) -> int:
        """The number of tokens to generate at most; raises `ParameterError` for what the engine cannot do."""
        if not prompt_ids:
            raise ParameterError("prompt", "the prompt has no tokens: give at least one")
        vocab_size = self.engine.limits.vocab_size
        if min(prompt_ids) < 0 or max(prompt_ids) >= vocab_size:
            raise ParameterError("prompt", f"a token id of the prompt is not one of [0, {vocab_size - 1}]")
        check_ids(params, self._stop_token_ids(params), vocab_size)
        room = self.room(len(prompt_ids))
        if params.max_tokens is None:
            return room
        if params.max_tokens > room:
            length = self.engine.limits.max_model_len
            raise ContextLengthError(
                f"This model's maximum context length is {length} tokens. However, you requested "
                f"{len(prompt_ids) + params.max_tokens} tokens ({len(prompt_ids)} in the prompt; "
                f"{params.max_tokens} for the completion). Please reduce your prompt or max_tokens."
            )
        return params.max_tokens

    async def stream(
        self,
        prompt_ids: Sequence[int],
        params: SamplingParams,
        queue: QueueParams = QUEUE_AS_IT_COMES,
        is_answer: bool = False,
    ) -> AsyncGenerator[TextDelta, None]:
        """All `params.n` outputs as they come; the last delta of each has a finish reason, and one that a
        reader gives a finish reason is its output's last. Closing it cancels the request.

        is_answer: each is a whole answer of a chat, without the white space that begins those of some.
        Raises `ParameterError` for what cannot be done, `Refused` where the engine does not take it now,
        and `EngineLost` or `GenerationFailed` when the engine fails.
        """
        max_tokens, stop_token_ids = self.check(prompt_ids, params), self._stop_token_ids(params)
        constraint = None
        if params.structured_outputs is not None:
            constraint = (await self.grammars.compile(params.structured_outputs)).constraint(params.n)
        cuts_lead = is_answer and constraint is None and self._begins_blank
        readers = [self._reader(prompt_ids, params, cuts_lead) for _ in range(params.n)]
        seed = self._draw() if params.seed is None else params.seed & INT64_MAX
        sampling = sampling_of(params, seed, stop_token_ids, self.tokenizer)
        chunks = self.engine.generate(
            prompt_ids, sampling, max_tokens, stop_token_ids, queue, constraint, params.n
        )
        try:
            async with aclosing(chunks):
                async for chunk in chunks:
                    delta = self._delta(readers[chunk.output], chunk, params)
                    delta.output = chunk.output
                    delta.num_cached_tokens = chunk.num_cached_tokens
                    if chunk.logprobs:
                        delta.logprobs = chunk.logprobs[: len(delta.token_ids)]
                    delta.prompt_logprobs = chunk.prompt_logprobs
                    yield delta
                    chunk.is_enough = delta.finish_reason is not None
        except Refused as refusal:
            if refusal.code is RejectCode.TOO_LONG:
                raise ContextLengthError(refusal.sentence) from None
            raise

    async def generate(
        self, prompt_ids: Sequence[int], params: SamplingParams, is_answer: bool = False
    ) -> list[TextResult]:
        """The whole outputs; raises what `stream` raises."""
        outputs: list[list[TextDelta]] = [[] for _ in range(params.n)]
        async with aclosing(self.stream(prompt_ids, params, is_answer=is_answer)) as stream:
            async for delta in stream:
                outputs[delta.output].append(delta)
        return [TextResult.of(deltas) for deltas in outputs]

    def _reader(self, prompt_ids: Sequence[int], params: SamplingParams, cuts_lead: bool) -> TextReader:
        return TextReader(
            self.tokenizer.detokenizer(params.skip_special_tokens, after=prompt_ids),
            StopMatcher(params.stop_strings) if params.stop_strings else None,
            cuts_lead=cuts_lead,
            shows_stop=params.include_stop_str_in_output,
            min_tokens=params.min_tokens,
        )

    def _delta(self, reader: TextReader, chunk: Chunk, params: SamplingParams) -> TextDelta:
        match chunk.finish_reason:
            case None:
                return reader.read(chunk.token_ids)
            case FinishReason.STOP:
                return self._stopped(reader, chunk.token_ids, params)
            case FinishReason.ERROR:
                raise GenerationFailed("the engine failed while it worked on this request")
            case reason:
                delta = reader.read(chunk.token_ids, last=True)
                delta.finish_reason = delta.finish_reason or REASONS[reason]
                return delta

    def _stopped(self, reader: TextReader, token_ids: list[int], params: SamplingParams) -> TextDelta:
        """The last delta of an output that ended with a stop token, whose text is not shown."""
        shown = token_ids if params.include_stop_str_in_output else token_ids[:-1]
        delta = reader.read(shown, last=True)
        if delta.finish_reason is None:
            delta.token_ids = token_ids
            delta.finish_reason = "stop"
            ends_text = token_ids[-1] in self.eos_token_ids and not params.ignore_eos
            delta.stop_reason = None if ends_text else token_ids[-1]
        return delta

    def _stop_token_ids(self, params: SamplingParams) -> list[int]:
        own = () if params.ignore_eos else self.eos_token_ids
        stops = list(dict.fromkeys((*own, *(params.stop_token_ids or ()))))
        if len(stops) > MAX_STOP_IDS:
            most = MAX_STOP_IDS - len(own)
            raise ParameterError("stop_token_ids", f"stop_token_ids may hold at most {most} ids")
        return stops

    def _draw(self) -> int:
        """A seed that depends on the deployment's seed and the number of draws before."""
        drawn = blake2b(f"{self._default_seed}:{next(self._num_drawn)}".encode(), digest_size=8).digest()
        return int.from_bytes(drawn) & INT64_MAX
