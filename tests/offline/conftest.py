"""One engine for all offline tests that do not end it."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from gllm import LLM

ROOT = Path(__file__).resolve().parent.parent.parent


@pytest.fixture(scope="session")
def model() -> Path:
    return Path(os.environ.get("GLLM_TEST_MODEL", ROOT / "demo" / "model"))


@pytest.fixture(scope="session")
def llm(model: Path) -> Iterator[LLM]:
    options = {"max_num_seqs": 8, "max_num_queued_reqs": 16, "num_threads": 1, "log_level": "warning"}
    with LLM(model=model, kv_cache_memory_bytes="64MiB", **options) as llm:
        yield llm
