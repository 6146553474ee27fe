"""The schema of one deployment: every option there is, its type, default, flags and help.

One field is one option, and each option does something in the engine. What is not supported yet
stands in `pending.py`; to support it, move its line from there to here. This module does not know
about files, the command line or precedence.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, ValidationError

from gllm.config.errors import ConfigError
from gllm.config.keys import Keys
from gllm.config.kinds import MAX_INT64, integer, number, spelled, text


@dataclass(frozen=True)
class Option:
    """How people name a field: its flag first, then the aliases; flat YAML keys are the same names.

    switches: flags without a value, and the values that they and their negation set.
    flag_in_tokens: a flag that gives the field, which counts pages, in tokens.
    """

    help: str
    flags: tuple[str, ...]
    metavar: str = "N"
    switches: Mapping[str, tuple[object, object]] = field(default_factory=dict)
    flag_in_tokens: str | None = None


class Section(BaseModel):
    model_config = ConfigDict(strict=True, frozen=True, extra="forbid")


Count = Annotated[int, integer(1, example="256 or 1k")]
Bytes = Annotated[int, integer(1, MAX_INT64, example="2GiB or 512MiB")]
PAGE_SIZES = {"cpu": 16, "cuda": 64}  # unless somebody says otherwise
_AUTO_LENGTH = BeforeValidator(lambda written: "auto" if written in (-1, "-1") else written)
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


class FrontendConfig(Section):
    """frontend: the HTTP server"""

    host: Annotated[str, text("127.0.0.1"), Option("address to listen on", ("--host",), "ADDRESS")] = (
        "127.0.0.1"
    )
    port: Annotated[int, integer(0, 65535), Option("port to listen on; 0: any free one", ("--port",))] = 8000
    tokenizer_workers: Annotated[
        int, integer(1, 64), Option("threads that tokenize prompts", ("--tokenizer-workers",))
    ] = 2
    tool_call_parser: Annotated[
        Literal["auto", "hermes", "llama3_json", "chatglm3", "glm4"],
        spelled({"qwen": "hermes", "qwen25": "hermes", "llama3": "llama3_json"}),
        Option(
            "how the model writes calls of tools; auto: as its family does", ("--tool-call-parser",), "FORM"
        ),
    ] = "auto"
    auto_tool_choice: Annotated[
        bool,
        Option(
            "let the model call the tools of a request by itself, which is tool_choice auto",
            (),
            switches={"--enable-auto-tool-choice": (True, False)},
        ),
    ] = True
    num_processes: Annotated[
        int,
        integer(1, 64),
        Option("processes that serve HTTP on the same port", ("--api-server-count", "--frontend-processes")),
    ] = 1
    api_keys: Annotated[
        Keys,
        Option(
            "keys that requests must carry, as KEY or name=KEY,name=KEY; with limits for each in a file; "
            "also GLLM_API_KEY",
            ("--api-key",),
            "KEYS",
        ),
    ] = ()
    admin_api_keys: Annotated[
        Keys,
        Option(
            "keys for the operator's routes, which are closed without one; also GLLM_ADMIN_API_KEY",
            ("--admin-api-key",),
            "KEYS",
        ),
    ] = ()
    allowed_origins: Annotated[
        Annotated[str, text("https://chat.example.com,https://other.example.com")] | None,
        Option(
            "origins of web pages that may call this server (CORS), with commas between them; "
            "* for all, without it none",
            ("--allowed-origins", "--cors-allow-origins"),
            "ORIGINS",
        ),
    ] = None
    log_requests: Annotated[
        bool,
        Option(
            "log a line for each request, without its prompt",
            (),
            switches={"--enable-log-requests": (True, False), "--disable-log-requests": (False, True)},
        ),
    ] = False
    log_level: Annotated[
        Literal["debug", "info", "warning", "error", "critical"],
        spelled({}),
        Option("least severe lines that are logged", ("--log-level", "--uvicorn-log-level"), "LEVEL"),
    ] = "info"


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


class IpcConfig(Section):
    """ipc: the sockets between the processes"""

    dir: Annotated[
        Annotated[str, text("/run/user/1000")] | None,
        Option(
            "parent of the private run directory; without it the system's for temporary files",
            ("--ipc-dir",),
            "DIR",
        ),
    ] = None


class LimitsConfig(Section):
    """limits: what one request may ask for, and how long a shutdown waits"""

    max_body_bytes: Annotated[Bytes, Option("longest body of a request", ("--max-body-bytes",), "BYTES")] = (
        16 * 2**20
    )
    max_prompts: Annotated[Count, Option("most prompts of one request", ("--max-prompts",))] = 1024
    max_n: Annotated[
        int, integer(1, 128), Option("most outputs of one prompt (n, best_of)", ("--max-n",))
    ] = 64
    max_logprobs: Annotated[
        int, integer(0, 1024), Option("most likeliest tokens with log-probabilities", ("--max-logprobs",))
    ] = 20
    max_stop_strings: Annotated[
        Count, Option("most stop strings of one request", ("--max-stop-strings",))
    ] = 16
    max_stop_len: Annotated[Count, Option("longest stop string in characters", ("--max-stop-len",))] = 1024
    requests_per_minute: Annotated[
        Count | None,
        Option("most requests a minute of one API key", ("--requests-per-minute",)),
    ] = None
    tokens_per_minute: Annotated[
        Count | None,
        Option("most tokens a minute of one API key, prompts and answers", ("--tokens-per-minute",)),
    ] = None
    max_concurrency: Annotated[
        Count | None,
        Option("most requests of one API key that are open at once", ("--max-concurrency-per-key",)),
    ] = None
    shutdown_timeout_s: Annotated[
        float,
        number(0),
        Option(
            "seconds that running requests get to finish after SIGTERM", ("--shutdown-timeout",), "SECONDS"
        ),
    ] = 30.0


class ObservabilityConfig(Section):
    """observability: what the processes write down"""

    metrics_compat: Annotated[
        Literal["none", "vllm"],
        spelled({"": "none"}),
        Option("vllm: /metrics repeats every metric under vLLM's names", ("--metrics-compat",), "none|vllm"),
    ] = "none"

    record_file: Annotated[
        Annotated[str, text("run.glr")] | None,
        Option(
            "record the scheduler's inputs and plans for gllm replay, token ids included, in this file",
            ("--record",),
            "FILE",
        ),
    ] = None
    record_max_bytes: Annotated[
        Bytes, Option("size at which a recording goes on in a new file", ("--record-max-bytes",), "BYTES")
    ] = 256 * 2**20
    record_max_files: Annotated[
        Count, Option("recording files that are kept, the oldest is removed", ("--record-max-files",))
    ] = 4
    trace_file: Annotated[
        Annotated[str, text("run.trace.json")] | None,
        Option(
            "write what the processes did when, at the end, as a timeline for Perfetto, in this file",
            ("--trace-file",),
            "FILE",
        ),
    ] = None


class DeploymentConfig(Section):
    """One deployment, checked. Every process reads it, nobody changes it.

    sources: for each dotted key where its value came from: "configs/demo.yaml:12", "--port",
    "argument port" or "default". Empty when the object was not made by `load`.
    """

    model: ModelConfig
    frontend: FrontendConfig = FrontendConfig()
    scheduler: SchedulerConfig = SchedulerConfig()
    worker: WorkerConfig = WorkerConfig()
    ipc: IpcConfig = IpcConfig()
    limits: LimitsConfig = LimitsConfig()
    observability: ObservabilityConfig = ObservabilityConfig()
    sources: Mapping[str, str] = {}

    def to_json(self) -> str:
        """The form in which a child process gets its configuration."""
        return self.model_dump_json()

    @classmethod
    def from_json(cls, written: str | bytes) -> "DeploymentConfig":
        """The inverse of to_json; ConfigError when it is anything else."""
        try:
            return cls.model_validate_json(written)
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            place = ".".join(map(str, first["loc"])) or "the text"
            raise ConfigError(
                f"this is not a configuration made by to_json: {place}: {first['msg']}"
            ) from None


SECTIONS: Mapping[str, type[Section]] = {
    name: info.annotation
    for name, info in DeploymentConfig.model_fields.items()
    if isinstance(info.annotation, type) and issubclass(info.annotation, Section)
}


SECRETS = {"frontend.api_keys", "frontend.admin_api_keys"}  # never repeated in a sentence


@cache
def options() -> Mapping[str, tuple[Option, Any]]:
    """Every dotted key with its option and its default (`...` where there is none)."""
    found: dict[str, tuple[Option, Any]] = {}
    for section, fields in SECTIONS.items():
        for name, info in fields.model_fields.items():
            option = next(item for item in info.metadata if isinstance(item, Option))
            found[f"{section}.{name}"] = option, ... if info.is_required() else info.default
    return found
