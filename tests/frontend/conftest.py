"""A model directory, its tokenizer, and the HTTP server before a scheduler that plays a script."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from fake_scheduler import FakeScheduler
from http_server import Deployment
from tiny_tokenizers import CHATML, byte_level_backend

from gllm.config.schema import LimitsConfig
from gllm.frontend.tokenizer import Tokenizer


@pytest.fixture(scope="session")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tokenizer files of a checkpoint."""
    root = tmp_path_factory.mktemp("model")
    byte_level_backend().save(str(root / "tokenizer.json"))
    config = {"eos_token": "<|im_end|>", "bos_token": None, "chat_template": CHATML}
    (root / "tokenizer_config.json").write_text(json.dumps(config))
    return root


@pytest.fixture(scope="session")
def tokenizer(model_dir: Path) -> Tokenizer:
    return Tokenizer.load(model_dir)


def deployment(directory: Path, tokenizer: Tokenizer) -> Iterator[Deployment]:
    address = f"ipc://{directory}/f.sock"
    scheduler = FakeScheduler(address, tokenizer.vocab_size)
    limits = LimitsConfig(max_body_bytes=100_000, max_prompts=8, max_stop_strings=4, max_stop_len=20)
    running = Deployment(scheduler, address, tokenizer, limits)
    yield running
    running.close()
    scheduler.close()


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory, tokenizer: Tokenizer) -> Iterator[Deployment]:
    yield from deployment(tmp_path_factory.mktemp("s"), tokenizer)


@pytest.fixture
def own_server(tmp_path: Path, tokenizer: Tokenizer) -> Iterator[Deployment]:
    """A server for a test that leaves it unusable."""
    yield from deployment(tmp_path, tokenizer)


@pytest.fixture
def server(shared: Deployment) -> Iterator[Deployment]:
    """The module's server; afterwards nothing may be open, and it must still answer."""
    shared.scheduler.reset()
    yield shared
    shared.scheduler.reset()
    shared.answers("fine")
    assert shared.complete().json()["choices"][0]["text"] == "fine"
    assert shared.engine.num_open == 0
