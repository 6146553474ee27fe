"""Frontend and scheduler, of the engine: what the operator asks and reads."""

from enum import IntEnum

from gllm.protocol.base import MAX_LABEL, MAX_LISTED, MAX_NAME, MAX_SERIES, Message, message
from gllm.protocol.wire import (
    INT32_MAX,
    INT64_MAX,
    Flag,
    Float,
    Int,
    Many,
    Nested,
    Record,
    Text,
    record,
    wire,
)


class PassedOver(IntEnum):
    """Why a waiting sequence did not get into a step."""

    NO_SLOT = 0  # max_num_seqs sequences run
    NO_PAGES = 1  # the KV cache has no room, or keeps it for the growth of what runs
    NO_TOKENS = 2  # the step's budget of tokens is used up
    NO_MASK = 3  # its frontend has not said yet what its grammar allows
    BEHIND = 4  # another one waits before it


@message(12)
class StatsRequest(Message):
    """Answered by one `Stats`."""


@record
class Series(Record):
    """One count, or one distribution, that only grows (`gllm.meters`). counts: of a distribution's
    buckets, none of a plain count. total: the count itself, or the sum of the distribution's values."""

    name: str = wire(Text(64))
    labels: list[str] = wire(Many(Text(MAX_LABEL), 8))
    counts: list[int] = wire(Many(Int(0, INT64_MAX), 64))
    total: float = wire(Float(0.0, 1e300))


@message(16)
class Stats(Message):
    """The scheduler's state now. `oldest_step_s` is the age of the oldest plan without a result.

    series: what was counted in all processes; empty where nobody counts, as in a replay.
    """

    num_running: int = wire(Int())
    num_waiting: int = wire(Int())
    num_waiting_tokens: int = wire(Int(0, INT64_MAX))
    num_pages: int = wire(Int())
    num_free_pages: int = wire(Int())  # those that hold cached prefixes included
    num_cached_pages: int = wire(Int())
    num_slots: int = wire(Int())
    num_free_slots: int = wire(Int())
    num_plans_in_flight: int = wire(Int())
    num_steps: int = wire(Int(0, INT64_MAX))
    num_preemptions: int = wire(Int(0, INT64_MAX))
    num_prompt_tokens: int = wire(Int(0, INT64_MAX))
    num_generated_tokens: int = wire(Int(0, INT64_MAX))
    num_prefix_query_tokens: int = wire(Int(0, INT64_MAX))  # tokens of admitted sequences ...
    num_prefix_hit_tokens: int = wire(Int(0, INT64_MAX))  # ... and those of them found in the cache
    passed_over: list[int] = wire(Many(Int(0, INT64_MAX), len(PassedOver)))  # sequence-steps, by `PassedOver`
    oldest_step_s: float = wire(Float(0.0, 1e12))
    series: list[Series] = wire(Many(Nested(Series), MAX_SERIES), default_factory=list)


@message(40)
class Report(Message):
    """All that this frontend has counted since it started; the next one replaces it."""

    series: list[Series] = wire(Many(Nested(Series), MAX_SERIES))


@message(41)
class ListRequests(Message):
    """Asks for one `RequestList` with the same `question`. name: only requests that are called so."""

    question: int = wire(Int())
    name: str = wire(Text(MAX_NAME))
    most: int = wire(Int(1, MAX_LISTED))


@record
class RequestState(Record):
    """One sequence, running or waiting. Times are seconds so far; `queue_s` ends with the first step."""

    name: str = wire(Text(MAX_NAME))
    output: int = wire(Int())
    is_running: bool = wire(Flag())
    num_prompt_tokens: int = wire(Int())
    num_computed_tokens: int = wire(Int())  # whose keys and values are in the cache for it
    num_generated_tokens: int = wire(Int())
    max_tokens: int = wire(Int())
    num_cached_tokens: int = wire(Int())
    num_preemptions: int = wire(Int())
    num_pages: int = wire(Int())
    num_ahead: int = wire(Int())  # of those that wait, the number before it
    priority: int = wire(Int(-INT32_MAX, INT32_MAX))
    age_s: float = wire(Float(0.0, 1e12))
    queue_s: float = wire(Float(0.0, 1e12))
    prefill_s: float = wire(Float(0.0, 1e12))
    passed_over: list[int] = wire(Many(Int(0, INT64_MAX), len(PassedOver)))  # steps, while first in line


@message(42)
class RequestList(Message):
    """The oldest running sequences, then those that wait in their order, up to the wanted number."""

    question: int = wire(Int())
    num_running: int = wire(Int())
    num_waiting: int = wire(Int())
    requests: list[RequestState] = wire(Many(Nested(RequestState), MAX_LISTED))


@message(43)
class ResetPrefixCache(Message):
    """Forget what every page contains. Answered by one `PrefixCacheReset` with the same `question`."""

    question: int = wire(Int())


@message(44)
class PrefixCacheReset(Message):
    """num_pages: how many could have been found before."""

    question: int = wire(Int())
    num_pages: int = wire(Int())
