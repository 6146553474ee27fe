"""The whole state of the core as one value, and back: what every part of a recording begins with.

This is the one file that looks into the core's parts; it knows nothing of files. A test compares
the fields of `state` with those that the parts have.
"""

from collections import OrderedDict
from collections.abc import Iterable

from gllm.protocol.messages import WorkerReady
from gllm.protocol.wire import ProtocolError, column
from gllm.scheduler.core import Scheduler
from gllm.scheduler.flight import Flight
from gllm.scheduler.pages import PagePool
from gllm.scheduler.prefix import KEY_BYTES, PrefixKeys
from gllm.scheduler.sequence import NO_SLOT, Sequence
from gllm.scheduler.state import PLAIN_FIELDS, STRUCK, CoreState, DeadlineState, FlightState, SequenceState


def snapshot(core: Scheduler) -> CoreState:
    """The state of `core`, sharing nothing with it that changes."""
    sequences = [sequence for listed in core._requests.values() for sequence in listed]
    place = {id(sequence): number for number, sequence in enumerate(sequences)}
    pool = core.cache.pool
    named = sorted(pool._key_of)
    return CoreState(
        limits=core.limits,
        policy=core.policy,
        epoch=core.worker.epoch,
        max_model_len=core.worker.max_model_len,
        vocab_size=core.worker.vocab_size,
        page_size=core.cache.page_size,
        num_pages=pool.num_pages,
        length_bound=core.cache.length_bound,
        num_slots=core.running.num_slots,
        free_slots=column(core.running._free_slots),
        released=column(core.running.released),
        free_pages=column(pool._free),
        cached_pages=column(pool._cached),
        named_pages=column(named),
        page_keys=b"".join(pool._key_of[page] for page in named),
        sequences=[_sequence_state(sequence) for sequence in sequences],
        flights=[_flight_state(flight, place) for flight in core.flights],
        deadlines=[
            DeadlineState(at, frontend, request_id)
            for (frontend, request_id), at in sorted(core._deadlines._deadline_of.items())
        ],
        growth_share=core.running.growth.share,
        passed_over=list(core.waiting.passed_over),
        num_arrivals=core._num_arrivals,
        num_turns=core._planner.num_turns,
        num_steps=core.num_steps,
        num_preemptions=core.num_preemptions,
        num_prompt_tokens=core.num_prompt_tokens,
        num_generated_tokens=core.num_generated_tokens,
        num_prefix_query_tokens=core.num_prefix_query_tokens,
        num_prefix_hit_tokens=core.num_prefix_hit_tokens,
    )


def restore(state: CoreState) -> Scheduler:
    """A core that goes on as the one that `state` is of; `ProtocolError` if the state contradicts itself."""
    try:
        core = _core_of(state)
        core.check()
    except (AssertionError, LookupError, ValueError) as error:
        raise ProtocolError(f"the state contradicts itself ({type(error).__name__} {error})") from error
    return core


def _core_of(state: CoreState) -> Scheduler:
    worker = WorkerReady(
        epoch=state.epoch,
        num_pages=state.num_pages,
        page_size=state.page_size,
        num_slots=state.num_slots,
        max_num_batched_tokens=state.limits.max_num_batched_tokens,
        max_model_len=state.max_model_len,
        vocab_size=state.vocab_size,
        length_bound=state.length_bound,
    )
    core = Scheduler(state.limits, state.policy, worker)
    core.running._free_slots = list(state.free_slots)
    core.running.released = list(state.released)
    sequences = [_sequence_of(item) for item in state.sequences]
    for sequence in sequences:
        core._requests.setdefault((sequence.frontend, sequence.request_id), []).append(sequence)
        if sequence.slot == NO_SLOT:
            core.waiting.add(sequence)
        else:
            core.running._sequences.append(sequence)
            core.running.growth.num_allowed_tokens += sequence.max_len - len(sequence.tokens)
    core.running._sequences.sort(key=state.policy.order)
    _fill_pool(core.cache.pool, state, core.running)
    core.flights.extend(_flight_of(item, sequences) for item in state.flights)
    for deadline in state.deadlines:
        core._deadlines.add((deadline.frontend, deadline.request_id), deadline.at)
    core.running.growth.share = state.growth_share
    core.waiting.passed_over = list(state.passed_over)
    core._num_arrivals = state.num_arrivals
    core._planner.num_turns = state.num_turns
    core.num_steps = state.num_steps
    core.num_preemptions = state.num_preemptions
    core.num_prompt_tokens = state.num_prompt_tokens
    core.num_generated_tokens = state.num_generated_tokens
    core.num_prefix_query_tokens = state.num_prefix_query_tokens
    core.num_prefix_hit_tokens = state.num_prefix_hit_tokens
    return core


def _fill_pool(pool: PagePool, state: CoreState, running: Iterable[Sequence]) -> None:
    for sequence in running:
        for page in sequence.pages:
            pool._holders[page] += 1
    pool._free = list(state.free_pages)
    pool._cached = OrderedDict.fromkeys(state.cached_pages)
    for number, page in enumerate(state.named_pages):
        key = state.page_keys[number * KEY_BYTES : (number + 1) * KEY_BYTES]
        pool._key_of[page] = key
        pool._page_of[key] = page


def _sequence_state(sequence: Sequence) -> SequenceState:
    return SequenceState(
        **{name: getattr(sequence, name) for name in PLAIN_FIELDS},
        stop_token_ids=column(sorted(sequence.stop_token_ids)),
        prefix_root=sequence.prefix_keys._root,
        tokens=sequence.tokens[:],
        pages=column(sequence.pages),
        passed_over=list(sequence.passed_over),
    )


def _sequence_of(state: SequenceState) -> Sequence:
    return Sequence(
        **{name: getattr(state, name) for name in PLAIN_FIELDS},
        stop_token_ids=frozenset(state.stop_token_ids),
        prefix_keys=PrefixKeys(state.prefix_root),
        tokens=state.tokens[:],
        pages=list(state.pages),
        passed_over=list(state.passed_over),
    )


def _flight_state(flight: Flight, place: dict[int, int]) -> FlightState:
    rows = [STRUCK if row is None else place[id(row)] for row in flight.rows]
    return FlightState(flight.step, flight.planned_at, rows, list(flight.counts), list(flight.samples))


def _flight_of(state: FlightState, sequences: list[Sequence]) -> Flight:
    rows = [None if place == STRUCK else sequences[place] for place in state.rows]
    return Flight(state.step, state.planned_at, rows, list(state.counts), list(state.samples))
