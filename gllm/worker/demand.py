"""What a model that was looked through takes of memory, and the plan that follows for its deployment.

Estimates from shapes; knows the sizes of what the operators need, and allocates none of it. How memory is
shared out is `memory.py`'s.
"""

from gllm.checkpoint import CheckpointError
from gllm.kernels.dispatch import operators
from gllm.protocol.messages import MAX_PAGES, MAX_SEQUENCES
from gllm.worker.look_through import Model
from gllm.worker.memory import Demand, MemoryPlan, MemoryPlanError, Wish, plan_memory
from gllm.worker.models import longest_context
from gllm.worker.options import WorkerOptions
from gllm.worker.programs import MOST_ROWS

QUERY_BLOCK_BYTES = 256 * 4  # a context token's share of the attention mask of one block of queries
SAMPLING_BYTES = 1 << 26  # probabilities and their sums, for a block of rows
BEHIND_BYTES = 1 << 29  # on a device behind the host: what its libraries, graphs and splits of keys take


def plan_for(options: WorkerOptions, model: Model) -> MemoryPlan:
    """The memory plan of this deployment; raises `CheckpointError` or `MemoryPlanError`."""
    if options.max_num_seqs > MAX_SEQUENCES:
        raise MemoryPlanError(f"max_num_seqs is {options.max_num_seqs}, but at most {MAX_SEQUENCES} can run")
    asked, longest = options.max_model_len, longest_context(model.checkpoint, model.facts)
    if isinstance(asked, int) and asked > longest:
        made_for = model.checkpoint.max_model_len
        why = (
            f"the checkpoint was made for {made_for} tokens"
            if longest == made_for
            else f"the model's sliding window of {longest} tokens is not supported beyond that length"
        )
        raise CheckpointError(f"max_model_len is {asked}, but {why}: set it to {longest} or less")
    wish = Wish(
        max_model_len=asked if isinstance(asked, int) else longest,
        shrink_to_fit=asked == "auto",
        max_num_seqs=options.max_num_seqs,
        gpu_memory_utilization=options.gpu_memory_utilization,
        kv_cache_memory_bytes=options.kv_cache_memory_bytes,
        num_pages=options.num_pages,
        kv_cap_bytes=model.platform.kv_cap_bytes,
    )
    plan = plan_memory(_demand(options, model), wish, model.platform.free_bytes())
    if plan.num_pages > MAX_PAGES:
        raise MemoryPlanError(
            f"the KV cache would have {plan.num_pages} pages, but at most {MAX_PAGES} can be numbered: set "
            f"page_size to {-(-plan.num_pages // MAX_PAGES) * plan.demand.page_size} or more"
        )
    return plan


def _demand(options: WorkerOptions, model: Model) -> Demand:
    """What the model takes; the activations are an estimate from above of what is alive at once."""
    facts, size, platform = model.facts, model.dtype.itemsize, model.platform
    page_size = options.page_size or platform.page_size
    q_size, kv_size = facts.num_heads * facts.head_dim, facts.num_kv_heads * facts.head_dim
    alive_in_attention = 3 * (q_size + 2 * kv_size) + q_size
    alive_in_mlp = facts.mlp_elements()
    ops = operators(platform.backend, model.dtype)
    formats = ops.FORMATS
    activations, packed = formats.activations or model.dtype, formats.packed_itemsize
    per_token = (
        activations.itemsize * (4 * facts.hidden_size + max(alive_in_attention, alive_in_mlp))
        + 8 * facts.head_dim
    )
    per_token += packed * max(facts.hidden_size, q_size, facts.intermediate_size)
    rows = min(options.max_num_seqs, options.max_num_batched_tokens)
    has_graphs = platform.behind is not None and options.cuda_graphs
    recorded_rows = min(rows, MOST_ROWS) if ops.recorder is not None else 0
    table_bytes = 4 * (options.max_num_seqs + recorded_rows) // page_size + 1
    # Of logits that graphs or programs leave.
    kept_rows = max(rows, platform.fewest_tokens) if has_graphs else recorded_rows
    logits_bytes = _logits_bytes(rows, options.max_num_seqs, facts.vocab_size, activations.itemsize)
    return Demand(
        weight_bytes=model.weight_bytes(),
        token_bytes=per_token,
        max_num_batched_tokens=options.max_num_batched_tokens,
        logits_bytes=logits_bytes + 4 * kept_rows * facts.vocab_size,
        context_bytes=2 * kv_size * (packed or size) + QUERY_BLOCK_BYTES + table_bytes,
        page_bytes=page_size * facts.kv_elements_per_token() * size,
        page_size=page_size,
        reserved_bytes=recorded_rows * per_token if platform.behind is None else BEHIND_BYTES,
    )


def _logits_bytes(rows: int, num_slots: int, vocab_size: int, size: int) -> int:
    """Logits as computed and in float32; a second time where log-probabilities of all rows are asked for;
    and the counts of penalties, if every sequence has some."""
    return rows * vocab_size * (4 + size + 4) + num_slots * vocab_size * 4 + SAMPLING_BYTES
