"""What a scrape says: names, forms, sums over processes, and that it fits what happened."""

import json
import re
import time
from pathlib import Path

import pytest
from http_server import Deployment, serving
from prometheus_client.parser import text_string_to_metric_families

from gllm.config.schema import FrontendConfig
from gllm.frontend.engine import EngineClient
from gllm.frontend.metrics import OF_STATS, exposition
from gllm.frontend.tokenizer import Tokenizer
from gllm.meters import CATALOGUE, Meters
from gllm.protocol.messages import PassedOver, SchedulerReady, Stats

ROOT = Path(__file__).resolve().parent.parent.parent
READY = SchedulerReady(max_model_len=256, num_pages=100, page_size=16, vocab_size=9)


def state(**known: object) -> Stats:
    counts = dict.fromkeys(Stats.__slots__, 0) | {"passed_over": [0] * len(PassedOver), "series": []}
    return Stats(**(counts | {"oldest_step_s": 0.0} | known))


def samples(text: str) -> dict[str, float]:
    """Each sample by its name and its labels, those that all have left out."""
    found = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            labels = {k: v for k, v in sample.labels.items() if k not in ("model_name", "engine")}
            inside = ",".join(f"{key}={value}" for key, value in sorted(labels.items()))
            found[f"{sample.name}{{{inside}}}" if inside else sample.name] = sample.value
    return found


def scraped(server: Deployment) -> dict[str, float]:
    answer = server.http.get("/metrics")
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    return samples(answer.text)


def test_every_metric_is_there_before_the_first_request_and_counts_end_with_total() -> None:
    text = exposition(state(num_pages=10, num_free_pages=4), READY, "m", like_vllm=False).decode()
    families = {family.name: family for family in text_string_to_metric_families(text)}
    assert {f"gllm:{figure.name}" for figure in OF_STATS} <= set(families)
    assert {f"gllm:{name}" for name in CATALOGUE} <= set(families)
    for name, family in families.items():
        if family.type == "counter":
            assert all(sample.name == f"{name}_total" for sample in family.samples), name
        for sample in family.samples:
            assert sample.labels["model_name"] == "m"
            assert sample.labels["engine"] == "0"
    assert samples(text)["gllm:kv_cache_usage_perc"] == pytest.approx(0.6)
    assert samples(text)["gllm:cache_config_info{block_size=16,num_gpu_blocks=100}"] == 1


def test_vllm_names_repeat_every_sample() -> None:
    meters = Meters()
    meters.distribution("time_to_first_token_seconds").add(0.2)
    seen = state(num_running=3, series=meters.series())
    both = samples(exposition(seen, READY, "m", like_vllm=True).decode())
    ours = {name.removeprefix("gllm:"): value for name, value in both.items() if name.startswith("gllm:")}
    theirs = {name.removeprefix("vllm:"): value for name, value in both.items() if name.startswith("vllm:")}
    assert ours == theirs
    assert theirs["num_requests_running"] == 3
    assert theirs["time_to_first_token_seconds_count"] == 1
    assert theirs["time_to_first_token_seconds_bucket{le=0.1}"] == 0
    assert theirs["time_to_first_token_seconds_bucket{le=0.25}"] == 1
    assert theirs["time_to_first_token_seconds_bucket{le=+Inf}"] == 1


def test_a_scrape_counts_what_was_answered(server: Deployment) -> None:
    before = scraped(server)
    server.answers("one two three four")
    num_tokens = server.complete(max_tokens=50).json()["usage"]["completion_tokens"]
    server.answers("one two stop three four", stop=None)
    assert server.complete(max_tokens=50, stop="stop").json()["choices"][0]["finish_reason"] == "stop"
    server.answers("one two three", stop=None)
    assert server.complete(max_tokens=2).json()["choices"][0]["finish_reason"] == "length"
    assert server.complete(temperature=-1).status_code == 400
    after = scraped(server)

    def grown(name: str) -> float:
        return after.get(f"gllm:{name}", 0) - before.get(f"gllm:{name}", 0)

    assert grown("request_success_total{finished_reason=stop}") == 2
    assert grown("request_success_total{finished_reason=length}") == 1
    assert grown("time_to_first_token_seconds_count") == 3
    assert grown("e2e_request_latency_seconds_count") == 3
    assert grown("request_generation_tokens_sum") >= num_tokens + 2
    assert grown("inter_token_latency_seconds_count") >= num_tokens - 1
    assert grown("request_params_max_tokens_sum") == 102
    assert grown("http_responses_total{path=/v1/completions,status=200}") == 3
    assert grown("http_responses_total{path=/v1/completions,status=400}") == 1
    assert grown("tenant_tokens_total{kind=prompt,tenant=anonymous}") > 0


def test_a_client_that_leaves_counts_as_abort(server: Deployment) -> None:
    before = scraped(server)
    server.answers("and so on", stop=None)  # and then nothing more
    body = {"model": "tiny", "prompt": "hello", "max_tokens": 99, "stream": True}
    with server.http.stream("POST", "/v1/completions", json=body) as response:
        next(response.iter_lines())
    until = time.monotonic() + 60
    name = "gllm:request_success_total{finished_reason=abort}"
    while scraped(server).get(name, 0) != before.get(name, 0) + 1:
        assert time.monotonic() < until
        time.sleep(0.02)


def test_a_scrape_of_one_process_shows_what_all_have_counted(server: Deployment) -> None:
    async def from_another_process() -> None:
        other = EngineClient(server.address)
        await other.start(10)
        other.meters.count("request_success", "stop", by=1000)
        await other.report()
        await other.close()

    before = scraped(server).get("gllm:request_success_total{finished_reason=stop}", 0)
    server.call(from_another_process())
    assert scraped(server)["gllm:request_success_total{finished_reason=stop}"] == before + 1000


def test_the_metrics_need_no_key(tmp_path: Path, tokenizer: Tokenizer) -> None:
    keys = FrontendConfig.model_validate({"api_keys": "sk-1"})
    with serving(tmp_path, tokenizer, frontend=keys) as running:
        for path in ("/metrics", "/health", "/live", "/ready", "/version"):
            assert running.http.get(path).status_code == 200, path
        assert running.http.get("/v1/models").status_code == 401


def test_every_expression_of_the_dashboard_names_a_metric_that_is_served(server: Deployment) -> None:
    dashboard = json.loads((ROOT / "docs" / "grafana" / "gllm.json").read_text())
    expressions = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    expressions += [variable["query"] for variable in dashboard["templating"]["list"][1:]]
    endings = {"counter": ("_total",), "gauge": ("",), "histogram": ("_bucket", "_sum", "_count")}
    served = set()
    labels = {
        "le",
        "model_name",
        *(label for meter in CATALOGUE.values() for label in meter.labels),
        "reason",
    }
    for family in text_string_to_metric_families(server.http.get("/metrics").text):
        served |= {family.name + ending for ending in endings[family.type]}
    named = [name for expression in expressions for name in re.findall(r"gllm:\w+", expression)]
    assert len(named) >= 40
    assert not set(named) - served
    for expression in expressions:
        for group in re.findall(r"by \(([^)]*)\)", expression):
            assert set(group.split(", ")) <= labels, expression
