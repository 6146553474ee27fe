"""Every flag of the conventions loads or is refused by name; the command line's own errors."""

import argparse
import subprocess
import sys
from pathlib import Path

import pytest

from gllm.config import ConfigError, DeploymentConfig, FlagParser, add_flags, load
from gllm.config.keys import ApiKey, digest
from gllm.config.names import FLAT
from gllm.config.pending import PENDING
from gllm.config.schema import SECTIONS, options

ROOT = Path(__file__).parents[2]

# The flags of the conventions, with a value, the key that they set and what it is then.
SUPPORTED = [
    ("--model-path m", "model.path", "m"),
    ("--model m", "model.path", "m"),
    ("--served-model-name llama", "model.served_name", "llama"),
    ("--host 0.0.0.0", "frontend.host", "0.0.0.0"),
    ("--port 0", "frontend.port", 0),
    ("--gpu-memory-utilization 0.5", "worker.gpu_memory_utilization", 0.5),
    ("--gpu-memory-util 1", "worker.gpu_memory_utilization", 1.0),
    ("--mem-fraction-static .5", "worker.gpu_memory_utilization", 0.5),
    ("--kv-cache-memory-bytes 2GiB", "worker.kv_cache_memory_bytes", 2**31),
    ("--num-gpu-blocks-override 7", "worker.num_pages", 7),
    ("--max-total-tokens 1000", "worker.num_pages", 63),
    ("--device cuda", "worker.device", "cuda"),
    ("--enforce-eager", "worker.cuda_graphs", False),
    ("--disable-cuda-graph", "worker.cuda_graphs", False),
    ("--no-enforce-eager", "worker.cuda_graphs", True),
    ("--cuda-graphs", "worker.cuda_graphs", True),
    ("--no-cuda-graphs", "worker.cuda_graphs", False),
    ("--max-model-len 32k", "model.max_len", 32000),
    ("--max-model-len -1", "model.max_len", "auto"),
    ("--max-model-len=auto", "model.max_len", "auto"),
    ("--context-length 4K", "model.max_len", 4096),
    ("--model-max-length 128", "model.max_len", 128),
    ("--max-num-seqs 4", "scheduler.max_num_seqs", 4),
    ("--max-running-requests 4", "scheduler.max_num_seqs", 4),
    ("--max-decode-seqs 4", "scheduler.max_num_seqs", 4),
    ("--maxd 4", "scheduler.max_num_seqs", 4),
    ("--max-num-batched-tokens 25.6k", "scheduler.max_num_batched_tokens", 25600),
    ("--max-batch-tokens 9", "scheduler.max_num_batched_tokens", 9),
    ("--chunked-prefill-size 9", "scheduler.max_num_batched_tokens", 9),
    ("--max-prefill-tokens 9", "scheduler.max_num_batched_tokens", 9),
    ("--maxp 9", "scheduler.max_num_batched_tokens", 9),
    ("--page-size 4", "worker.page_size", 4),
    ("--block-size 32", "worker.page_size", 32),
    ("--dtype half", "model.dtype", "float16"),
    ("--dtype float", "model.dtype", "float32"),
    ("--dtype bfloat16", "model.dtype", "bfloat16"),
    ("--load-format safetensors", "model.load_format", "safetensors"),
    ("--load-format dummy", "model.load_format", "dummy"),
    ("--quantization INT8", "model.quantization", "int8"),
    ("--quantization none", "model.quantization", "none"),
    ("--rope-theta 5e6", "model.rope_theta", 5e6),
    ("--seed 9", "model.seed", 9),
    ("--random-seed 9", "model.seed", 9),
    ("--pipe-schedule", "scheduler.micro_batches", 2),
    ("--no-pipe-schedule", "scheduler.micro_batches", 1),
    ("--async-scheduling", "scheduler.micro_batches", 2),
    ("--no-async-scheduling", "scheduler.micro_batches", 1),
    ("--overlap-scheduling", "scheduler.micro_batches", 2),
    ("--disable-overlap-schedule", "scheduler.micro_batches", 1),
    ("--num-micro-batches 3", "scheduler.micro_batches", 3),
    ("--pipe-schedule --num-micro-batches 3", "scheduler.micro_batches", 3),
    ("--num-micro-batches 1 --no-pipe-schedule", "scheduler.micro_batches", 1),
    ("--chat-template t.jinja", "model.chat_template", "t.jinja"),
    ("--tool-call-parser qwen25", "frontend.tool_call_parser", "hermes"),
    ("--tool-call-parser llama3_json", "frontend.tool_call_parser", "llama3_json"),
    ("--enable-auto-tool-choice", "frontend.auto_tool_choice", True),
    ("--no-enable-auto-tool-choice", "frontend.auto_tool_choice", False),
    ("--generation-config vllm", "model.generation_config", "vllm"),
    ("--generation-config auto", "model.generation_config", "auto"),
    ("--max-n 4", "limits.max_n", 4),
    ("--max-logprobs 5", "limits.max_logprobs", 5),
    ("--max-num-queued-reqs 5", "scheduler.max_num_queued_reqs", 5),
    ("--max-queued-requests 5", "scheduler.max_num_queued_reqs", 5),
    ("--max-num-queued-tokens 10k", "scheduler.max_num_queued_tokens", 10_000),
    ("--enable-prefix-caching", "scheduler.prefix_cache", True),
    ("--no-enable-prefix-caching", "scheduler.prefix_cache", False),
    ("--disable-radix-cache", "scheduler.prefix_cache", False),
    ("--scheduling-policy priority", "scheduler.policy", "priority"),
    ("--schedule-policy fcfs", "scheduler.policy", "fcfs"),
    ("--schedule-method chunked_prefill", "scheduler.policy", "fcfs"),
    ("--schedule-method token_throttling", "scheduler.policy", "token_throttling"),
    ("--minp 16", "scheduler.throttling_min_tokens", 16),
    ("--throttling-max-tokens 1k", "scheduler.throttling_max_tokens", 1000),
    ("--iterp 4", "scheduler.throttling_iterations", 4),
    ("--kvthresh 0.1", "scheduler.throttling_free_threshold", 0.1),
    ("--record run.glr", "observability.record_file", "run.glr"),
    ("--record-max-bytes 1MiB", "observability.record_max_bytes", 2**20),
    ("--record-max-files 2", "observability.record_max_files", 2),
    ("--trace-file run.json", "observability.trace_file", "run.json"),
    ("--shutdown-timeout 0.5", "limits.shutdown_timeout_s", 0.5),
    ("--uvicorn-log-level WARNING", "frontend.log_level", "warning"),
    ("--log-level debug", "frontend.log_level", "debug"),
    ("--device cpu", "worker.device", "cpu"),
    ("--num-threads 2", "worker.num_threads", 2),
    ("--tokenizer-workers 3", "frontend.tokenizer_workers", 3),
    ("--api-server-count 2", "frontend.num_processes", 2),
    ("--frontend-processes 2", "frontend.num_processes", 2),
    ("--enable-log-requests", "frontend.log_requests", True),
    ("--disable-log-requests", "frontend.log_requests", False),
    ("--allowed-origins https://a.example", "frontend.allowed_origins", "https://a.example"),
    ("--api-key sk-one", "frontend.api_keys", (ApiKey(name="default", digest=digest("sk-one")),)),
    (
        "--admin-api-key a=k1 --admin-api-key b=k2==",
        "frontend.admin_api_keys",
        (ApiKey(name="a", digest=digest("k1")), ApiKey(name="b", digest=digest("k2=="))),
    ),
    ("--metrics-compat vllm", "observability.metrics_compat", "vllm"),
    ("--ipc-dir /run/gllm", "ipc.dir", "/run/gllm"),
    ("--max_num_seqs 4", "scheduler.max_num_seqs", 4),
    ("--max_num_seqs=4", "scheduler.max_num_seqs", 4),
    ("--port 1 --port 2", "frontend.port", 2),
]

