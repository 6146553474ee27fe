"""OpenVINO GenAI's continuous batching, on a model that optimum-cli exported.

--dtype is the precision of the arithmetic and of the KV cache, not of the weights in the export.
"""

import importlib
import os
from collections.abc import Sequence

from bench.peers.loop import arguments, serve
from bench.peers.workload import Request

PRECISIONS = {"float32": "f32", "bfloat16": "bf16"}


def main() -> None:
    given = arguments()
    os.environ["OPENVINO_TELEMETRY"] = "0"
    numpy = importlib.import_module("numpy")
    openvino = importlib.import_module("openvino")
    genai = importlib.import_module("openvino_genai")
    scheduler = genai.SchedulerConfig()
    scheduler.max_num_batched_tokens = 2048
    scheduler.max_num_seqs = 64
    scheduler.cache_size = 2
    scheduler.enable_prefix_caching = False
    scheduler.dynamic_split_fuse = True
    precision = PRECISIONS[given.dtype]
    properties = {
        "INFERENCE_NUM_THREADS": given.num_threads,
        "INFERENCE_PRECISION_HINT": precision,
        "KV_CACHE_PRECISION": precision,
    }
    pipeline = genai.ContinuousBatchingPipeline(given.model, scheduler, "CPU", properties)

    def run(requests: Sequence[Request]) -> list[list[int]]:
        prompts, configs = [], []
        for one in requests:
            prompts.append(openvino.Tensor(numpy.array([one.prompt], dtype=numpy.int64)))
            config = genai.GenerationConfig()
            config.max_new_tokens = config.min_new_tokens = one.num_output_tokens
            config.ignore_eos, config.do_sample = True, False
            configs.append(config)
        return [list(result.m_generation_ids[0]) for result in pipeline.generate(prompts, configs)]

    serve(given, genai.__version__.split("-")[0], run)


if __name__ == "__main__":
    main()
