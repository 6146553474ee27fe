"""Part 7: whatever a request may ask, on the GPU and on the CPU: the same tokens of a small model.

The model is written as a checkpoint and read by both workers, in float16, whose products round differently:
where two tokens are nearly as likely, or the drawn number lies near the border of two, a sequence may part.
Hence few tokens are drawn from, and some sequences may part (on an H100 6 of 22 did within 24 tokens);
graphs and single launches must agree in all.
"""

import json
import tempfile
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from bench.device.engine import Engine
from bench.device.llama import LLAMA3_8B, platform_for, prompt
from bench.device.machine import Machine
from gllm.checkpoint import open_checkpoint
from gllm.protocol.logits import Logprobs, Shaping
from gllm.protocol.messages import Sampling
from gllm.protocol.wire import column, floats
from gllm.worker.models import family_of, read_architecture
from gllm.worker.options import WorkerOptions
from gllm.worker.platform import Cpu, Platform
from gllm.worker.start import make_runner

SIZES: dict[str, Any] = {
    "hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 3, "num_attention_heads": 8,
    "num_key_value_heads": 4, "vocab_size": 1000, "max_position_embeddings": 512, "eos_token_id": 2,
}  # fmt: skip
TINY_SIZES = SIZES | {"hidden_size": 64, "num_attention_heads": 2, "num_key_value_heads": 2, "vocab_size": 96}
SPREAD = 0.15  # of the weights
MOST_PARTED = 0.5
MOST_DIFFERENCE = 0.1  # of a log-probability


def shaping(**changes: Any) -> Shaping:
    neutral: dict[str, Any] = {
        "min_p": 0.0, "repetition_penalty": 1.0, "frequency_penalty": 0.0, "presence_penalty": 0.0,
        "bias_token_ids": column(), "biases": floats(), "allowed_token_ids": column(), "bad_words": [],
        "min_tokens": 0, "banned_ends": column(),
    }  # fmt: skip
    return Shaping(**(neutral | changes))


def samplings() -> dict[str, Sampling]:
    """One of each, and all at once."""
    words = [column([7]), column([11, 12]), column(range(20, 40))]
    shapings = {
        "repetition": shaping(repetition_penalty=1.3),
        "frequency and presence": shaping(frequency_penalty=0.7, presence_penalty=0.4),
        "bias": shaping(bias_token_ids=column([5, 9]), biases=floats([4.0, -100.0])),
        "allowed": shaping(allowed_token_ids=column(range(3, 60))),
        "bad words": shaping(bad_words=words),
        "min_tokens": shaping(min_tokens=6, banned_ends=column([2])),
        "min_p": shaping(min_p=0.2),
        "all": shaping(
            min_p=0.05, repetition_penalty=1.2, presence_penalty=0.3, bias_token_ids=column([5]),
            biases=floats([1.5]), bad_words=words, min_tokens=3, banned_ends=column([2]),
        ),
    }  # fmt: skip
    found = {
        "greedy": Sampling(0.0, 0, 1.0, 0),
        "temperature": Sampling(0.1, 0, 1.0, 11),
        "top_k": Sampling(0.9, 3, 1.0, 12),
        "top_p": Sampling(0.2, 0, 0.9, 13),
        "logprobs": Sampling(0.0, 0, 1.0, 0, num_logprobs=4),
        "prompt_logprobs": Sampling(0.7, 3, 1.0, 14, num_logprobs=1, num_prompt_logprobs=3),
    }
    for name, shaped in shapings.items():
        found[f"{name}, greedy"] = Sampling(0.0, 0, 1.0, 0, shaping=shaped)
        found[f"{name}, drawn"] = Sampling(0.9, 3, 0.95, 15, num_logprobs=2, shaping=shaped)
    return found


