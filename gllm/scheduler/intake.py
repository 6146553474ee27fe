"""From a request on the wire to sequences, or to the reason why not."""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from gllm.protocol.messages import RejectCode, Sampling, Submit
from gllm.protocol.wire import INT64_MAX
from gllm.scheduler.cache import KvCache
from gllm.scheduler.sequence import Sequence, known_tokens
from gllm.scheduler.waiting import Waiting

if TYPE_CHECKING:
    from gllm.config import SchedulerConfig

# 2**64 over the golden ratio, odd: spreads the seeds of neighbouring outputs over all seeds.
SEED_STEP = 0x9E3779B97F4A7C15


@dataclass(frozen=True, slots=True)
class Limits:
    """What bounds a step and the queue."""

    max_num_seqs: int  # rows of a step, and sequences that run at once
    max_num_batched_tokens: int  # tokens of a step
    max_num_queued_reqs: int  # sequences that wait
    max_num_queued_tokens: int  # their tokens
    max_plans_in_flight: int  # kept by whoever calls `plan`; policies balance by it
    share_prefixes: bool

    @classmethod
    def of(cls, options: "SchedulerConfig") -> "Limits":
        """Those of a deployment."""
        return cls(
            max_num_seqs=options.max_num_seqs,
            max_num_batched_tokens=options.max_num_batched_tokens,
            max_num_queued_reqs=options.max_num_queued_reqs,
            max_num_queued_tokens=options.max_num_queued_tokens,
            max_plans_in_flight=options.micro_batches,
            share_prefixes=options.prefix_cache,
        )


def refusal(
    request: Submit, limits: Limits, max_model_len: int, cache: KvCache, waiting: Waiting
) -> tuple[RejectCode, str] | None:
    """Why `request` cannot be queued, in one sentence; None if it can."""
    num_tokens = len(request.prompt)
    if num_tokens >= max_model_len:
        return (
            RejectCode.TOO_LONG,
            f"the prompt has {num_tokens} tokens, but at most {max_model_len - 1} "
            "leave room for one more in the context",
        )
    max_len = min(num_tokens + request.max_tokens, max_model_len)
    num_pages = cache.pool.num_pages
    if cache.num_pages_for(max_len - 1) > num_pages:
        return (
            RejectCode.TOO_LONG,
            f"prompt and max_tokens make {max_len} tokens, but the KV cache holds "
            f"{num_pages * cache.page_size}: ask for at most {num_pages * cache.page_size + 1 - num_tokens} "
            "new tokens, or shorten the prompt",
        )
    if len(waiting) + request.n > limits.max_num_queued_reqs:
        return (
            RejectCode.OVERLOADED,
            f"{len(waiting)} sequences wait already, and at most {limits.max_num_queued_reqs} may: "
            "try again later",
        )
    if waiting and waiting.num_tokens + request.n * num_tokens > limits.max_num_queued_tokens:
        return (
            RejectCode.OVERLOADED,
            f"{waiting.num_tokens} prompt tokens wait already, and with this request's more than the "
            f"{limits.max_num_queued_tokens} that may: try again later",
        )
    if any(num_tokens + len(generated) >= max_len for generated in request.generated):
        return RejectCode.INVALID, "the request is handed in again, but has nothing left to generate"
    return None


def sequences_of(
    frontend: bytes, request: Submit, max_model_len: int, cache: KvCache, first_arrival: int, now: float
) -> list[Sequence]:
    """One sequence for each output of `request`, each with random numbers of its own."""
    prompt = request.prompt
    return [
        Sequence(
            frontend=frontend,
            request_id=request.request_id,
            output=output,
            arrival=first_arrival + output,
            num_prompt_tokens=len(prompt),
            max_len=min(len(prompt) + request.max_tokens, max_model_len),
            sampling=_sampling_of(request.sampling, output),
            stop_token_ids=frozenset(request.stop_token_ids),
            priority=request.priority,
            arrived_at=now,
            prefix_keys=cache.prefix_keys(request.cache_salt, len(prompt)),
            tokens=known_tokens(prompt, request.generated[output] if request.generated else ()),
            is_constrained=request.is_constrained,
            name=request.name,
        )
        for output in range(request.n)
    ]


def _sampling_of(sampling: Sampling, output: int) -> Sampling:
    """Each output has random numbers of its own; the first one brings the prompt's log-probabilities."""
    return replace(
        sampling,
        seed=(sampling.seed + output * SEED_STEP) & INT64_MAX,
        num_prompt_logprobs=0 if output else sampling.num_prompt_logprobs,
    )
