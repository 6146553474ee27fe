"""The memory plan: how many pages fit beside weights and activations, or a sentence that says what would.

Pure arithmetic over bytes and tokens. Knows no device, file or tensor.
"""

from dataclasses import dataclass

GIB = 1 << 30
CPU_KV_CAP = 4 * GIB  # unless asked for more: a CPU serves few sequences, and others want the memory


class MemoryPlanError(ValueError):
    """This deployment cannot fit; the message is one sentence with the value that would."""


@dataclass(frozen=True, slots=True)
class Demand:
    """What the model takes."""

    weight_bytes: int
    token_bytes: int  # activations of one token of a step
    max_num_batched_tokens: int  # tokens of the largest step
    logits_bytes: int  # of the largest step's logits and of drawing from them
    context_bytes: int  # a token of the longest context, in attention's workspace and the slot tables
    page_bytes: int  # keys and values of one page over all layers
    page_size: int  # tokens
    reserved_bytes: int = 0  # for what libraries and graphs take

    @property
    def step_bytes(self) -> int:
        """Activations of the largest step, without what grows with the context, and what is reserved."""
        return self.max_num_batched_tokens * self.token_bytes + self.logits_bytes + self.reserved_bytes


@dataclass(frozen=True, slots=True)
class Wish:
    """What the configuration asks for."""

    max_model_len: int
    shrink_to_fit: bool  # max_model_len may be reduced
    max_num_seqs: int
    gpu_memory_utilization: float
    kv_cache_memory_bytes: int | None
    num_pages: int | None
    kv_cap_bytes: int | None = None  # more must be asked for


@dataclass(frozen=True, slots=True)
class MemoryPlan:
    """What will be allocated."""

    demand: Demand
    free_bytes: int
    num_pages: int
    max_model_len: int

    def lines(self) -> list[str]:
        """The plan, readable."""
        demand, tokens = self.demand, self.num_pages * self.demand.page_size
        context = demand.context_bytes * self.max_model_len
        return [
            f"memory plan: {readable(self.free_bytes)} free",
            f"  weights      {readable(demand.weight_bytes)}",
            f"  activations  {readable(demand.step_bytes + context)}",
            f"  KV cache     {readable(self.num_pages * demand.page_bytes)}: {self.num_pages} pages of "
            f"{demand.page_size} tokens, {tokens} tokens, {tokens / self.max_model_len:.1f} sequences of "
            f"{self.max_model_len}",
        ]


