"""gLLM, a small serving engine for large language models: the names that users import.

Each name is imported from its home on first use, so that `import gllm` loads nothing heavy; torch
never enters the user's process. This module does not know what the names do.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gllm.frontend.params import SamplingParams
    from gllm.frontend.structured.wish import StructuredOutputs
    from gllm.llm import LLM
    from gllm.outputs import CompletionOutput, RequestOutput

__version__ = "0.1.0"

__all__ = ["LLM", "CompletionOutput", "RequestOutput", "SamplingParams", "StructuredOutputs", "__version__"]

_HOMES = {
    "LLM": "gllm.llm",
    "CompletionOutput": "gllm.outputs",
    "RequestOutput": "gllm.outputs",
    "SamplingParams": "gllm.frontend.params",
    "StructuredOutputs": "gllm.frontend.structured.wish",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'gllm' has no attribute {name!r}")
    value = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
