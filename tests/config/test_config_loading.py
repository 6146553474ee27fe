"""Files, precedence, provenance and the sentences about what is wrong."""

import logging
from collections.abc import Callable
from pathlib import Path

import pytest
from pydantic import ValidationError

from gllm.config import ConfigError, DeploymentConfig, from_options, load, show
from gllm.config.keys import digest

ROOT = Path(__file__).parents[2]
CONFIGS = sorted((ROOT / "configs").glob("*.yaml"))

Write = Callable[[str], str]


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Write:
    """Writes a file `f.yaml` into the current directory and returns its name."""
    monkeypatch.chdir(tmp_path)

    def write(content: str) -> str:
        Path("f.yaml").write_text(content)
        return "f.yaml"

    return write


def test_there_is_one_file_for_each_named_deployment() -> None:
    names = {path.stem for path in CONFIGS}
    assert names == {
        "demo", "llama3-8b", "llama3.1-8b", "llama2-7b", "qwen2-7b", "chatglm3-6b", "glm4-9b",
    }  # fmt: skip


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_file_in_configs_loads(path: Path) -> None:
    config = load(str(path))
    assert not Path(config.model.path).is_absolute()
    assert config.frontend.port == 8000
    from_file = {key for key, source in config.sources.items() if source.startswith(f"{path}:")}
    assert "model.path" in from_file


def test_the_demo_serves_the_demo_model_with_a_small_cache() -> None:
    config = load(str(ROOT / "configs" / "demo.yaml"))
    assert config.model.path == config.model.name == "demo/model"
    assert config.worker.kv_cache_memory_bytes == 256 * 2**20


def test_flag_goes_before_file_and_file_before_default(write: Write) -> None:
    file = write("model: {path: m}\nfrontend:\n  port: 81\nscheduler:\n  max_num_seqs: 5\n")
    config = load(file, {"--port": "82"})
    assert (config.frontend.port, config.scheduler.max_num_seqs, config.worker.page_size) == (82, 5, None)
    sources = [config.sources[key] for key in ("frontend.port", "scheduler.max_num_seqs", "worker.page_size")]
    assert sources == ["--port", "f.yaml:5", "default"]


def test_every_key_has_a_source() -> None:
    config = from_options(model="m")
    keys = {f"{section}.{key}" for section, values in config.model_dump().items()
            if section != "sources" for key in values}  # fmt: skip
    assert set(config.sources) == keys


def test_a_flat_vllm_file_loads_unchanged(write: Write) -> None:
    file = write(
        "model: meta-llama/Llama-3.1-8B-Instruct\nserved-model-name: llama\nhost: '127.0.0.1'\nport: 6379\n"
        "uvicorn-log-level: info\ntensor-parallel-size: 1\nmax-model-len: 32k\ngpu_memory_utilization: 0.92\n"
        "async-scheduling: true\nenable-prefix-caching: false\ntrust-remote-code: false\nblock-size: 32\n"
        "quantization: null\nkv-cache-dtype: auto\n"
    )
    config = load(file)
    assert config.model.path == "meta-llama/Llama-3.1-8B-Instruct"
    assert (config.model.name, config.model.max_len, config.worker.page_size) == ("llama", 32000, 32)
    assert config.worker.gpu_memory_utilization == 0.92
    assert config.sources["worker.page_size"] == "f.yaml:12"


def test_a_nested_file_takes_pipe_schedule_and_any_alias_of_its_section(write: Write) -> None:
    file = write(
        "model: {path: m}\nscheduler: {pipe_schedule: false, max-running-requests: 3}\n"
        "worker: {block_size: 4}"
    )
    config = load(file)
    assert (config.scheduler.micro_batches, config.scheduler.max_num_seqs, config.worker.page_size) == (
        1,
        3,
        4,
    )


def test_underscores_and_dashes_are_equal_in_files(write: Write) -> None:
    file = write("model-path: m\nscheduler: {max-num-seqs: 3}\nmax_num_queued_reqs: 9")
    scheduler = load(file).scheduler
    assert (scheduler.max_num_seqs, scheduler.max_num_queued_reqs) == (3, 9)


def test_empty_sections_and_keys_set_to_null_mean_the_default(write: Write) -> None:
    config = load(write("model: {path: m, max_len: null}\nlimits:\n  # max_prompts: 4\nobservability:\n"))
    assert config.limits.max_prompts == 1024
    assert config.model.max_len is None


