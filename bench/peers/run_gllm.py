"""gLLM's own offline engine, as a user of the library starts it."""

from collections.abc import Sequence

from bench.peers.loop import arguments, serve
from bench.peers.workload import Request


def main() -> None:
    given = arguments()
    import gllm
    from gllm import LLM, SamplingParams

    with LLM(
        model=given.model, num_threads=given.num_threads, kv_cache_memory_bytes="2GiB", max_num_seqs=64,
        max_num_batched_tokens=2048, max_model_len=2048, enable_prefix_caching=False, dtype=given.dtype,
    ) as llm:  # fmt: skip

        def run(requests: Sequence[Request]) -> list[list[int]]:
            params = [
                SamplingParams(temperature=0, max_tokens=one.num_output_tokens, ignore_eos=True)
                for one in requests
            ]
            results = llm.generate([one.prompt for one in requests], params, use_tqdm=False)
            return [list(result.outputs[0].token_ids) for result in results]

        serve(given, gllm.__version__, run)


if __name__ == "__main__":
    main()
