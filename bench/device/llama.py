"""A model of Llama 3 8B's shape with random weights, and the least that its steps must move."""

import json
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from bench.device.machine import Machine
from bench.device.stand_in import Interpreted
from gllm.worker.options import WorkerOptions
from gllm.worker.platform import Gpu, Platform
from gllm.worker.runner import ModelRunner
from gllm.worker.start import make_runner
from gllm.worker.stream import Device

LLAMA3_8B: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "torch_dtype": "bfloat16",
    "vocab_size": 128256,
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "max_position_embeddings": 32768,  # the checkpoint says 8192; the shape is the same
    "rms_norm_eps": 1e-5,
    "rope_theta": 500000.0,
    "eos_token_id": 128001,
}
TINY: dict[str, Any] = LLAMA3_8B | {
    "vocab_size": 96,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 1,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "eos_token_id": 2,
}


@dataclass(frozen=True, slots=True)
class Floor:
    """What every decode step reads at least, in bytes."""

    weight_bytes: int  # all but the embedding, of which a token reads one row
    token_bytes: int  # keys and values of one token

    def seconds(self, machine: Machine, rows: int, context: float) -> float:
        return (self.weight_bytes + rows * context * self.token_bytes) / machine.ceiling("copy")


def platform_for(machine: Machine) -> Platform:
    return Interpreted() if machine.is_dry else Gpu()


def make(
    machine: Machine, device: Device | None = None, *, cuda_graphs: bool = True, max_num_seqs: int = 256
) -> ModelRunner:
    """The runner of the model; tiny in a dry run. device: what launches its steps."""
    platform = platform_for(machine)
    if device is not None:
        platform.behind = device  # type: ignore[misc]
    with tempfile.TemporaryDirectory() as directory:
        config = TINY if machine.is_dry else LLAMA3_8B
        (Path(directory) / "config.json").write_text(json.dumps(config))
        options = WorkerOptions(
            model_path=Path(directory),
            load_format="dummy",
            max_num_seqs=8 if machine.is_dry else max_num_seqs,
            max_num_batched_tokens=64 if machine.is_dry else 8192,
            cuda_graphs=cuda_graphs,
        )
        return make_runner(options, platform)


def floor_of(runner: ModelRunner) -> Floor:
    facts = runner.model.facts
    size = runner.pages[0][0].element_size()
    embedding = facts.vocab_size * facts.hidden_size
    weights = facts.num_parameters() - (0 if facts.tied else embedding)
    return Floor(size * weights, size * facts.kv_elements_per_token())


def prompt(number: int, length: int, vocab_size: int) -> list[int]:
    """Made-up tokens, different for every number."""
    draw = torch.Generator().manual_seed(number)
    return torch.randint(3, vocab_size, (length,), generator=draw).tolist()
