"""The worker process as on a GPU, on a machine without one: CUDA kernels in Triton's interpreter, a device
that lags behind. Started as `gllm.worker.main` is, with TRITON_INTERPRET=1."""

import torch
from late_device import LateDevice

from gllm.worker import platform
from gllm.worker.main import main


class Interpreted:
    device = torch.device("cpu")
    backend = "cuda"
    page_size = 64
    kv_cap_bytes = 1 << 24
    dtypes = (torch.float16,)  # the interpreter multiplies bfloat16 as integers
    takes_stored_dtype = False
    fewest_tokens = 3

    def __init__(self) -> None:
        self.behind = LateDevice(seed=1)

    def free_bytes(self) -> int:
        return 2 << 30


if __name__ == "__main__":
    platform.PLATFORMS["cuda"] = Interpreted
    main()
