"""The flags of `gllm bench serve | throughput | latency`, by the names of vLLM and of the first gLLM.

Imports what measures only when a command runs, and knows nothing of a deployment's own flags.
"""

import argparse
import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gllm.config import DeploymentConfig

DATASETS = ("sharegpt", "random", "prefix_repetition", "sonnet", "trace")


def add_serve(parser: argparse.ArgumentParser) -> None:
    server = parser.add_argument_group("server")
    server.add_argument("--backend", choices=("gllm", "vllm", "openai", "openai-chat"), default="gllm",
                        help="form of the requests (default %(default)s)")  # fmt: skip
    server.add_argument("--base-url", metavar="URL", help="instead of --host and --port")
    server.add_argument("--host", default="127.0.0.1", help="(default %(default)s)")
    server.add_argument("--port", type=int, default=8000, help="(default %(default)s)")
    server.add_argument("--endpoint", metavar="PATH", help="(default: the backend's of OpenAI's API)")
    server.add_argument("--model", metavar="NAME", help="as the server calls it (default: its first)")
    server.add_argument("--tokenizer", metavar="DIR", help="local directory (default: --model)")
    server.add_argument("--trust-remote-code", action="store_true", help="no effect: no such code is run")
    server.add_argument("--profile", action="store_true", help="call /start_profile and /stop_profile")
    _add_dataset(parser)
    load = parser.add_argument_group("load")
    load.add_argument("--seed", type=int, default=0, help="of prompts and arrivals (default %(default)s)")
    load.add_argument("--request-rate", type=float, default=math.inf, metavar="R",
                      help="requests a second, also of a trace (default inf: all at once)")  # fmt: skip
    load.add_argument("--burstiness", type=float, default=1.0, metavar="X",
                      help="shape of the gamma law of gaps; 1 is Poisson, less is burstier")  # fmt: skip
    load.add_argument("--max-concurrency", type=int, metavar="N", help="requests under way at most")
    load.add_argument("--ramp-up-strategy", choices=("linear", "exponential"), help="a rate that grows")
    load.add_argument("--ramp-up-start-rps", type=float, metavar="R")
    load.add_argument("--ramp-up-end-rps", type=float, metavar="R")
    load.add_argument("--num-warmups", type=int, default=0, metavar="N", help="requests before the clock")
    load.add_argument("--ignore-eos", action=argparse.BooleanOptionalAction,
                      help="generate as many tokens as asked (default: for made-up prompts)")  # fmt: skip
    load.add_argument("--temperature", type=float, default=0.0, metavar="T", help="(default 0: greedy)")
    load.add_argument("--top-p", type=float, metavar="P")
    load.add_argument("--top-k", type=int, metavar="K")
    results = parser.add_argument_group("results")
    results.add_argument("--percentile-metrics", default="ttft,tpot,itl", metavar="M,M,...",
                         help="of ttft, tpot, itl, e2el (default %(default)s)")  # fmt: skip
    results.add_argument("--metric-percentiles", default="99", metavar="P,P,...", help="(default 99)")
    results.add_argument("--goodput", nargs="+", metavar="METRIC:MS",
                         help="count requests that keep all of them: ttft:200 tpot:50 e2el:3000")  # fmt: skip
    results.add_argument("--save-result", action="store_true", help="write a JSON file")
    results.add_argument("--save-detailed", action="store_true", help="with every request in it")
    results.add_argument("--append-result", action="store_true", help="as one more line of the file")
    results.add_argument("--result-dir", metavar="DIR")
    results.add_argument("--result-filename", metavar="FILE", help="(default: by load, model and date)")
    results.add_argument("--label", metavar="TEXT", help="beginning of the file's name")
    results.add_argument("--metadata", nargs="+", metavar="KEY=VALUE", help="to put into the file")
    results.add_argument("--disable-tqdm", action="store_true", help="no progress bar")


def add_throughput(parser: argparse.ArgumentParser) -> None:
    _add_dataset(parser)
    _add_offline(parser)


def add_latency(parser: argparse.ArgumentParser) -> None:
    batch = parser.add_argument_group("batch")
    for name, default, about in (
        ("--batch-size", 8, "requests at once"),
        ("--input-len", 32, "tokens of a prompt"),
        ("--output-len", 128, "tokens of an answer"),
        ("--num-iters", 30, "measured rounds"),
        ("--num-iters-warmup", 10, "rounds before"),
    ):
        batch.add_argument(name, type=int, default=default, metavar="N", help=f"{about} (default {default})")
    _add_offline(parser)


def _add_offline(parser: argparse.ArgumentParser) -> None:
    engine = parser.add_argument_group("bench")
    engine.add_argument("--backend", choices=("gllm", "vllm", "hf"), default="gllm",
                        help="the engine (default %(default)s)")  # fmt: skip
    engine.add_argument("--hf-max-batch-size", type=int, metavar="N", help="for --backend hf")
    engine.add_argument("--output-json", metavar="FILE", help="write the results there, too")
    engine.add_argument("--disable-tqdm", action="store_true", help="no progress bar")


def _add_dataset(parser: argparse.ArgumentParser) -> None:
    data = parser.add_argument_group("data set")
    data.add_argument("--dataset-name", choices=DATASETS, help="(default random; with a file sharegpt)")
    data.add_argument("--dataset-path", "--dataset", metavar="FILE")
    data.add_argument("--num-prompts", "--num-prompt", type=int, metavar="N",
                      help="(default 1000; of a trace all)")  # fmt: skip
    for name, default, about in (
        ("--input-len", None, "of random and sonnet"),
        ("--output-len", None, "of every data set but traces"),
        ("--sharegpt-output-len", None, "instead of the answer's length"),
        ("--random-input-len", None, "(default 1024)"),
        ("--random-output-len", None, "(default 128)"),
        ("--random-prefix-len", None, "tokens in front, the same for all (default 0)"),
        ("--sonnet-input-len", None, "(default 550)"),
        ("--sonnet-output-len", None, "(default 150)"),
        ("--sonnet-prefix-len", None, "(default 200)"),
        ("--prefix-repetition-num-prefixes", 10, "(default 10)"),
        ("--prefix-repetition-prefix-len", 256, "(default 256)"),
        ("--prefix-repetition-suffix-len", 256, "(default 256)"),
        ("--prefix-repetition-output-len", 128, "(default 128)"),
        ("--trace-length-divisor", 1, "divide all lengths of a trace, for small models"),
    ):
        data.add_argument(name, type=int, default=default, metavar="N", help=about)
    data.add_argument("--random-range-ratio", type=float, default=0.0, metavar="X",
                      help="lengths spread over n (1 - X) to n (1 + X) (default 0)")  # fmt: skip
    data.add_argument("--trace-time-scale", type=float, default=1.0, metavar="X",
                      help="multiply the times of a trace; 0: all at once (default 1)")  # fmt: skip


def add_figures(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("results", metavar="FOLDER", help="of results that the other bench commands saved")
    parser.add_argument("--out", default="docs/figures", metavar="DIR", help="(default %(default)s)")
    parser.add_argument("--dtype", default="float32", help="of a comparison of engines (default %(default)s)")


def figures(given: argparse.Namespace) -> int:
    from gllm.bench.figures import run

    return run(given)


def serve(given: argparse.Namespace) -> int:
    from gllm.bench.serve import run

    return run(given)


def throughput(given: argparse.Namespace, config: "DeploymentConfig") -> int:
    from gllm.bench.throughput import run

    return run(given, config)


def latency(given: argparse.Namespace, config: "DeploymentConfig") -> int:
    from gllm.bench.latency import run

    return run(given, config)
