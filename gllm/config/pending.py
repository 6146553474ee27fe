"""Options that users of vLLM, SGLang and the first gLLM know and that this version does not have.

Such an option is refused by name, because silently ignoring it would be a lie; only a value that
asks for what the engine does anyway is accepted. To support an option, move its line to its section in
the schema. This module does not know how an option was written or where.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

ENABLE, DISABLE = (True, False), (False, True)


@dataclass(frozen=True)
class Pending:
    """One option that is not supported yet.

    holds: the values that this version fulfils anyway; None means "not set", as null in YAML.
    note: a sentence to log when the option is switched on, though it holds.
    """

    key: str
    flags: tuple[str, ...] = ()
    switches: Mapping[str, tuple[object, object]] = field(default_factory=dict)
    holds: tuple[object, ...] = (None,)
    note: str = ""

    def is_fulfilled(self, value: object) -> bool:
        """Whether the engine does anyway what the value asks for.

        Flags are text and YAML has types, so values are compared as text; but a key spelled "None"
        is a key, so None holds only for None itself.
        """
        if value is None:
            return None in self.holds
        return str(value).lower() in [str(held).lower() for held in self.holds if held is not None]


PENDING = (
    Pending("model.tokenizer", ("--tokenizer", "--tokenizer-path")),
    Pending("model.tokenizer_mode", ("--tokenizer-mode",), holds=("auto",)),
    Pending("model.skip_tokenizer_init", switches={"--skip-tokenizer-init": ENABLE}, holds=(False,)),
    Pending("model.hf_overrides", ("--hf-overrides",)),
    Pending(
        "model.trust_remote_code",
        switches={"--trust-remote-code": ENABLE},
        holds=(True, False),
        note="trust-remote-code does nothing: gLLM never runs code from a checkpoint",
    ),
    Pending("frontend.root_path", ("--root-path",), holds=(None, "")),
    Pending("frontend.reasoning_parser", ("--reasoning-parser",)),
    Pending("frontend.response_role", ("--response-role",), holds=("assistant",)),
    Pending("frontend.stream_interval", ("--stream-interval",), holds=(1,)),
    Pending("scheduler.chunked_prefill", switches={"--enable-chunked-prefill": ENABLE}, holds=(True,)),
    Pending("scheduler.free_page_ratio", ("--ratio-free-pages",)),
    Pending("scheduler.slo"),
    Pending("worker.kv_cache_dtype", ("--kv-cache-dtype",), holds=("auto",)),
    Pending("worker.tensor_parallel_size", ("--tensor-parallel-size", "--tp-size", "--tp"), holds=(1,)),
    Pending("worker.pipeline_parallel_size", ("--pipeline-parallel-size", "--pp-size", "--pp"), holds=(1,)),
    Pending("worker.data_parallel_size", ("--data-parallel-size", "--dp-size", "--dp"), holds=(1,)),
    Pending("worker.swap_space", ("--swap-space",), holds=(0,)),
    Pending("worker.cpu_offload_gb", ("--cpu-offload-gb",), holds=(0,)),
    Pending("worker.watchdog_timeout", ("--watchdog-timeout",)),
    Pending("ipc.transport", holds=("ipc",)),
    Pending("observability.metrics", switches={"--enable-metrics": ENABLE}, holds=(True,)),
    Pending("observability.log_stats", switches={"--disable-log-stats": DISABLE}, holds=(False,)),
    Pending("observability.otlp_traces_endpoint", ("--otlp-traces-endpoint",)),
)  # fmt: skip
