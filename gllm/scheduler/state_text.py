"""The core's state and its plans in words and columns, for people.

Knows how things read, nothing of recordings; asks the core and never changes it.
"""

from collections.abc import Iterable

from gllm.protocol.messages import PassedOver, StepPlan
from gllm.scheduler.columns import columns, share
from gllm.scheduler.core import Scheduler
from gllm.scheduler.flight import Flight
from gllm.scheduler.sequence import Sequence

SHOWN_ROWS = 8  # of a plan
SHOWN_WAITING = 20

REASONS = {
    PassedOver.NO_SLOT: "no slot",
    PassedOver.NO_PAGES: "no pages",
    PassedOver.NO_TOKENS: "no tokens left in the step",
    PassedOver.NO_MASK: "no mask",
    PassedOver.BEHIND: "behind another",
}


def state_text(core: Scheduler, now: float, lack: PassedOver | None) -> str:
    """Who runs, who waits and why, which pages there are. `lack`: of the first in the queue, if known."""
    return "\n\n".join([_counters(core), _flights(core, now), _running(core, now), _waiting(core, now, lack)])


def plan_text(plan: StepPlan | None, indent: str = "  ") -> str:
    """Every field of a plan, one kind a line, nothing left out."""
    if plan is None:
        return f"{indent}none"
    counts = plan.counts or [1] * len(plan.slots)
    rows = [f"slot {slot} +{count}" for slot, count in zip(plan.slots, counts, strict=True)]
    pages = [
        f"page {page} to slot {slot}" for slot, page in zip(plan.page_slots, plan.new_pages, strict=True)
    ]
    lines = [f"step {plan.step}, epoch {plan.epoch}, {sum(counts)} tokens in {len(rows)} rows"]
    lines += [f"released slots: {_all(plan.released)}"]
    lines += [
        f"admitted: slot {admit.slot}, {len(admit.tokens)} tokens, {admit.num_prompt_tokens} of the prompt, "
        f"{admit.num_computed_tokens} computed, pages {_all(admit.pages)}, {admit.sampling}"
        for admit in plan.admits
    ]
    lines += [f"new pages: {_all(pages)}", f"rows: {_all(rows)}", f"masks: {_all(_masks(plan))}"]
    return "\n".join(indent + line for line in lines)


def _masks(plan: StepPlan) -> list[str]:
    """How many tokens each masked row may become."""
    size = len(plan.masks) // max(len(plan.masked_rows), 1)
    allowed = [
        int.from_bytes(plan.masks[number * size : (number + 1) * size]).bit_count()
        for number in range(len(plan.masked_rows))
    ]
    return [
        f"slot {plan.slots[row]} {count} tokens" for row, count in zip(plan.masked_rows, allowed, strict=True)
    ]


def differing(recorded: StepPlan | None, replayed: StepPlan | None) -> list[str]:
    """The fields in which two plans differ."""
    if recorded is None or replayed is None:
        return []
    both = zip(recorded.KINDS, recorded.to_wire(), replayed.to_wire(), strict=True)
    return [name for (name, _), one, other in both if one != other]


def _counters(core: Scheduler) -> str:
    stats = core.stats(0.0)
    pages, page_size = stats.num_pages, core.cache.page_size
    hits, asked = stats.num_prefix_hit_tokens, stats.num_prefix_query_tokens
    num_held = pages - stats.num_free_pages
    passed_over = zip(PassedOver, stats.passed_over, strict=True)
    rows = {
        "steps planned": stats.num_steps,
        "prompt tokens planned": stats.num_prompt_tokens,
        "tokens generated": stats.num_generated_tokens,
        "preemptions": stats.num_preemptions,
        "found in the prefix cache": f"{hits} of {asked} tokens ({share(hits, asked)})",
        "passed over": ", ".join(f"{count} {REASONS[reason]}" for reason, count in passed_over),
        "slots": f"{stats.num_slots - stats.num_free_slots} of {stats.num_slots} taken",
        f"pages of {page_size} tokens": f"{num_held} of {pages} held, {stats.num_cached_pages} cached, "
        f"{stats.num_free_pages - stats.num_cached_pages} free",
        "policy": core.policy,
        "limits": core.limits,
    }
    return "\n".join(f"{name:<26} {value}" for name, value in rows.items())


