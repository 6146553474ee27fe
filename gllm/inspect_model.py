"""`gllm inspect`: what a model directory holds, what serving it takes, and whether it runs on this machine.

Reads configuration and headers, never a weight, and starts no process. Decides nothing itself: it asks
the parts of frontend and worker that would decide.
"""

from gllm.checkpoint import Checkpoint, CheckpointError, open_checkpoint
from gllm.config import DeploymentConfig
from gllm.frontend.chat import ChatTemplate
from gllm.frontend.tokenizer import Tokenizer
from gllm.process import StartError
from gllm.worker.demand import plan_for
from gllm.worker.look_through import Model, look_through
from gllm.worker.memory import MemoryPlanError, readable
from gllm.worker.models import caveats, longest_context
from gllm.worker.options import WorkerOptions
from gllm.worker.platform import PlatformError

EXIT_RUNS, EXIT_DOES_NOT_RUN = 0, 1
WIDTH = 15


def inspect(config: DeploymentConfig) -> int:
    """Print all that is known of the model; returns the exit code. Raises `CheckpointError` if nothing is."""
    checkpoint = open_checkpoint(config.model.path, weights=False)
    options = WorkerOptions.of(config)
    print(checkpoint.path)
    tell("architecture", checkpoint.architecture)
    obstacles = []
    try:
        model = look_through(options)
        tell_model(model)
        obstacles += tell_memory(options, model)
    except (CheckpointError, PlatformError) as error:
        obstacles.append(str(error))
    tell("stop ids", ", ".join(map(str, checkpoint.eos_token_ids)) or "none")
    obstacles += tell_text(config, checkpoint)
    for obstacle in obstacles:
        tell("runs here", f"no: {obstacle}")
    if not obstacles:
        tell("runs here", "yes")
    return EXIT_DOES_NOT_RUN if obstacles else EXIT_RUNS


def tell(name: str, value: str) -> None:
    print(f"  {name:<{WIDTH}} {value}")


def tell_model(model: Model) -> None:
    checkpoint, facts = model.checkpoint, model.facts
    tell(
        "layers",
        f"{facts.num_layers} of {facts.hidden_size}; {facts.num_heads} query heads and {facts.num_kv_heads} "
        f"key heads of {facts.head_dim}",
    )
    if facts.experts is not None:
        tell("experts", f"{facts.experts.num_experts} a layer, {facts.experts.top_k} of them a token")
    stored = ", ".join(sorted({entry.dtype for entry in checkpoint.tensors.values()}))
    tell("parameters", f"{facts.num_parameters():,}" + (f", stored as {stored}" if stored else ""))
    kept = sorted(set(model.parameters()[1].values()), key=lambda dtype: dtype.itemsize)
    names = ", ".join(str(dtype).removeprefix("torch.") for dtype in kept)
    tell("weights", f"{readable(model.weight_bytes())} in {names}")
    tell("KV cache", f"{model.dtype.itemsize * facts.kv_elements_per_token() / 1024:g} KiB a token")
    tell("context", f"{longest_context(checkpoint, facts)} tokens")
    for caveat in caveats(checkpoint, facts):
        tell("beware", caveat)


def tell_memory(options: WorkerOptions, model: Model) -> list[str]:
    """Print the memory plan; returns why there is none."""
    try:
        plan = plan_for(options, model)
    except (CheckpointError, MemoryPlanError) as error:
        return [str(error)]
    tokens = plan.num_pages * plan.demand.page_size
    tell("memory", f"{readable(plan.free_bytes)} free: room for {tokens} tokens in the KV cache")
    return []


def tell_text(config: DeploymentConfig, checkpoint: Checkpoint) -> list[str]:
    """Print what there is for text; returns why there is none."""
    try:
        tokenizer = Tokenizer.load(checkpoint.path)
        template = ChatTemplate.find(tokenizer, config.model.chat_template)
    except StartError as error:
        return [str(error)]
    tell("tokenizer", f"{tokenizer.vocab_size} tokens")
    tell("chat template", "no" if template is None else "yes")
    try:
        tokenizer.check_fits(checkpoint.vocab_size)
    except StartError as error:
        return [str(error)]
    return []
