"""The command line: what it prints, where, and with which exit code."""

import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

import gllm

ROOT = Path(__file__).resolve().parent.parent.parent


def run(*arguments: str) -> tuple[int, str, str]:
    done = subprocess.run(
        [sys.executable, "-m", "gllm", *arguments], capture_output=True, text=True, cwd=ROOT
    )
    return done.returncode, done.stdout, done.stderr


def test_the_version_is_the_package_s() -> None:
    assert run("--version") == (0, f"gllm {gllm.__version__}\n", "")
    assert gllm.__version__ == version("gllm")


def test_the_public_names_are_there_and_no_others() -> None:
    classes = {"LLM", "SamplingParams", "StructuredOutputs", "RequestOutput", "CompletionOutput"}
    assert set(dir(gllm)) == {*classes, "__version__"}
    assert all(getattr(gllm, name) for name in dir(gllm))
    with pytest.raises(AttributeError, match="no attribute 'Engine'"):
        gllm.Engine  # noqa: B018


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ("", "COMMAND"),
        ("serf", "invalid choice: 'serf'"),
        ("serve", "no model is given"),
        ("serve demo/model --prot 1", "unknown flag --prot: did you mean --port?"),
        ("serve demo/model --port many", "--port is 'many', expected an integer"),
        ("serve a.yaml --config b.yaml", "two configuration files are given, a.yaml and b.yaml"),
        ("config show no-such.yaml", "no-such.yaml cannot be read"),
        ("chat /no/such/dir", "'/no/such/dir' is not a directory"),
        ("inspect /no/such/dir", "'/no/such/dir' is not a directory"),
        ("chat demo/model --temperature 3", "temperature must be a number of [0, 2]"),
        ("chat --url http://127.0.0.1:1 --port 9", "remove --port"),
        ("batch demo/model", "-i/--input-file"),
    ],
)
def test_a_mistake_is_one_sentence_and_code_2(arguments: str, sentence: str) -> None:
    code, out, errors = run(*arguments.split())
    assert (code, out) == (2, "")
    assert sentence in errors
    assert errors.startswith("gllm")
    assert errors.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ("chat --url http://127.0.0.1:1", "no answer from http://127.0.0.1:1"),
        ("batch demo/model -i /no/such.jsonl -o /dev/null", "/no/such.jsonl: No such file"),
    ],
)
def test_a_failure_is_one_sentence_and_code_1(arguments: str, sentence: str) -> None:
    code, _, errors = run(*arguments.split())
    assert code == 1
    assert sentence in errors
    assert errors.count("\n") == 1


@pytest.mark.parametrize("form", ["configs/demo.yaml", "--config configs/demo.yaml"])
def test_config_show_says_what_is_in_force_and_from_where(form: str) -> None:
    code, out, _ = run("config", "show", *form.split(), "--port", "1234")
    lines = {line.split(":")[0].strip(): line for line in out.splitlines()}
    assert code == 0
    assert lines["path"].split() == ["path:", "demo/model", "#", "configs/demo.yaml:5"]
    assert lines["port"].split() == ["port:", "1234", "#", "--port"]
    assert lines["page_size"].endswith("# default")


def test_config_show_takes_a_model_directory() -> None:
    code, out, _ = run("config", "show", "demo/model")
    assert code == 0
    assert "path: demo/model" in out


def test_inspect_says_what_the_demo_model_is_and_that_it_runs() -> None:
    code, out, errors = run("inspect", "demo/model")
    # Of the machine and not of the model: what a machine without a C compiler hears at every start.
    others = [line for line in errors.splitlines() if "there is no C compiler" not in line]
    assert (code, others) == (0, [])
    assert "LlamaForCausalLM" in out
    assert out.splitlines()[-1].split() == ["runs", "here", "yes"]