def write_checkpoint(path: Path, sizes: dict[str, Any]) -> None:
    """Random weights of these sizes."""
    (path / "config.json").write_text(json.dumps(LLAMA3_8B | sizes | {"torch_dtype": "float16"}))
    save_file({}, path / "model.safetensors")
    checkpoint = open_checkpoint(path, weights=False)
    facts = read_architecture(checkpoint)
    names, ranges, shapes = (
        family_of(checkpoint.architecture).names,
        facts.row_ranges(),
        facts.parameter_shapes(),
    )
    draw = torch.Generator().manual_seed(3)
    tensors = {}
    modules = {name: (module, "") for name, module in names.outer.items()}
    for n in range(facts.num_layers):
        prefix = names.layer_prefix.format(n)
        modules |= {
            prefix + name: (f"layers.{n}.{module}", part) for name, (module, part) in names.layer.items()
        }
    for name, (module, part) in modules.items():
        shape = shapes.get(f"{module}.weight")
        if shape is not None:
            rows = ranges[part][1] - ranges[part][0] if part else shape[0]
            weight = torch.randn(rows, *shape[1:], generator=draw) * SPREAD
            tensors[f"{name}.weight"] = (weight + (1.0 if len(shape) == 1 else 0.0)).half()
    save_file(tensors, path / "model.safetensors")


def run(machine: Machine) -> None:
    wanted = samplings()
    if machine.is_dry:  # one of each kind: the interpreter takes seconds for a draw
        wanted = {name: wanted[name] for name in ("greedy", "prompt_logprobs", "all, greedy", "all, drawn")}
    count = 3 if machine.is_dry else 24
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory)
        write_checkpoint(path, TINY_SIZES if machine.is_dry else SIZES)
        runs = {
            name: answers(path, platform, wanted, count, cuda_graphs)
            for name, platform, cuda_graphs in (
                ("cpu", Cpu(), False),
                ("graphs", platform_for(machine), True),
                ("eager", platform_for(machine), False),
            )
        }
    compare(machine, "graphs", "cpu", wanted, runs, MOST_PARTED)
    compare(machine, "eager", "graphs", wanted, runs, 0.0)


def answers(
    path: Path, platform: Platform, wanted: dict[str, Sampling], count: int, cuda_graphs: bool
) -> Engine:
    """One run of all requests together, `count` tokens of each."""
    options = WorkerOptions(
        path, dtype="float16", max_num_seqs=32, max_num_batched_tokens=128, page_size=16,
        num_pages=200, cuda_graphs=cuda_graphs,
    )  # fmt: skip
    runner = make_runner(options, platform)
    engine = Engine(runner, min(runner.max_steps_under_way, 2))
    for number, sampling in enumerate(wanted.values()):
        engine.submit(prompt(number, 9, runner.slots.vocab_size), count, sampling)
    engine.run()
    return engine


def compare(
    machine: Machine, one: str, other: str, wanted: dict[str, Sampling], runs: dict[str, Engine], most: float
) -> None:
    some, others = runs[one], runs[other]
    parted = [label for n, label in enumerate(wanted) if some.tokens[n] != others.tokens[n]]
    entries, far = compared_logprobs(some.logprobs, others.logprobs)
    machine.emit(
        "requests", one=one, other=other, requests=len(wanted), equal=len(wanted) - len(parted),
        parted="; ".join(parted), logprobs=entries, most_difference=far,
        ok=len(parted) <= most * len(wanted) and far <= MOST_DIFFERENCE,
    )  # fmt: skip


def compared_logprobs(some: list[Logprobs], others: list[Logprobs]) -> tuple[int, float]:
    """How many there are, and the greatest difference of two about the same token of the same positions.

    Of the steps of two runs only those are compared that speak of the same tokens.
    """
    far, entries = 0.0, 0
    for one, other in zip(some, others, strict=False):
        if one.token_ids == other.token_ids and one.places == other.places:
            entries += len(one.values)
            far = max([far, *(abs(a - b) for a, b in zip(one.values, other.values, strict=True))])
    return entries, far
