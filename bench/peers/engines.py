"""Which engines there are to compare, and where `bench/peers/install.sh` puts them.

Knows names and places; nothing of how an engine is driven.
"""

import sys
from dataclasses import dataclass
from pathlib import Path

OURS = "gllm"


@dataclass(frozen=True, slots=True)
class Engine:
    """One column of the comparison. Paths are relative to the folder of the peers.

    dtype: of weights, and of the arithmetic where that is not named; those of one dtype are compared.
    """

    name: str
    dtype: str
    module: str
    python: str  # of its environment; empty: the one that runs us
    model: str
    program: str = ""
    arithmetic: str = ""

    @property
    def key(self) -> str:
        return f"{self.name}/{self.dtype}"

    def missing(self, peers: Path) -> str | None:
        """The first of its files that is not there."""
        needed = (self.python, self.model, self.program)
        return next((path for path in needed if path and not (peers / path).exists()), None)

    def command(self, peers: Path, num_threads: int) -> list[str]:
        python = str(peers / self.python) if self.python else sys.executable
        program = ["--program", str(peers / self.program)] if self.program else []
        return [
            python, "-m", f"bench.peers.{self.module}", "--model", str(peers / self.model),
            "--dtype", self.arithmetic or self.dtype, "--num-threads", str(num_threads), *program,
        ]  # fmt: skip


def _of(dtype: str) -> tuple[Engine, ...]:
    llama_server = "llama.cpp/bin/llama-server"
    model, gguf = f"models/{dtype}", f"models/{dtype}.gguf"
    return (
        Engine(OURS, dtype, "run_gllm", "", model),
        Engine("vllm", dtype, "run_vllm", "vllm/bin/python", model),
        # The export holds float32; the type of the arithmetic is chosen when it is loaded.
        Engine("openvino", dtype, "run_openvino", "openvino/bin/python", "models/openvino"),
        Engine("llama.cpp", dtype, "run_llamacpp", "transformers/bin/python", gguf, llama_server),
        Engine("transformers", dtype, "run_transformers", "transformers/bin/python", model),
    )


# Weights of 16 bits with the arithmetic of 32: what a CPU without products of 16 bits does best.
OURS_WIDENED = Engine("gllm f32 math", "bfloat16", "run_gllm", "", "models/bfloat16", arithmetic="float32")
ENGINES = (*_of("float32"), *_of("bfloat16"), OURS_WIDENED)
