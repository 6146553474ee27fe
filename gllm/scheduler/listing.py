"""Who runs and who waits, and why: the scheduler's accounts as a list for people. Changes nothing."""

from gllm.protocol.messages import ListRequests, RequestList, RequestState
from gllm.scheduler.core import Scheduler
from gllm.scheduler.sequence import NO_SLOT, Sequence


def listed(core: Scheduler, asked: ListRequests, now: float) -> RequestList:
    """The answer to `asked`; `now` by the clock of the core's other calls."""
    found: list[RequestState] = []
    for num_ahead, sequence in [*((0, s) for s in core.running), *enumerate(core.waiting)]:
        if len(found) == asked.most:
            break
        if not asked.name or sequence.name == asked.name:
            found.append(_state(sequence, num_ahead, now))
    return RequestList(asked.question, len(core.running), len(core.waiting), found)


def _state(sequence: Sequence, num_ahead: int, now: float) -> RequestState:
    num_known = len(sequence.tokens)
    began, first = sequence.began_at, sequence.first_token_at
    return RequestState(
        name=sequence.name,
        output=sequence.output,
        is_running=sequence.slot != NO_SLOT,
        num_prompt_tokens=sequence.num_prompt_tokens,
        num_computed_tokens=sequence.num_committed_tokens,
        num_generated_tokens=num_known - sequence.num_prompt_tokens,
        max_tokens=sequence.max_len - sequence.num_prompt_tokens,
        num_cached_tokens=sequence.num_cached_tokens,
        num_preemptions=sequence.num_preemptions,
        num_pages=len(sequence.pages),
        num_ahead=num_ahead,
        priority=sequence.priority,
        age_s=max(now - sequence.arrived_at, 0.0),
        queue_s=max((now if began is None else began) - sequence.arrived_at, 0.0),
        prefill_s=0.0 if began is None else max((now if first is None else first) - began, 0.0),
        passed_over=list(sequence.passed_over),
    )
