"""`gllm chat` at a terminal, with an engine of its own and against a server."""

import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pexpect
import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
STATISTICS = (
    r"#input: (\d+) #output: (\d+) elapsed time: \d+\.\d\d s rate\(prefill/decode\): \d+\.\d/\d+\.\d toks/s"
)
OFFLINE, SERVER = "offline", "server"
FLAGS = ["--num-threads", "1", "--kv-cache-memory-bytes", "64MiB", "--log-level", "warning"]


@pytest.fixture(params=[OFFLINE, SERVER])
def chat(request: pytest.FixtureRequest, model: str) -> "Iterator[pexpect.spawn[str]]":
    arguments = [model, *FLAGS] if request.param == OFFLINE else ["--url", request.getfixturevalue("server")]
    command = ["-m", "gllm", "chat", *arguments, "--temperature", "0", "--system", "You are kind."]
    child = pexpect.spawn(
        sys.executable, command, encoding="utf-8", timeout=120, cwd=ROOT, dimensions=(24, 300)
    )
    child.expect_exact(">>> ")
    yield child
    child.close(force=True)


def ask(chat: "pexpect.spawn[str]", line: str) -> tuple[str, int]:
    """The answer to `line`, and how many tokens its prompt had."""
    chat.sendline(line)
    chat.expect(STATISTICS)
    num_input = int(chat.match[1])
    answer = re.sub(r"\x1b\[[^a-zA-Z]*[a-zA-Z]", "", chat.before).split("\r\n", 1)[1].strip()
    chat.expect_exact(">>> ")
    return answer, num_input


def test_a_chat_remembers_clears_stops_and_exits(chat: "pexpect.spawn[str]") -> None:
    first, num_input = ask(chat, "hello there")
    _, num_input_later = ask(chat, "hello there")
    assert num_input_later > num_input, "the history is part of the next prompt"
    chat.sendline(r"\clear")
    chat.expect_exact(">>> ")
    assert ask(chat, "hello there") == (first, num_input)
    chat.sendintr()
    chat.expect_exact(r"(\exit leaves)")
    chat.expect_exact(">>> ")
    chat.sendline(r"\exit")
    chat.expect(pexpect.EOF)
    chat.wait()
    assert chat.exitstatus == 0


def test_the_end_of_input_ends_the_chat(chat: "pexpect.spawn[str]") -> None:
    chat.sendeof()
    chat.expect(pexpect.EOF)
    chat.wait()
    assert chat.exitstatus == 0
