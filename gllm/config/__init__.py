"""The configuration of one deployment, checked once, with sentences.

Flag before file before default; an unknown or ill-typed key is an error that names the nearest one.
The package imports nothing of ours and no torch: every process reads its configuration from here.
"""

from gllm.config.errors import ConfigError
from gllm.config.flags import FlagParser, add_flags
from gllm.config.listing import show
from gllm.config.loading import from_options, load
from gllm.config.schema import (
    DeploymentConfig,
    FrontendConfig,
    IpcConfig,
    LimitsConfig,
    ModelConfig,
    ObservabilityConfig,
    SchedulerConfig,
    WorkerConfig,
)

__all__ = [
    "ConfigError",
    "DeploymentConfig",
    "FlagParser",
    "FrontendConfig",
    "IpcConfig",
    "LimitsConfig",
    "ModelConfig",
    "ObservabilityConfig",
    "SchedulerConfig",
    "WorkerConfig",
    "add_flags",
    "from_options",
    "load",
    "show",
]
