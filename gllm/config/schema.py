"""The schema of one deployment: every option there is, its type, default, flags and help.

One field is one option, and each option does something in the engine. The sections of the engine and
of the frontend have their own files; here are those that all processes share, and the whole. What is
not supported yet stands in `pending.py`; to support it, move its line from there to its section. This
module does not know about files, the command line or precedence.
"""

from collections.abc import Mapping
from functools import cache
from typing import Annotated, Any, Literal

from pydantic import ValidationError

from gllm.config.engine_sections import PAGE_SIZES, ModelConfig, SchedulerConfig, WorkerConfig
from gllm.config.errors import ConfigError
from gllm.config.frontend_sections import FrontendConfig, LimitsConfig
from gllm.config.kinds import spelled, text
from gllm.config.option import Bytes, Count, Option, Section

__all__ = [
    "PAGE_SIZES",
    "SECRETS",
    "SECTIONS",
    "DeploymentConfig",
    "FrontendConfig",
    "IpcConfig",
    "LimitsConfig",
    "ModelConfig",
    "ObservabilityConfig",
    "SchedulerConfig",
    "WorkerConfig",
    "options",
]


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
