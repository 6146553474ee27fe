"""The CUDA worker end to end without a GPU: the same process, kernels interpreted, streams of a stand-in.

The test stands in the places of launcher and scheduler, whose core is the real one.
"""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import tiny_checkpoint
import zmq

from gllm.config import DeploymentConfig
from gllm.process import CONFIG_FILE, CONTROL, PLANS, RESULTS
from gllm.protocol.channel import Channel, Server, endpoint
from gllm.protocol.messages import Hello, Sampling, StepResult, Stop, Submit, WorkerReady
from gllm.protocol.wire import column
from gllm.scheduler.core import Scheduler
from gllm.scheduler.intake import Limits
from gllm.scheduler.policy import Fcfs

HERE = Path(__file__).parent
TIMEOUT_S = 60
MODEL = {
    "vocab_size": 67, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2,
}  # fmt: skip
PROMPTS = [[5, 6, 7], [11] * 20, [1, 2, 3, 4, 5, 6, 7, 8, 9], [40]]
SEEDED = Sampling(temperature=0.9, top_k=12, top_p=0.95, seed=77)
GREEDY = Sampling(temperature=0.0, top_k=0, top_p=1.0, seed=0)
NUM_TOKENS = 6


def generated(tmp_path: Path, model: Path, device: str, *, depth: int, **worker: object) -> list[list[int]]:
    """The tokens of each prompt, the last one's drawn at random, by a worker process on `device`."""
    run_dir = tmp_path / f"{device}{depth}{len(worker)}"
    run_dir.mkdir()
    config = DeploymentConfig.model_validate(
        {
            "model": {"path": str(model), "dtype": "float16", "max_len": 96},
            "scheduler": {"max_num_seqs": 4, "max_num_batched_tokens": 24, "micro_batches": depth},
            "worker": {"device": device, "page_size": 16, "num_pages": 40, "num_threads": 1, **worker},
        }
    )
    (run_dir / CONFIG_FILE).write_text(config.to_json())
    context = zmq.Context()
    control = Server(context, endpoint(run_dir, CONTROL))
    plans = Channel.bind(context, zmq.PUSH, endpoint(run_dir, PLANS))
    results = Channel.bind(context, zmq.PULL, endpoint(run_dir, RESULTS))
    lifeline, ours = os.pipe()
    entry = [str(HERE / "interpreted_worker.py")] if device == "cuda" else ["-m", "gllm.worker.main"]
    command = [sys.executable, *entry, str(run_dir), "--epoch", "1", "--lifeline", str(lifeline)]
    environment = os.environ | {"TRITON_INTERPRET": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    process = subprocess.Popen(command, pass_fds=[lifeline], env=environment)
    os.close(lifeline)
    try:
        assert isinstance(results.receive(TIMEOUT_S), Hello)
        ready = results.receive(TIMEOUT_S)
        assert isinstance(ready, WorkerReady)
        tokens = driven(ready, plans, results, depth)
        peer, _ = control.receive(TIMEOUT_S)
        control.send(peer, Stop())
        assert process.wait(TIMEOUT_S) == 0
        return tokens
    finally:
        os.close(ours)
        process.wait(TIMEOUT_S)
        context.destroy(linger=0)


def driven(ready: WorkerReady, plans: Channel, results: Channel, depth: int) -> list[list[int]]:
    """All prompts through the scheduler's core; the last is asked for when the first has its second token."""
    core = Scheduler(Limits(4, 24, 100, 10_000, depth, share_prefixes=False), Fcfs(), ready)
    tokens: list[list[int]] = [[] for _ in PROMPTS]

    def submit(number: int) -> None:
        sampling = SEEDED if number == len(PROMPTS) - 1 else GREEDY
        request = Submit(
            request_id=number, prompt=column(PROMPTS[number]), generated=[], sampling=sampling,
            max_tokens=NUM_TOKENS, stop_token_ids=column(), n=1, priority=0, timeout_s=0.0, cache_salt="",
        )  # fmt: skip
        assert core.submit(b"", request, 0.0) is None

    for number in range(len(PROMPTS) - 1):
        submit(number)
    num_asked, in_flight = len(PROMPTS) - 1, 0
    while True:
        while in_flight < depth and (plan := core.plan(time.monotonic())) is not None:
            plans.send(plan)
            in_flight += 1
        if not in_flight:
            return tokens
        result = results.receive(TIMEOUT_S)
        assert isinstance(result, StepResult)
        in_flight -= 1
        for answer in core.commit(result, time.monotonic()).values():
            for number, token in zip(answer.request_ids, answer.tokens, strict=True):
                tokens[number].append(token)
        if len(tokens[0]) >= 2 and num_asked < len(PROMPTS):
            submit(num_asked)
            num_asked += 1


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    config = tiny_checkpoint.CONFIG | MODEL
    path = tmp_path_factory.mktemp("model")
    return tiny_checkpoint.write(path, MODEL, tiny_checkpoint.tensors(config))


@pytest.fixture(scope="module")
def on_cpu(tmp_path_factory: pytest.TempPathFactory, model: Path) -> list[list[int]]:
    tokens = generated(tmp_path_factory.mktemp("cpu"), model, "cpu", depth=2)
    assert [len(row) for row in tokens] == [NUM_TOKENS] * len(PROMPTS)
    return tokens


@pytest.mark.parametrize(("depth", "cuda_graphs"), [(2, True), (1, False)])
def test_the_cuda_worker_makes_the_tokens_of_the_cpu_worker(
    tmp_path: Path, model: Path, on_cpu: list[list[int]], depth: int, cuda_graphs: bool
) -> None:
    assert generated(tmp_path, model, "cuda", depth=depth, cuda_graphs=cuda_graphs) == on_cpu