# Flags of the conventions that ask for what the engine does anyway.
FULFILLED = [
    "--kv-cache-dtype auto",
    "--stream-interval 1",
    "--response-role assistant",
    "--tensor-parallel-size 1",
]

REFUSED = [
    "--kv-cache-dtype fp8",
    "--reasoning-parser qwen3",
    "--response-role bot",
    "--stream-interval 8",
    "--watchdog-timeout 300",
    "--root-path /api",
    "--otlp-traces-endpoint http://x",
    "--tp 2",
]


def parsed(line: str) -> argparse.Namespace:
    parser = FlagParser(prog="gllm serve")
    add_flags(parser)
    return parser.parse_args(line.split())


def configured(line: str) -> DeploymentConfig:
    namespace = parsed(line)
    needs_path = not any(flag in line for flag in ("--model ", "--model-path"))
    return load(namespace.config, namespace, model_path="m" if needs_path else None)


def value_of(config: DeploymentConfig, key: str) -> object:
    section, _, name = key.partition(".")
    return getattr(getattr(config, section), name)


@pytest.mark.parametrize(("line", "key", "value"), SUPPORTED)
def test_a_supported_flag_sets_its_key_and_is_named_as_its_source(line: str, key: str, value: object) -> None:
    config = configured(line)
    found = value_of(config, key)
    assert (found, type(found)) == (value, type(value))
    assert config.sources[key] in line.replace("_", "-")


@pytest.mark.parametrize("line", FULFILLED)
def test_a_flag_that_asks_for_what_happens_anyway_changes_nothing(line: str) -> None:
    assert configured(line) == configured("")


@pytest.mark.parametrize("line", REFUSED)
def test_a_flag_of_a_later_version_is_refused_by_its_name(line: str) -> None:
    with pytest.raises(ConfigError, match="is not supported yet by this version") as caught:
        configured(line)
    assert str(caught.value).startswith(line.split()[0])
    assert "secret" not in str(caught.value)