def test_a_flag_for_the_cache_size_replaces_another_way_of_sizing_it_in_the_file(write: Write) -> None:
    file = write("model: {path: m}\nworker: {kv_cache_memory_bytes: 1GiB, page_size: 10}")
    config = load(file, {"max_total_tokens": "95"})
    assert (config.worker.kv_cache_memory_bytes, config.worker.num_pages) == (None, 10)
    assert config.sources["worker.kv_cache_memory_bytes"] == "default"
    assert load(file, {"--gpu-memory-utilization": "0.5"}).worker.kv_cache_memory_bytes is None


def test_keywords_of_the_offline_engine_are_flag_names_or_aliases() -> None:
    config = from_options(
        model=Path("demo/model"), maxd=4, tensor_parallel_size=1, pipe_schedule=False, enforce_eager=True,
        gpu_memory_utilization=0.5, max_model_len=None, api_key=None,
    )  # fmt: skip
    assert (config.model.path, config.scheduler.max_num_seqs, config.scheduler.micro_batches) == (
        "demo/model",
        4,
        1,
    )
    assert config.sources["scheduler.max_num_seqs"] == "argument maxd"


def test_trust_remote_code_is_accepted_and_says_that_it_does_nothing(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.WARNING, "gllm.config"):
        from_options(model="m", trust_remote_code=False)
        assert caplog.text == ""
        from_options(model="m", trust_remote_code=True)
    assert "does nothing" in caplog.text


SENTENCES = [
    ("scheduler: {max_num_seq: 4}",
     "f.yaml:1: unknown key scheduler.max_num_seq: did you mean max_num_seqs?"),
    ("worker: {max_num_seqs: 4}",
     "f.yaml:1: unknown key worker.max_num_seqs: did you mean scheduler.max_num_seqs?"),
    ("\nmax-num-seq: 4", "f.yaml:2: unknown key max-num-seq: did you mean max-num-seqs?"),
    ("max_num_seq: 4\nschedule: 3", "f.yaml:1: unknown key max_num_seq: did you mean max-num-seqs?"),
    ("shceduler: {max_num_seqs: 4}", "f.yaml:1: unknown key shceduler: did you mean scheduler?"),
    ("ipc: {xyzzy: 4}", "f.yaml:1: unknown key ipc.xyzzy: the keys of ipc are dir"),
    ("observability: {recordfile: 4}", "observability.recordfile: did you mean record_file?"),
    ("scheduler:\n  max_num_seqs: many",
     "f.yaml:2: scheduler.max_num_seqs is 'many', expected an integer of at least 1 such as 256 or 1k"),
    ("scheduler: {max_num_seqs: true}", "scheduler.max_num_seqs is true, expected an integer"),
    ("scheduler: {max_num_seqs: 2.5}", "is 2.5, expected an integer"),
    ("scheduler: {max_num_seqs: 0}", "is 0, expected an integer of at least 1"),
    ("scheduler: {max_num_seqs: null}", "is null, expected an integer"),
    ("scheduler: {max_num_seqs: [4]}", "is a list, expected an integer"),
    ("scheduler: {max_num_seqs: 4000000000}", "expected an integer"),
    ("scheduler: {micro_batches: 9}", "expected an integer from 1 to 8"),
    ("frontend: {port: 65536}", "frontend.port is 65536, expected an integer from 0 to 65535"),
    ("frontend: {host: 1.5}", "frontend.host is 1.5, expected text such as 127.0.0.1"),
    ("frontend: {log_level: loud}", "is 'loud', expected 'debug', 'info', 'warning', 'error' or 'critical'"),
    ("worker: {gpu_memory_utilization: 0}", "expected a number above 0 and at most 1"),
    ("worker: {gpu_memory_utilization: 1.1}", "expected a number above 0 and at most 1"),
    ("worker: {gpu_memory_utilization: .nan}", "expected a number above 0 and at most 1"),
    ("worker: {gpu_memory_utilization: true}", "expected a number above 0 and at most 1"),
    ("limits: {shutdown_timeout_s: .inf}", "expected a number of at least 0"),
    ("model: {max_len: long}", "expected an integer of at least 1 such as 8192 or 32k, or 'auto'"),
    ("model: {served_name: 2024-13-45, dtype: int3}", "model.dtype is 'int3', expected 'auto', 'float32'"),
    ("model: {dtype: !!bool maybe}", "is 'maybe', expected 'auto'"),
    ("model: {served_name: 2024-12-24}", "model.served_name is datetime.date(2024, 12, 24), expected text"),
    ("model: {path: ''}", "model.path is '', expected text such as demo/model"),
    ("scheduler: {pipe_schedule: 2}", "scheduler.pipe_schedule is 2, expected true or false"),
    ("scheduler: 4", "f.yaml:1: scheduler is 4, expected a section of `key: value` lines"),
    ("scheduler: [1]", "f.yaml:1: scheduler is a list, expected a section"),
    ("enforce-eager: 1", "f.yaml:1: enforce-eager is 1, expected true or false"),
    ("ipc: {transport: tcp}",
     "ipc.transport 'tcp' is not supported yet by this version, which knows only ipc"),
    ("observability: {metrics: false}", "observability.metrics false is not supported yet"),
    ("frontend: {api_keys: [secret]}", "frontend.api_keys cannot be used, expected a key, name=key pairs"),
    ("api_keys: {a: {key: secret, colour: 1}}", "unknown key api_keys"),
    ("api_key: {a: {key: secret, colour: 1}}", "api_key cannot be used, expected for a only key, digest"),
    ("api_key: {a: {key: secret, tokens_per_minute: -1}}", "for a a tokens_per_minute of at least 1"),
    ("api_key: {a b: secret}", "expected names of letters, digits"),
    ("api_key: {a: 12}", "expected for a a key of 1 to 512 printable characters without spaces"),
    ("api_key: {a: secret, b: secret}", "expected keys that differ: two names have the same one"),
    ("api_key: a=secret,a=other", "expected names that differ: two keys have the same one"),
    ("api_key: {a: {key: {deep: secret}}}", "expected for a a key of 1 to 512 printable"),
    ("port: 1\nport: 2", "f.yaml:2: port is given twice, first at f.yaml:1: remove one of them"),
    ("page-size: 1\npage_size: 2", "f.yaml:2: page_size is given twice, first at f.yaml:1"),
    ("scheduler:\n  maxd: 1\n  maxd: 1", "f.yaml:3: maxd is given twice"),
    ("port: 1\nfrontend: {port: 2}", "f.yaml:1: port and f.yaml:2: frontend.port contradict each other"),
    ("scheduler: {pipe_schedule: false, micro_batches: 3}", "contradict each other"),
    ("worker: {num_pages: 4, kv_cache_memory_bytes: 1G}", "both fix the size of the KV cache"),
    ("<<: {port: 1}", "unknown key <<"),
    ("? [a]\n: 1", "f.yaml:1: a key is a list, expected a name"),
    ("- port", "f.yaml:1: expected `key: value` lines"),
    ("port: {", "f.yaml:1: this is not YAML"),
    ("port: 1\n---\nport: 2", "this is not YAML"),
    ("host: !!python/object/apply:os.getcwd []", "host is a list, expected text"),
    ("host: !!python/name:os.getcwd x", "f.yaml:1: this is not YAML: could not determine a constructor"),
    ("[" * 5000, "f.yaml is nested too deeply"),
    ("", "no model is given: name its directory with --model-path"),
]  # fmt: skip