def plan_memory(demand: Demand, wish: Wish, free_bytes: int) -> MemoryPlan:
    """The number of pages, and the longest sequence; raises `MemoryPlanError`.

    An explicit size of the cache is taken if it fits into free memory; else the cache gets what
    `gpu_memory_utilization` of free memory leaves, at most `kv_cap_bytes` (but one whole sequence), and
    no more than `max_num_seqs` longest sequences can fill.
    """
    explicit = _explicit_pages(demand, wish)
    share = 1.0 if explicit is not None else wish.gpu_memory_utilization
    usable = int(free_bytes * share)
    left = usable - demand.weight_bytes - demand.step_bytes
    if left < 0:
        fixed = demand.weight_bytes + demand.logits_bytes + demand.reserved_bytes
        fitting = (usable - fixed) // demand.token_bytes
        if fitting > 0:
            way = f"set max_num_batched_tokens to {fitting} or less"
        else:
            way = "free some memory, or set dtype to a shorter one"
        helps = demand.weight_bytes + demand.step_bytes <= free_bytes
        raise MemoryPlanError(
            f"model needs {readable(demand.weight_bytes)} of weights and {readable(demand.step_bytes)} for "
            f"one step of {demand.max_num_batched_tokens} tokens, but only {readable(usable)} are free: {way}"
            f"{_or_raise(wish, explicit) if helps else ''}"
        )
    if explicit is not None:
        return _explicit_plan(demand, wish, free_bytes, left, explicit)
    longest = _longest(demand, left)
    if longest < wish.max_model_len and not (wish.shrink_to_fit and longest > 0):
        way = f"set max_model_len to {longest} or less" if longest else "free some memory"
        raise MemoryPlanError(
            f"model needs {readable(demand.weight_bytes)} of weights, {readable(demand.step_bytes)} for one "
            f"step and {readable(_sequence_bytes(demand, wish.max_model_len))} for one sequence of "
            f"{wish.max_model_len} tokens, but only {readable(usable)} are free: {way}"
            f"{_or_raise(wish, explicit)}"
        )
    max_model_len = min(longest, wish.max_model_len)
    pages_each = -(-max_model_len // demand.page_size)
    left -= demand.context_bytes * max_model_len
    if wish.kv_cap_bytes is not None:
        left = min(left, max(wish.kv_cap_bytes, pages_each * demand.page_bytes))
    num_pages = left // demand.page_bytes
    return MemoryPlan(demand, free_bytes, min(num_pages, wish.max_num_seqs * pages_each), max_model_len)


def _explicit_pages(demand: Demand, wish: Wish) -> int | None:
    """The pages that the configuration asks for; `num_pages` overrides the bytes."""
    if wish.num_pages is not None:
        return wish.num_pages
    if wish.kv_cache_memory_bytes is not None:
        return wish.kv_cache_memory_bytes // demand.page_bytes
    return None


def _explicit_plan(demand: Demand, wish: Wish, free_bytes: int, left: int, num_pages: int) -> MemoryPlan:
    """The plan with exactly `num_pages`, of which one sequence must fit."""
    by_pages = wish.num_pages is not None
    given = f"num_pages is {num_pages}" if by_pages else (
        f"kv_cache_memory_bytes is {readable(wish.kv_cache_memory_bytes or 0)}, {num_pages} pages"
    )  # fmt: skip
    max_model_len = wish.max_model_len
    if wish.shrink_to_fit:
        max_model_len = min(max_model_len, num_pages * demand.page_size)
    pages_each = max(1, -(-max_model_len // demand.page_size))
    if num_pages < pages_each:
        least = f"num_pages to {pages_each}" if by_pages else (
            f"kv_cache_memory_bytes to {pages_each * demand.page_bytes}"
        )  # fmt: skip
        shorter = num_pages * demand.page_size
        raise MemoryPlanError(
            f"{given} of {demand.page_size} tokens, but one sequence of {wish.max_model_len} tokens needs "
            f"{pages_each}: set {least} or more"
            + (f", or max_model_len to {shorter} or less" if shorter else "")
        )
    most = max(0, left - demand.context_bytes * max_model_len) // demand.page_bytes
    if num_pages > most:
        fitting = (
            f"num_pages to {most}" if by_pages else f"kv_cache_memory_bytes to {most * demand.page_bytes}"
        )
        raise MemoryPlanError(
            f"{given}, {readable(num_pages * demand.page_bytes)} in all, but beside "
            f"{readable(demand.weight_bytes)} of weights and the activations only "
            f"{readable(most * demand.page_bytes)} are free: set {fitting} or less"
        )
    return MemoryPlan(demand, free_bytes, num_pages, max_model_len)


def _longest(demand: Demand, left: int) -> int:
    """The longest sequence whose pages and workspace fit into `left` bytes."""
    per_page = demand.page_bytes + demand.context_bytes * demand.page_size
    return left // per_page * demand.page_size


def _sequence_bytes(demand: Demand, num_tokens: int) -> int:
    return -(-num_tokens // demand.page_size) * demand.page_bytes + num_tokens * demand.context_bytes


def _or_raise(wish: Wish, explicit: int | None) -> str:
    """The other way out, where it is one."""
    if explicit is not None or wish.gpu_memory_utilization >= 1:
        return ""
    return f", or raise gpu_memory_utilization above {wish.gpu_memory_utilization:.2f}"


def readable(num_bytes: int) -> str:
    """A number of bytes for a sentence."""
    for unit, name in ((GIB, "GiB"), (1 << 20, "MiB")):
        if num_bytes >= unit // 10:
            return f"{num_bytes / unit:.1f} {name}"
    return f"{num_bytes / 1024:.1f} KiB"
