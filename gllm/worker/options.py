"""What a worker is told of its deployment, by name.

Knows the configuration's meanings and defaults; nothing of models or devices.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gllm.config import DeploymentConfig


@dataclass(frozen=True, slots=True)
class WorkerOptions:
    """What a worker is told; meanings and defaults are the configuration's."""

    model_path: Path
    dtype: str = "auto"
    load_format: str = "auto"
    quantization: str = "none"
    rope_theta: float | None = None
    device: str = "auto"
    max_model_len: int | str | None = None  # None: what the checkpoint says; "auto": as much of it as fits
    page_size: int | None = None  # None: the platform's
    num_pages: int | None = None
    kv_cache_memory_bytes: int | None = None
    gpu_memory_utilization: float = 0.9
    max_num_seqs: int = 256
    max_num_batched_tokens: int = 8192
    num_threads: int | None = None
    cuda_graphs: bool = True

    @classmethod
    def of(cls, config: "DeploymentConfig") -> "WorkerOptions":
        return cls(
            model_path=Path(config.model.path),
            dtype=config.model.dtype,
            load_format=config.model.load_format,
            quantization=config.model.quantization,
            rope_theta=config.model.rope_theta,
            device=config.worker.device,
            max_model_len=config.model.max_len,
            page_size=config.worker.page_size,
            num_pages=config.worker.num_pages,
            kv_cache_memory_bytes=config.worker.kv_cache_memory_bytes,
            gpu_memory_utilization=config.worker.gpu_memory_utilization,
            max_num_seqs=config.scheduler.max_num_seqs,
            max_num_batched_tokens=config.scheduler.max_num_batched_tokens,
            num_threads=config.worker.num_threads,
            cuda_graphs=config.worker.cuda_graphs,
        )