@pytest.mark.parametrize(("content", "sentence"), SENTENCES, ids=range(len(SENTENCES)))
def test_what_is_wrong_in_a_file_is_said_in_a_sentence(write: Write, content: str, sentence: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(write(content))
    assert sentence in str(caught.value)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("keywords", "sentence"),
    [
        ({"max_num_seq": 4}, "unknown option max_num_seq: did you mean max_num_seqs?"),
        ({"max_num_seqs": "many"}, "max_num_seqs is 'many', expected an integer"),
        (
            {"tensor_parallel_size": 2},
            "tensor_parallel_size 2 is not supported yet by this version, which knows only 1",
        ),
        ({"max_num_seqs": 4, "maxd": 5}, "max_num_seqs and maxd contradict each other"),
        ({"host": "x" * 10_000 + "\0"}, "...,"),
    ],
)
def test_what_is_wrong_in_keywords_is_said_in_a_sentence(keywords: dict[str, object], sentence: str) -> None:
    with pytest.raises(ConfigError) as caught:
        from_options(model="m", **keywords)
    assert sentence in str(caught.value)
    assert len(str(caught.value)) < 300


def test_a_file_that_cannot_be_read_is_said_in_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nowhere\.yaml cannot be read: No such file"):
        load("nowhere.yaml")
    with pytest.raises(ConfigError, match="cannot be read"):
        load(str(tmp_path))
    (tmp_path / "latin").write_bytes(b"host: \xff")
    with pytest.raises(ConfigError, match="not UTF-8"):
        load(str(tmp_path / "latin"))


