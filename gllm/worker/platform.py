"""What differs between the kinds of device that a worker runs on.

A platform is chosen by name once, at the start, and asked from then on: no other code of the worker
compares names of devices. Knows nothing of models or steps.
"""

import logging
from collections.abc import Callable
from typing import Protocol

import torch

from gllm.worker.host import free_memory
from gllm.worker.memory import CPU_KV_CAP
from gllm.worker.stream import Device

log = logging.getLogger("gllm")

FIRST_CAPABILITY = (8, 0)  # of a GPU that the kernels are written for: Ampere
FLOATS = {"F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16}


class PlatformError(ValueError):
    """This device cannot be used; the message is one sentence."""


class Platform(Protocol):
    """One kind of device."""

    @property
    def device(self) -> torch.device:
        """Where tensors live."""

    @property
    def backend(self) -> str:
        """The operators, by their name in `kernels.dispatch`."""

    @property
    def page_size(self) -> int:
        """Tokens of a page, unless somebody says otherwise."""

    @property
    def kv_cap_bytes(self) -> int | None:
        """Size of the KV cache beyond which somebody must ask for it."""

    @property
    def dtypes(self) -> tuple[torch.dtype, ...]:
        """What the operators compute in, the first where a checkpoint is stored in none of them."""

    @property
    def takes_stored_dtype(self) -> bool:
        """Whether a model is computed in the dtype of its checkpoint unless somebody says otherwise."""

    @property
    def fewest_tokens(self) -> int:
        """Tokens to which a step of fewer is padded."""

    @property
    def behind(self) -> Device | None:
        """The device that runs behind the host; None: the host computes."""

    def free_bytes(self) -> int:
        """Memory of the device that can be taken."""


class Cpu:
    """The host itself."""

    device = torch.device("cpu")
    backend = "cpu"
    page_size = 16
    kv_cap_bytes = CPU_KV_CAP
    dtypes = (torch.float32, torch.bfloat16, torch.float16)
    takes_stored_dtype = False  # most have no fast arithmetic for the shorter types of checkpoints
    fewest_tokens = 1
    behind = None

    def free_bytes(self) -> int:
        return free_memory()


class Gpu:
    """The current GPU of this process."""

    backend = "cuda"
    page_size = 64  # whole blocks of keys lie in a page: the copy engine can fetch them
    kv_cap_bytes = None
    dtypes = (torch.bfloat16, torch.float16)
    takes_stored_dtype = True

    def __init__(self) -> None:
        """Raises `PlatformError` if there is none, or one that the kernels are not written for."""
        if not torch.cuda.is_available():
            raise PlatformError("device is cuda, but torch finds no GPU: set device to cpu")
        self.device = torch.device("cuda", torch.cuda.current_device())
        capability = torch.cuda.get_device_capability(self.device)
        if capability < FIRST_CAPABILITY:
            name, (major, minor) = torch.cuda.get_device_name(self.device), capability
            raise PlatformError(
                f"device is cuda, but {name} has compute capability {major}.{minor} and the kernels need 8.0 "
                f"or more: set device to cpu"
            )
        from gllm.kernels.tuning import has_own_products
        from gllm.worker.cuda import Cuda, sum_in_one_order

        sum_in_one_order()
        # With 32 rows and more, a library's products are as fast without sums that are split by length, whose
        # order would depend on the number of rows; with fewer they are up to seven times slower.
        self.fewest_tokens = 1 if has_own_products() else 32
        self.behind: Device | None = Cuda(self.device)

    def free_bytes(self) -> int:
        return int(torch.cuda.mem_get_info(self.device)[0])


PLATFORMS: dict[str, Callable[[], Platform]] = {"cpu": Cpu, "cuda": Gpu}


def platform_of(name: str) -> Platform:
    """The platform of that name; "auto" is a GPU if there is one that can be used."""
    if name != "auto":
        return PLATFORMS[name]()
    if torch.cuda.is_available():
        try:
            return PLATFORMS["cuda"]()
        except PlatformError as error:
            log.warning("computing on the CPU: %s", error)
    return PLATFORMS["cpu"]()
