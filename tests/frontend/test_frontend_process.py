"""The real process, started as the launcher starts it: ready, serving, draining, stopping, failing."""

import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import zmq
from fake_scheduler import FakeScheduler
from safetensors.numpy import save_file

from gllm.config import DeploymentConfig
from gllm.config.schema import FrontendConfig, ModelConfig
from gllm.frontend.tokenizer import Tokenizer
from gllm.process import CONFIG_FILE, CONTROL, FRONTENDS
from gllm.protocol.channel import Server, endpoint
from gllm.protocol.messages import Drain, Drained, Failed, Hello, Message, Ready, Stop


@pytest.fixture(scope="module")
def checkpoint(model_dir: Path, tokenizer: Tokenizer) -> Path:
    """A model directory that nobody computes with."""
    config = {
        "architectures": ["LlamaForCausalLM"],
        "vocab_size": tokenizer.vocab_size,
        "max_position_embeddings": 256,
        "eos_token_id": tokenizer.special_id("<|im_end|>"),
    }
    (model_dir / "config.json").write_text(json.dumps(config))
    save_file({"model.norm.weight": np.ones(4, np.float32)}, model_dir / "model.safetensors")
    return model_dir


class Launcher:
    """The launcher's end of one frontend process."""

    def __init__(self, run_dir: Path, config: DeploymentConfig) -> None:
        self.run_dir = run_dir
        (run_dir / CONFIG_FILE).write_text(config.to_json())
        self.context: zmq.Context[Any] = zmq.Context()
        self.control = Server(self.context, endpoint(run_dir, CONTROL))
        lifeline, self.lifeline = os.pipe()
        command = [sys.executable, "-m", "gllm.frontend.main", str(run_dir), "--epoch", "1"]
        self.process = subprocess.Popen(
            [*command, "--lifeline", str(lifeline)], pass_fds=[lifeline], stderr=subprocess.PIPE, text=True
        )
        os.close(lifeline)
        self.peer, greeting = self.hear()
        assert isinstance(greeting, Hello)

    def hear(self) -> tuple[bytes, Message]:
        received = self.control.receive(60)
        assert received is not None, self.process.poll()
        return received

    def tell(self, message: Message) -> None:
        self.control.send(self.peer, message)

    def close(self) -> None:
        self.process.kill()
        self.process.communicate()
        os.close(self.lifeline)
        self.control.close()
        self.context.destroy(linger=0)


@pytest.fixture
def scheduler(tmp_path: Path, tokenizer: Tokenizer) -> Iterator[FakeScheduler]:
    scheduler = FakeScheduler(endpoint(tmp_path, FRONTENDS), tokenizer.vocab_size)
    yield scheduler
    scheduler.close()


def start(run_dir: Path, model: Path, port: int = 0) -> Launcher:
    return Launcher(
        run_dir,
        DeploymentConfig(
            model=ModelConfig(path=str(model), served_name="tiny"), frontend=FrontendConfig(port=port)
        ),
    )


def test_a_life_from_ready_over_draining_to_stop(
    tmp_path: Path, checkpoint: Path, tokenizer: Tokenizer, scheduler: FakeScheduler
) -> None:
    launcher = start(tmp_path, checkpoint)
    try:
        _, ready = launcher.hear()
        assert isinstance(ready, Ready), ready
        ids = [*tokenizer.encode("hello you"), tokenizer.special_id("<|im_end|>")]
        scheduler.script = lambda _submit: ids
        chat = {"model": "tiny", "messages": [{"role": "user", "content": "hello"}]}
        with httpx.Client(base_url=ready.detail, timeout=60) as http:
            answer = http.post("/v1/chat/completions", json=chat).json()
            assert answer["choices"][0]["message"]["content"] == "hello you"
            assert http.get("/health").status_code == 200
            assert "server" not in http.get("/version").headers
            scheduler.paused.set()
            answers: list[httpx.Response] = []
            waiting = threading.Thread(
                target=lambda: answers.append(http.post("/v1/chat/completions", json=chat))
            )
            waiting.start()
            while len(scheduler.submits) < 2:
                pass
            launcher.tell(Drain())
            while (refused := http.get("/health")).status_code == 200:
                pass
            assert refused.json()["error"]["code"] == "shutting_down"
            assert launcher.control.receive(0.1) is None
            scheduler.paused.clear()
            waiting.join(60)
            assert answers[0].status_code == 200
            _, drained = launcher.hear()
            assert isinstance(drained, Drained)
            launcher.tell(Stop())
            assert launcher.process.wait(60) == 0
    finally:
        launcher.close()


def test_stop_ends_open_streams_with_an_error_and_the_process_with_success(
    tmp_path: Path, checkpoint: Path, scheduler: FakeScheduler
) -> None:
    launcher = start(tmp_path, checkpoint)
    try:
        _, ready = launcher.hear()
        assert isinstance(ready, Ready), ready
        scheduler.script = lambda _submit: [5]
        body = {"model": "tiny", "prompt": "hello", "stream": True}
        with httpx.stream("POST", f"{ready.detail}/v1/completions", json=body) as stream:
            lines = stream.iter_lines()
            assert "finish_reason" in next(lines)
            launcher.tell(Stop())
            *_, error, done = (line for line in lines if line)
        assert "server_error" in error
        assert done == "data: [DONE]"
        assert launcher.process.wait(60) == 0
    finally:
        launcher.close()


def test_stop_is_heard_while_the_scheduler_is_still_loading(tmp_path: Path, checkpoint: Path) -> None:
    launcher = start(tmp_path, checkpoint)
    try:
        launcher.tell(Stop())
        assert launcher.process.wait(60) == 0
    finally:
        launcher.close()


def test_a_port_in_use_is_told_with_a_way_out(tmp_path: Path, checkpoint: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        launcher = start(tmp_path, checkpoint, port)
        try:
            _, failed = launcher.hear()
            assert isinstance(failed, Failed)
            assert f"port {port}" in failed.sentence
            assert "--port" in failed.sentence
            assert launcher.process.wait(60) == 1
        finally:
            launcher.close()


def test_a_missing_tokenizer_is_told_with_a_way_out(tmp_path: Path, checkpoint: Path) -> None:
    model = tmp_path / "model"
    model.mkdir()
    for name in ("config.json", "model.safetensors"):
        (model / name).write_bytes((checkpoint / name).read_bytes())
    launcher = start(tmp_path, model)
    try:
        _, failed = launcher.hear()
        assert isinstance(failed, Failed)
        assert "no tokenizer.json" in failed.sentence
        assert launcher.process.wait(60) == 1
    finally:
        launcher.close()


def test_the_process_ends_with_its_launcher(tmp_path: Path, checkpoint: Path) -> None:
    launcher = start(tmp_path, checkpoint)
    write_end, launcher.lifeline = launcher.lifeline, os.dup(0)
    try:
        os.close(write_end)
        assert launcher.process.wait(60) == 1
    finally:
        launcher.close()
