"""Trains the demo model from scratch and writes its checkpoint: `python -m demo.train`.

One process on the CPU or one GPU, bfloat16 matrix products over float32 weights. Every row of a batch is one
dialogue of many turns, so nothing ever attends into a stranger's dialogue. Short rows teach the skills first,
then rows of the full context teach the far positions. Same seed, same data; times depend on the machine.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer
from torch.nn.functional import cross_entropy
from transformers import LlamaConfig, LlamaForCausalLM

from demo.corpus import training_dialogues
from demo.tokenizer import (
    END_OF_TEXT_ID,
    IGNORED,
    TURN_END_ID,
    VOCAB_SIZE,
    encode_dialogues,
    train_tokenizer,
    write_tokenizer,
)

SEED = 2026
CONTEXT = 2048
MODEL_FOLDER = Path(__file__).parent / "model"

# The checkpoint's config.json, in the classic form that every Llama loader reads.
CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "vocab_size": VOCAB_SIZE,
    "hidden_size": 256,
    "intermediate_size": 640,
    "num_hidden_layers": 5,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 32,
    "max_position_embeddings": CONTEXT,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "hidden_act": "silu",
    "attention_bias": False,
    "mlp_bias": False,
    "tie_word_embeddings": True,
    "bos_token_id": END_OF_TEXT_ID,
    "eos_token_id": TURN_END_ID,
    "pad_token_id": END_OF_TEXT_ID,
    "torch_dtype": "bfloat16",
}
GENERATION_CONFIG = {
    "bos_token_id": END_OF_TEXT_ID,
    "eos_token_id": [TURN_END_ID, END_OF_TEXT_ID],
    "pad_token_id": END_OF_TEXT_ID,
    "do_sample": False,
}


@dataclass(frozen=True)
class Phase:
    """So many steps whose batches take turns through the shapes (num_rows, length)."""

    num_steps: int
    shapes: tuple[tuple[int, int], ...]


PHASES = (
    Phase(3500, ((64, 128),)),
    Phase(900, ((64, 128), (16, 512))),
    Phase(600, ((64, 128), (4, 2048), (16, 512))),
)
PEAK_LEARNING_RATE = 2e-3
NUM_WARMUP_STEPS = 100


def learning_rate(step: int, num_steps: int) -> float:
    """Linear warm-up, then half a cosine down to a hundredth of the peak."""
    if step < NUM_WARMUP_STEPS:
        return PEAK_LEARNING_RATE * (step + 1) / NUM_WARMUP_STEPS
    progress = (step - NUM_WARMUP_STEPS) / max(1, num_steps - NUM_WARMUP_STEPS)
    return PEAK_LEARNING_RATE * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * progress)))


def write_checkpoint(model: LlamaForCausalLM, tokenizer: Tokenizer, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    write_tokenizer(tokenizer, folder, max_length=CONTEXT)
    (folder / "config.json").write_text(json.dumps(CONFIG, indent=2) + "\n")
    (folder / "generation_config.json").write_text(json.dumps(GENERATION_CONFIG, indent=2) + "\n")
    # named_parameters lists the tied output matrix once, under the embedding's name: loaders expect that.
    tensors = {
        name: p.detach().to("cpu", torch.bfloat16).contiguous() for name, p in model.named_parameters()
    }
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def make_optimizer(model: LlamaForCausalLM) -> torch.optim.Optimizer:
    """AdamW; norms are not decayed."""
    matrices = [p for p in model.parameters() if p.dim() > 1]
    norms = [p for p in model.parameters() if p.dim() == 1]
    groups = [{"params": matrices, "weight_decay": 0.1}, {"params": norms, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=PEAK_LEARNING_RATE, betas=(0.9, 0.95), fused=True)


def train(folder: Path, phases: tuple[Phase, ...], *, device: str, save_every: int) -> None:
    torch.manual_seed(SEED)
    tokenizer = train_tokenizer(SEED)
    model = LlamaForCausalLM(LlamaConfig.from_dict(CONFIG))
    model.to(device)  # type: ignore[arg-type]  # transformers wraps `to` in an untyped decorator
    print(
        f"{sum(p.numel() for p in model.parameters()):,} parameters, {tokenizer.get_vocab_size()} tokens",
        flush=True,
    )
    optimizer = make_optimizer(model)
    shapes = [phase.shapes[i % len(phase.shapes)] for phase in phases for i in range(phase.num_steps)]
    # About two characters a token: dialogues of 3 characters per position nearly always fill their row.
    streams = {
        length: training_dialogues(SEED + length, num_chars=3 * length) for _, length in sorted(set(shapes))
    }
    began, num_tokens, running_loss = time.perf_counter(), 0, 0.0
    for step, (num_rows, length) in enumerate(shapes):
        dialogues = [next(streams[length]) for _ in range(num_rows)]
        ids, labels = (
            torch.from_numpy(array).to(device)
            for array in encode_dialogues(tokenizer, dialogues, length=length)
        )
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, len(shapes))
        with torch.autocast(device, dtype=torch.bfloat16):
            logits = model(input_ids=ids, use_cache=False).logits
        wanted = labels[:, 1:].reshape(-1)
        loss = cross_entropy(logits[:, :-1].reshape(-1, VOCAB_SIZE).float(), wanted, ignore_index=IGNORED)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        num_tokens += ids.numel()
        running_loss = loss.item() if step == 0 else 0.98 * running_loss + 0.02 * loss.item()
        if step % 50 == 49:
            seconds = time.perf_counter() - began
            speed = f"{num_tokens / seconds:.0f} tokens/s {seconds:.0f} s"
            print(f"step {step + 1}/{len(shapes)} loss {running_loss:.4f} {speed}", flush=True)
        if save_every and step % save_every == save_every - 1:
            write_checkpoint(model, tokenizer, folder)
    write_checkpoint(model, tokenizer, folder)
    print(f"{num_tokens:,} tokens in {time.perf_counter() - began:.0f} s, written to {folder}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=MODEL_FOLDER, help="folder of the checkpoint")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--threads", type=int, default=2, help="threads of torch")
    parser.add_argument("--scale", type=float, default=1.0, help="multiplies the number of steps, for trials")
    parser.add_argument("--save-every", type=int, default=500, help="steps between checkpoints, 0 for none")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    phases = tuple(Phase(round(phase.num_steps * arguments.scale), phase.shapes) for phase in PHASES)
    train(arguments.output, phases, device=arguments.device, save_every=arguments.save_every)


if __name__ == "__main__":
    main()
