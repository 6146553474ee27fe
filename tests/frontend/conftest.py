"""A model directory, its tokenizer, and the HTTP server before a scheduler that plays a script."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from http_server import Deployment, serving
from tiny_tokenizers import CHATML, byte_level_backend

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


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory, tokenizer: Tokenizer) -> Iterator[Deployment]:
    with serving(tmp_path_factory.mktemp("s"), tokenizer) as running:
        yield running


@pytest.fixture
def own_server(tmp_path: Path, tokenizer: Tokenizer) -> Iterator[Deployment]:
    """A server for a test that leaves it unusable."""
    with serving(tmp_path, tokenizer) as running:
        yield running


@pytest.fixture
def server(shared: Deployment) -> Iterator[Deployment]:
    """The module's server; afterwards nothing may be open, and it must still answer."""
    shared.scheduler.reset()
    yield shared
    shared.scheduler.reset()
    shared.answers("fine")
    assert shared.complete().json()["choices"][0]["text"] == "fine"
    assert shared.engine.num_open == 0
