"""How an offline engine ends: processes and directories must be gone, whoever dies first."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from gllm import LLM, SamplingParams
from gllm.launch import LaunchError

OPTIONS = {"max_num_seqs": 4, "kv_cache_memory_bytes": "64MiB", "num_threads": 1, "log_level": "warning"}
LONG = SamplingParams(temperature=0, max_tokens=None, ignore_eos=True)


def children_of(parent: int) -> list[int]:
    """The processes that `parent` started and that live."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, ppid = stat.read_text().rpartition(")")[2].split()[:2]
        except OSError:
            continue
        if int(ppid) == parent and state != "Z":
            found.append(int(stat.parent.name))
    return found


def wait_until_gone(pids: list[int], timeout_s: float) -> None:
    deadline = time.monotonic() + timeout_s
    while left := [pid for pid in pids if Path(f"/proc/{pid}").exists()]:
        assert time.monotonic() < deadline, f"still there: {left}"
        time.sleep(0.05)


def script(model: Path, directory: Path, body: str) -> "subprocess.Popen[str]":
    """A Python program that makes an `llm` and then does `body`; it prints what the test waits for."""
    options = {**OPTIONS, "ipc_dir": str(directory)}
    code = f"from gllm import LLM, SamplingParams\nllm = LLM({str(model)!r}, **{options!r})\n{body}"
    return subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def read_until(process: "subprocess.Popen[str]", word: str) -> None:
    assert process.stdout is not None
    for line in process.stdout:
        if line.strip() == word:
            return
    pytest.fail(f"the program ended without {word}: {process.communicate()[1]}")


def test_leaving_the_context_leaves_no_process_and_no_directory(model: Path, tmp_path: Path) -> None:
    before = set(children_of(os.getpid()))
    with LLM(model=model, ipc_dir=tmp_path, **OPTIONS) as llm:
        llm.generate("hello", SamplingParams(max_tokens=2), use_tqdm=False)
        assert len(set(children_of(os.getpid())) - before) == 2
        assert len(list(tmp_path.iterdir())) == 1
    assert set(children_of(os.getpid())) == before
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(LaunchError, match="is closed"):
        llm.generate("hello")
    llm.close()


def test_a_lost_worker_ends_the_call_with_a_sentence(model: Path, tmp_path: Path) -> None:
    with LLM(model=model, ipc_dir=tmp_path, **OPTIONS) as llm:
        stream = llm.stream_chat([{"role": "user", "content": "hello"}], LONG)
        next(stream)
        os.kill(llm._engine._deployment._children["worker"].pid, signal.SIGKILL)
        with pytest.raises(LaunchError, match=r"the worker process .* was ended by SIGKILL"):
            list(stream)
        with pytest.raises(LaunchError, match="the worker process"):
            llm.generate("hello")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"model": "/no/such/dir"}, "is not a directory"),
        ({"model": "demo/model", "max_num_seq": 3}, "did you mean max_num_seqs"),
        ({}, "no model is given"),
    ],
)
def test_a_mistake_is_named_at_once(options: dict[str, object], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        LLM(**options)  # type: ignore[arg-type]


def test_a_tokenizer_with_more_tokens_than_the_model_is_named_at_once(model: Path, tmp_path: Path) -> None:
    for file in model.iterdir():
        (tmp_path / file.name).symlink_to(file.resolve())
    (tmp_path / "tokenizer.json").unlink()
    tokenizer = json.loads((model / "tokenizer.json").read_text())
    tokenizer["added_tokens"].append(tokenizer["added_tokens"][-1] | {"id": 1024, "content": "<one_more>"})
    (tmp_path / "tokenizer.json").write_text(json.dumps(tokenizer))
    with pytest.raises(LaunchError, match=r"knows 1025 tokens, .* 1024 only \(none for '<one_more>'\)"):
        LLM(model=tmp_path)


def test_a_program_that_forgets_to_close_ends_well(model: Path, tmp_path: Path) -> None:
    process = script(model, tmp_path, "llm.generate('hello', SamplingParams(max_tokens=2), use_tqdm=False)")
    _, errors = process.communicate(timeout=120)
    # A machine without a C compiler hears so at every start.
    others = [line for line in errors.splitlines() if "there is no C compiler" not in line]
    assert (process.returncode, others) == (0, [])
    assert list(tmp_path.iterdir()) == []


def test_a_killed_program_leaves_nothing_behind(model: Path, tmp_path: Path) -> None:
    process = script(
        model, tmp_path, "print('up', flush=True)\nllm.generate(['x'] * 99, SamplingParams(max_tokens=400))"
    )
    read_until(process, "up")
    children = children_of(process.pid)
    assert len(children) == 2
    process.kill()
    process.communicate()
    wait_until_gone(children, timeout_s=60)
    assert list(tmp_path.iterdir()) == []


def test_ctrl_c_cancels_the_call_and_the_engine_goes_on(model: Path, tmp_path: Path) -> None:
    body = """
try:
    print("up", flush=True)
    llm.generate(["x"] * 99, SamplingParams(max_tokens=None, ignore_eos=True))
except KeyboardInterrupt:
    again = llm.generate("hello", SamplingParams(max_tokens=3, ignore_eos=True), use_tqdm=False)
    print(len(again[0].outputs[0].token_ids), llm._engine.text.engine.num_open)
"""
    process = script(model, tmp_path, body)
    read_until(process, "up")
    time.sleep(0.5)
    process.send_signal(signal.SIGINT)
    out, errors = process.communicate(timeout=120)
    assert (process.returncode, out.split()) == (0, ["3", "0"]), errors
    assert list(tmp_path.iterdir()) == []


def test_a_fork_is_told_to_make_its_own(llm: LLM) -> None:
    pid = os.fork()
    if not pid:
        status = 1
        try:
            llm.close()  # the processes are the parent's
            llm.generate("hello")
        except RuntimeError as error:
            status = 0 if "belongs to process" in str(error) else 2
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert llm.generate("hello", SamplingParams(max_tokens=2), use_tqdm=False)