def test_an_alias_of_a_value_works_and_a_bomb_of_aliases_costs_nothing(write: Write) -> None:
    config = load(write("model: {path: &m demo}\nserved-model-name: *m\n"))
    assert config.model.served_name == "demo"
    levels = ["a0: &a0 [x, x]"] + [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 40)]
    with pytest.raises(ConfigError, match="unknown key a0"):
        load(write("\n".join(levels)))
    with pytest.raises(ConfigError, match="is a list, expected text"):
        load(write("host: &a [*a]"))


def test_a_configuration_survives_its_json_with_its_sources() -> None:
    config = load(str(ROOT / "configs" / "demo.yaml"), {"max_model_len": "-1"}, shutdown_timeout=1)
    again = DeploymentConfig.from_json(config.to_json())
    assert again == config
    assert again.sources["model.max_len"] == "--max-model-len"
    assert again.model.max_len == "auto"


@pytest.mark.parametrize(
    "written", ["", "{}", "[]", '{"model": {"path": 4}}', '{"model": {"path": "m"}, "x": 1}']
)
def test_json_that_is_not_a_configuration_is_an_error(written: str) -> None:
    with pytest.raises(ConfigError, match="not a configuration made by to_json"):
        DeploymentConfig.from_json(written)


def test_a_configuration_is_frozen_and_refuses_unknown_fields() -> None:
    config = from_options(model="m")
    with pytest.raises(ValidationError, match="frozen"):
        config.frontend.port = 1  # type: ignore[misc]
    with pytest.raises(ValidationError, match="Extra inputs"):
        DeploymentConfig.model_validate({"model": {"path": "m", "color": "red"}})


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_what_config_show_prints_is_a_file_that_gives_the_same_configuration(
    path: Path, write: Write
) -> None:
    config = load(str(path), {"--max-total-tokens": "99"}, model_path="# odd: 'name'\t")
    again = load(write(show(config)))
    assert again.model_dump(exclude={"sources"}) == config.model_dump(exclude={"sources"})


def test_config_show_says_from_where_each_value_is(write: Write) -> None:
    listing = show(load(write("model:\n  path: m\n"), {"port": "1"})).splitlines()
    assert {" ".join(line.split()) for line in listing} >= {
        "path: m # f.yaml:2",
        "port: 1 # --port",
        "max_num_seqs: 256 # default",
    }


def test_keys_with_limits_come_from_a_file_and_only_their_hashes_are_kept(tmp_path: Path) -> None:
    file = tmp_path / "f.yaml"
    file.write_text(
        "model: demo/model\n"
        "frontend:\n"
        "  api_keys:\n"
        "    search: sk-one\n"
        "    batch: {key: sk-two, requests_per_minute: 60, tokens_per_minute: 100k, max-concurrency: 4}\n"
        f"    hashed: {{digest: {digest('sk-three')}}}\n"
    )
    config = load(str(file), None)
    search, batch, hashed = config.frontend.api_keys
    assert (search.name, search.digest, search.requests_per_minute) == ("search", digest("sk-one"), None)
    assert (batch.requests_per_minute, batch.tokens_per_minute, batch.max_concurrency) == (60, 100_000, 4)
    assert hashed.digest == digest("sk-three")
    assert "sk-" not in config.to_json() + show(config)
    assert DeploymentConfig.from_json(config.to_json()).frontend == config.frontend
    file.write_text(show(config))
    assert load(str(file), None).frontend == config.frontend


def test_keys_come_from_the_environment_and_a_flag_goes_before_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GLLM_API_KEY", "sk-env")
    monkeypatch.setenv("GLLM_ADMIN_API_KEY", "ops=sk-admin")
    config = load(None, {"--model": "demo/model"})
    assert [key.digest for key in config.frontend.api_keys] == [digest("sk-env")]
    assert [key.name for key in config.frontend.admin_api_keys] == ["ops"]
    assert config.sources["frontend.api_keys"] == "GLLM_API_KEY"
    config = load(None, {"--model": "demo/model", "--api-key": "sk-flag"})
    assert [key.digest for key in config.frontend.api_keys] == [digest("sk-flag")]
    monkeypatch.setenv("GLLM_API_KEY", "secret with spaces")
    with pytest.raises(ConfigError, match="GLLM_API_KEY cannot be used") as caught:
        load(None, {"--model": "demo/model"})
    assert "secret" not in str(caught.value)
