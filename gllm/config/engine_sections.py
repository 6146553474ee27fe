"""The options of the engine itself: the model, the scheduler and the worker.

This module does not know of HTTP, nor of what one request may ask for.
"""

from typing import Annotated, Literal

from pydantic import BeforeValidator

from gllm.config.kinds import MAX_INT64, integer, number, spelled, text
from gllm.config.option import Bytes, Count, Option, Section

PAGE_SIZES = {"cpu": 16, "cuda": 64}  # unless somebody says otherwise
_AUTO_LENGTH = BeforeValidator(lambda written: "auto" if written in (-1, "-1") else written)
_NULL_IS_NONE = BeforeValidator(lambda written: "none" if written is None else written)
_OVERLAP, _NO_OVERLAP = (2, 1), (1, 2)


class ModelConfig(Section):
    """model: the checkpoint and how it is read"""

    path: Annotated[
        str,
        text("demo/model"),
        Option("directory of the checkpoint", ("--model-path", "--model"), "DIR"),
    ]
    served_name: Annotated[
        Annotated[str, text("llama3-8b")] | None,
        Option(
            "name of the model in the API; without it the path as given", ("--served-model-name",), "NAME"
        ),
    ] = None
    max_len: Annotated[
        Annotated[int, integer(1, example="8192 or 32k")] | Literal["auto"] | None,
        _AUTO_LENGTH,
        Option(
            "longest sequence in tokens; auto or -1: the longest that fits into memory; "
            "without it what the checkpoint says",
            ("--max-model-len", "--context-length", "--model-max-length"),
        ),
    ] = None
    dtype: Annotated[
        Literal["auto", "float32", "bfloat16", "float16"],
        spelled(
            {"float": "float32", "fp32": "float32", "half": "float16", "fp16": "float16", "bf16": "bfloat16"}
        ),
        Option("type of weights and activations", ("--dtype",), "TYPE"),
    ] = "auto"
    quantization: Annotated[
        Literal["none", "int8"],
        spelled({}),
        _NULL_IS_NONE,
        Option(
            "int8: keep the layers' matrices in 8 bits, with one scale for each row, and compute in float32; "
            "on a CPU, and only with a C compiler",
            ("--quantization",),
            "TYPE",
        ),
    ] = "none"
    load_format: Annotated[
        Literal["auto", "safetensors", "dummy"],
        Option(
            "format of the weight files; dummy: random weights, for benchmarks", ("--load-format",), "FORMAT"
        ),
    ] = "auto"
    rope_theta: Annotated[
        Annotated[float, number(0, above=True)] | None,
        Option("base of the rotary embedding; without it the checkpoint's", ("--rope-theta",), "BASE"),
    ] = None
    seed: Annotated[
        int,
        integer(0, MAX_INT64),
        Option("base of the seeds of requests that give none", ("--seed", "--random-seed")),
    ] = 0
    chat_template: Annotated[
        Annotated[str, text("chatml.jinja")] | None,
        Option("file of a chat template; without it the checkpoint's", ("--chat-template",), "FILE"),
    ] = None
    generation_config: Annotated[
        Literal["auto", "vllm"],
        spelled({}),
        Option(
            "sampling of requests that are silent; auto: the checkpoint's generation_config.json, "
            "vllm: neutral",
            ("--generation-config",),
            "auto|vllm",
        ),
    ] = "auto"

    @property
    def name(self) -> str:
        """The id of the model in the API."""
        return self.served_name or self.path