def test_no_known_flag_is_forgotten_in_these_tables() -> None:
    lines = " ".join([*(line for line, _, _ in SUPPORTED), *FULFILLED, *REFUSED])
    tested = {word.partition("=")[0].replace("_", "-") for word in lines.split() if word.startswith("--")}
    assert tested <= {f"--{name}" for name in FLAT}
    keys_tested = {FLAT[flag[2:]].key for flag in tested}
    only_by_key = {key for key in options() if key.startswith("limits.")}
    assert set(options()) - only_by_key <= keys_tested


def test_every_flag_is_parsed_by_argparse() -> None:
    parser = FlagParser(prog="gllm serve")
    add_flags(parser)
    assert {f"--{name}" for name in FLAT} <= set(parser._option_string_actions)


def test_no_name_stands_for_two_options() -> None:
    flags = [flag for option, _ in options().values() for flag in (*option.flags, *option.switches)]
    flags += [flag for pending in PENDING for flag in (*pending.flags, *pending.switches)]
    assert sorted(flags) == sorted(set(flags))
    assert not {pending.key for pending in PENDING} & set(options())
    assert {pending.key.partition(".")[0] for pending in PENDING} <= set(SECTIONS)


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("--max-num-seq 4", "unknown flag --max-num-seq: did you mean --max-num-seqs?"),
        ("--max_num_seq=4", "unknown flag --max-num-seq: did you mean --max-num-seqs?"),
        ("--prot 80", "unknown flag --prot: did you mean --port?"),
        ("--xyzzy", "unknown flag --xyzzy: gllm serve --help lists the flags"),
        ("--max-num-s", "unknown flag --max-num-s: did you mean --max-num-seqs?"),
        ("stray", "unrecognized arguments: stray"),
        ("--port", "expected one argument"),
    ],
)
def test_a_wrong_command_line_ends_with_code_2_and_one_sentence(
    line: str, sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    parser = FlagParser(prog="gllm")
    serve = parser.add_subparsers(dest="command").add_parser("serve")
    add_flags(serve)
    with pytest.raises(SystemExit) as caught:
        parser.parse_args(["serve", *line.split()])
    assert caught.value.code == 2
    written = capsys.readouterr().err
    assert sentence in written
    assert written.count("\n") == 1


def test_a_subcommand_finds_the_flags_in_the_namespace() -> None:
    parser = FlagParser(prog="gllm")
    serve = parser.add_subparsers(dest="command").add_parser("serve")
    serve.add_argument("model", nargs="?")
    add_flags(serve)
    namespace = parser.parse_args(["serve", "demo/model", "--port", "80"])
    config = load(namespace.config, namespace, model_path=namespace.model)
    assert (config.model.path, config.frontend.port) == ("demo/model", 80)
    assert (config.sources["model.path"], config.sources["frontend.port"]) == (
        "argument model_path",
        "--port",
    )


def test_flags_that_were_not_given_leave_no_trace() -> None:
    assert vars(parsed("")) == {"config": None}


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        (
            "--no-pipe-schedule --num-micro-batches 3",
            "--no-pipe-schedule and --num-micro-batches contradict each other: "
            "both set scheduler.micro_batches; remove one of them",
        ),
        ("--pipe-schedule --num-micro-batches 1", "contradict each other"),
        ("--pipe-schedule --disable-overlap-schedule", "contradict each other"),
        ("--maxd 4 --max-num-seqs 5", "--maxd and --max-num-seqs contradict each other"),
        ("--max-total-tokens 64 --num-gpu-blocks-override 64", "contradict each other"),
        ("--max-total-tokens 64 --kv-cache-memory-bytes 1G", "both fix the size of the KV cache"),
    ],
)
def test_flags_that_contradict_each_other_are_refused(line: str, sentence: str) -> None:
    with pytest.raises(ConfigError) as caught:
        configured(line)
    assert sentence in str(caught.value)


def test_two_names_for_the_same_value_agree() -> None:
    assert configured("--maxd 4 --max-num-seqs 4").scheduler.max_num_seqs == 4


def test_help_lists_every_supported_flag_with_its_default_and_no_pending_one() -> None:
    parser = FlagParser(prog="gllm serve")
    add_flags(parser)
    written = parser.format_help()
    for option, _ in options().values():
        assert all(flag in written for flag in (*option.flags, *option.switches))
    assert "(default 8192)" in written
    assert "--reasoning-parser" not in written


def test_the_package_imports_no_torch_and_nothing_else_of_ours() -> None:
    program = (
        "import sys, gllm.config; "
        "print([name for name in sys.modules if name.split('.')[0] in ('torch', 'numpy', 'zmq', 'uvicorn') "
        "or name.startswith('gllm.') and not name.startswith('gllm.config')])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"
