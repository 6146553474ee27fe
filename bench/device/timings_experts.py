"""Part 3, a mixture of experts: the layer of Qwen3-30B-A3B, against what its weights and products take.

Each is captured in a graph, which an operator that reads anything on the host would not survive.
"""

from functools import partial

import torch

from bench.device.machine import Machine
from gllm.kernels.experts import mix_experts, tiling_for

NUM_EXPERTS, TOP_K, HIDDEN, SIZE = 128, 8, 2048, 768
TINY = 5, 2, 48, 36


def time_experts(machine: Machine, num_tokens: int) -> None:
    """Experts are chosen evenly, so that of few tokens all the experts that can be are read."""
    num_experts, top_k, hidden, size = TINY if machine.is_dry else (NUM_EXPERTS, TOP_K, HIDDEN, SIZE)
    dtype = torch.float16 if machine.is_dry else torch.bfloat16
    device = machine.device
    x = torch.randn(num_tokens, hidden, device=device).to(dtype)
    gate_up = (torch.randn(num_experts, 2 * size, hidden, device=device) * hidden**-0.5).to(dtype)
    down = (torch.randn(num_experts, hidden, size, device=device) * size**-0.5).to(dtype)
    liking = torch.rand(num_tokens, num_experts, device=device)
    weights, chosen = liking.softmax(-1).topk(top_k)
    num_pairs = num_tokens * top_k
    parameters = 3 * size * hidden
    read = min(num_pairs, num_experts) * parameters * dtype.itemsize
    floor = max(read / machine.ceiling("copy"), 2 * num_pairs * parameters / machine.ceiling("matmul"))
    # One set of weights exceeds the cache but for a single token, whose experts rotate.
    picks = [(chosen + shift) % num_experts for shift in range(1 if num_tokens > 1 else num_experts // 8)]
    calls = [partial(mix_experts, x, gate_up, down, pick, weights) for pick in picks or [chosen]]
    seconds = machine.time(calls, floor)
    machine.emit(
        "timing", kernel="mix_experts", tokens=num_tokens, us=seconds * 1e6, of_ceiling=floor / seconds,
        block_m=tiling_for(num_pairs, num_experts).block_m,
    )  # fmt: skip