class SchedulerConfig(Section):
    """scheduler: what runs in one step, and what waits"""

    max_num_seqs: Annotated[
        Count,
        Option(
            "most sequences that run at once",
            ("--max-num-seqs", "--max-running-requests", "--max-decode-seqs", "--maxd"),
        ),
    ] = 256
    max_num_batched_tokens: Annotated[
        Count,
        Option(
            "most tokens of one step, prompt chunks and decodes together",
            (
                "--max-num-batched-tokens",
                "--max-batch-tokens",
                "--chunked-prefill-size",
                "--max-prefill-tokens",
                "--maxp",
            ),
        ),
    ] = 8192
    micro_batches: Annotated[
        int,
        integer(1, 8),
        Option(
            "plans in flight; 1: no overlap of scheduling and execution",
            ("--num-micro-batches",),
            switches={
                "--pipe-schedule": _OVERLAP,
                "--async-scheduling": _OVERLAP,
                "--overlap-scheduling": _OVERLAP,
                "--disable-overlap-schedule": _NO_OVERLAP,
            },
        ),
    ] = 2
    max_num_queued_reqs: Annotated[
        Count,
        Option(
            "most waiting requests; one more is answered 503",
            ("--max-num-queued-reqs", "--max-queued-requests"),
        ),
    ] = 2048
    max_num_queued_tokens: Annotated[
        Count, Option("most prompt tokens that wait; more are answered 503", ("--max-num-queued-tokens",))
    ] = 4_000_000
    prefix_cache: Annotated[
        bool,
        Option(
            "keep the pages of ended requests and share them with prompts that begin alike",
            (),
            switches={"--enable-prefix-caching": (True, False), "--disable-radix-cache": (False, True)},
        ),
    ] = True
    policy: Annotated[
        Literal["fcfs", "priority", "token_throttling"],
        spelled({"chunked_prefill": "fcfs"}),
        Option(
            "who goes first, and how much of each kind of work a step takes",
            ("--scheduling-policy", "--schedule-policy", "--schedule-method"),
        ),
    ] = "fcfs"
    throttling_min_tokens: Annotated[
        Count, Option("token_throttling: fewest prompt tokens of a step", ("--minp",))
    ] = 32
    throttling_max_tokens: Annotated[
        Count, Option("token_throttling: most prompt tokens of a step", ("--throttling-max-tokens",))
    ] = 2048
    throttling_iterations: Annotated[
        Count, Option("token_throttling: steps over which waiting prompts are spread", ("--iterp",))
    ] = 8
    throttling_free_threshold: Annotated[
        float,
        number(0, 0.99),
        Option(
            "token_throttling: free share of the KV cache at which prompts are held back", ("--kvthresh",)
        ),
    ] = 0.05


class WorkerConfig(Section):
    """worker: the device and its KV cache"""

    device: Annotated[
        Literal["auto", "cpu", "cuda"],
        spelled({}),
        Option("where the model runs; auto: on a GPU if there is one", ("--device",), "DEVICE"),
    ] = "auto"
    gpu_memory_utilization: Annotated[
        float,
        number(0, 1, above=True),
        Option(
            "share of the device's memory for weights, activations and KV cache",
            ("--gpu-memory-utilization", "--gpu-memory-util", "--mem-fraction-static"),
            "SHARE",
        ),
    ] = 0.9
    kv_cache_memory_bytes: Annotated[
        Bytes | None,
        Option(
            "size of the KV cache in bytes, such as 2GiB; replaces the share",
            ("--kv-cache-memory-bytes",),
            "BYTES",
        ),
    ] = None
    num_pages: Annotated[
        Count | None,
        Option(
            "size of the KV cache in pages; replaces the share",
            ("--num-gpu-blocks-override",),
            flag_in_tokens="--max-total-tokens",
        ),
    ] = None
    page_size: Annotated[
        Annotated[int, integer(1, 1024)] | None,
        Option("tokens of one page; without it 16 on a CPU and 64 on a GPU", ("--page-size", "--block-size")),
    ] = None
    cuda_graphs: Annotated[
        bool,
        Option(
            "replay the launches of decode steps on a GPU",
            (),
            switches={
                "--cuda-graphs": (True, False),
                "--enforce-eager": (False, True),
                "--disable-cuda-graph": (False, True),
            },
        ),
    ] = True
    num_threads: Annotated[
        Annotated[int, integer(1, 4096)] | None,
        Option("threads that compute on the CPU; without it torch's choice", ("--num-threads",)),
    ] = None

    @property
    def assumed_page_size(self) -> int:
        """The page size where no device can be asked."""
        return self.page_size or PAGE_SIZES["cuda" if self.device == "cuda" else "cpu"]
