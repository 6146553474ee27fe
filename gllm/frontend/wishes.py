"""From what a caller asks of one generation to what the engine is told, for one model.

Knows token ids and the vocabulary's size; nothing of requests or of how text is shown.
"""

from collections.abc import Sequence

from gllm.frontend.params import ParameterError, SamplingParams
from gllm.frontend.tokenizer import Tokenizer
from gllm.protocol.logits import MAX_BAD_WORD_TOKENS, Shaping
from gllm.protocol.messages import Sampling
from gllm.protocol.wire import Column, column, floats


def sampling_of(
    params: SamplingParams, seed: int, stop_token_ids: Sequence[int], tokenizer: Tokenizer
) -> Sampling:
    """`params` on the wire; raises `ParameterError`."""
    return Sampling(
        temperature=0.0 if params.is_greedy else params.temperature,
        top_k=max(params.top_k, 0),
        top_p=params.top_p,
        seed=seed,
        num_logprobs=0 if params.logprobs is None else 1 + params.logprobs,
        num_prompt_logprobs=0 if params.prompt_logprobs is None else 1 + params.prompt_logprobs,
        shaping=_shaping(params, stop_token_ids, tokenizer),
    )


def check_ids(params: SamplingParams, stop_token_ids: Sequence[int], vocab_size: int) -> None:
    """Raise `ParameterError` for a token that the model has not, or where none would be left."""
    for name in ("logit_bias", "allowed_token_ids"):
        named = getattr(params, name)
        if named and max(named) >= vocab_size:
            raise ParameterError(
                name, f"{name} names token {max(named)}, but the last one is {vocab_size - 1}"
            )
    for name in ("logprobs", "prompt_logprobs"):
        if (getattr(params, name) or 0) > vocab_size:
            raise ParameterError(name, f"{name} asks for more than the {vocab_size} tokens that there are")
    if params.min_tokens and set(params.allowed_token_ids or (-1,)) <= set(stop_token_ids):
        raise ParameterError(
            "allowed_token_ids",
            "all of allowed_token_ids end the output, which min_tokens forbids: allow another one",
        )


def _shaping(params: SamplingParams, stop_token_ids: Sequence[int], tokenizer: Tokenizer) -> Shaping | None:
    """None where nothing is asked for: most requests."""
    bias = params.logit_bias or {}
    shaping = Shaping(
        min_p=params.min_p,
        repetition_penalty=params.repetition_penalty,
        frequency_penalty=params.frequency_penalty,
        presence_penalty=params.presence_penalty,
        bias_token_ids=column(bias.keys()),
        biases=floats(bias.values()),
        allowed_token_ids=column(sorted(set(params.allowed_token_ids or ()))),
        bad_words=_spelt(params, tokenizer),
        min_tokens=params.min_tokens,
        banned_ends=column(stop_token_ids if params.min_tokens else ()),
    )
    return None if shaping == NEUTRAL else shaping


NEUTRAL = Shaping(0.0, 1.0, 0.0, 0.0, column(), floats(), column(), [], 0, column())


def _spelt(params: SamplingParams, tokenizer: Tokenizer) -> "list[Column[int]]":
    """Each bad word as it begins a text and as it goes on behind a blank."""
    spelt: dict[tuple[int, ...], None] = {}
    for word in params.bad_words or ():
        for text in (word.strip(), f" {word.strip()}"):
            ids = tokenizer.encode_literally(text)
            if len(ids) > MAX_BAD_WORD_TOKENS:
                raise ParameterError(
                    "bad_words",
                    f"a bad word has {len(ids)} tokens, at most {MAX_BAD_WORD_TOKENS} are possible",
                )
            if ids:
                spelt[tuple(ids)] = None
    allowed = set(params.allowed_token_ids or ()) - {ids[0] for ids in spelt if len(ids) == 1}
    if params.allowed_token_ids and not allowed:
        raise ParameterError(
            "bad_words", "bad_words forbid every token of allowed_token_ids: allow another one"
        )
    return [column(ids) for ids in spelt]