def _flights(core: Scheduler, now: float) -> str:
    lines = [f"plans in flight: {len(core.flights)}"]
    lines += [f"  {_flight(flight, now)}" for flight in core.flights]
    return "\n".join(lines)


def _flight(flight: Flight, now: float) -> str:
    rows = [
        f"slot {row.slot} +{count}{'' if samples else ' (chunk)'}" if row is not None else "struck"
        for row, count, samples in zip(flight.rows, flight.counts, flight.samples, strict=True)
    ]
    age_ms = 1000 * (now - flight.planned_at)
    return (
        f"step {flight.step}, planned {age_ms:.1f} ms ago: {sum(flight.counts)} tokens in {len(rows)} rows: "
        f"{_listed(rows)}"
    )


def _running(core: Scheduler, now: float) -> str:
    head = ["request", "slot", "prompt", "generated", "planned", "committed", "in flight", "pages"]
    head += ["preempted", "age s"]
    rows = [
        [
            _name(s),
            s.slot,
            s.num_prompt_tokens,
            len(s.tokens) - s.num_prompt_tokens,
            s.num_planned_tokens,
            s.num_committed_tokens,
            s.num_pending_tokens,
            len(s.pages),
            s.num_preemptions,
            f"{now - s.arrived_at:.3f}",
        ]
        for s in core.running
    ]
    title = f"running: {len(core.running)}"
    return f"{title}\n{columns([head, *rows])}" if rows else title


def _waiting(core: Scheduler, now: float, lack: PassedOver | None) -> str:
    waiting = list(core.waiting)
    if not waiting:
        return "waiting: 0"
    lines = [f"waiting: {len(waiting)} with {core.waiting.num_tokens} tokens"]
    lines.append(f"  {_name(waiting[0])} is first and does not get in: {_why(core, waiting[0], lack)}")
    head = ["request", "prompt", "generated", "no slot", "no pages", "no tokens", "no mask"]
    head += ["preempted", "age s"]
    rows = [
        [
            _name(s),
            s.num_prompt_tokens,
            len(s.tokens) - s.num_prompt_tokens,
            *s.passed_over[:-1],
            s.num_preemptions,
            f"{now - s.arrived_at:.3f}",
        ]
        for s in waiting[:SHOWN_WAITING]
    ]
    lines.append(columns([head, *rows]))
    if len(waiting) > SHOWN_WAITING:
        lines.append(f"  and {len(waiting) - SHOWN_WAITING} more")
    return "\n".join(lines)


def _why(core: Scheduler, first: Sequence, lack: PassedOver | None) -> str:
    """Why it waits, with the numbers that decide."""
    fit = core.cache.fit(first)
    num_free, num_reserved = core.cache.pool.num_free_pages, core.running.num_reserved_pages
    pages = (
        f"it takes {fit.num_taken_pages} of {num_free} pages that can be given ({len(fit.shared)} found in "
        f"the prefix cache), {num_reserved} are kept for what runs"
    )
    if first.awaits_mask:
        return "its frontend has not sent the mask of its next token yet; others may pass it"
    match lack:
        case PassedOver.NO_SLOT:
            return f"all {core.running.num_slots} slots are taken"
        case PassedOver.NO_PAGES if fit.num_taken_pages + num_reserved <= num_free:
            return "a running sequence had to leave in this step, so nobody enters"
        case PassedOver.NO_PAGES:
            return pages
        case PassedOver.NO_TOKENS:
            budget = core.limits.max_num_batched_tokens
            return f"the step's {budget} tokens, or what it may take of prompts, were used up"
        case _:
            return f"no step has been planned since; {pages}"


def _name(sequence: Sequence) -> str:
    """Frontend, request and output."""
    text = sequence.frontend.decode("ascii", "replace")
    frontend = text if text.isascii() and text.isprintable() else sequence.frontend.hex()
    return f"{frontend}/{sequence.request_id}.{sequence.output}"


def _all(items: Iterable[object]) -> str:
    return ", ".join(map(str, items)) or "none"


def _listed(items: list[str]) -> str:
    """The first ones, and how many more there are."""
    rest = f" and {len(items) - SHOWN_ROWS} more" if len(items) > SHOWN_ROWS else ""
    return _all(items[:SHOWN_ROWS]) + rest
