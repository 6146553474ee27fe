"""The command `gllm`: one subcommand a line of a table, one sentence for what goes wrong.

Exit codes: 0 done, 1 failed, 2 a mistake in the command line or the configuration, 130 Ctrl-C.
Knows no option of a deployment (see `gllm.config`), and imports what a command needs only when it runs.
"""

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import gllm
from gllm.bench import command as bench
from gllm.checkpoint import CheckpointError
from gllm.config import ConfigError, DeploymentConfig, FlagParser, add_flags, load, show
from gllm.frontend.params import ParameterError, SamplingParams
from gllm.replay_command import HELP as REPLAY_HELP
from gllm.replay_command import add_arguments as add_replay
from gllm.replay_command import replay
from gllm.simulate.command import HELP as SIMULATE_HELP
from gllm.simulate.command import add_simulate, simulate

EXIT_FAILED, EXIT_USAGE, EXIT_INTERRUPTED = 1, 2, 130


@dataclass(frozen=True)
class Command:
    """A subcommand: its flags, and what it does with them (returns the exit code)."""

    words: tuple[str, ...]
    help: str
    add_arguments: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace], int]


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    given = make_parser().parse_args(argv)
    from gllm.launch import LaunchError

    try:
        return int(given.run(given))
    except (ConfigError, CheckpointError, ParameterError) as error:
        return complain(error, EXIT_USAGE)
    except OSError as error:
        return complain(f"{error.filename}: {error.strerror}" if error.filename else error, EXIT_FAILED)
    except LaunchError as error:
        return complain(error, EXIT_FAILED)
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED


def complain(error: Exception | str, code: int) -> int:
    print(f"gllm: {error}", file=sys.stderr)
    return code


def make_parser() -> FlagParser:
    parser = FlagParser(prog="gllm", description="A small serving engine for large language models.")
    parser.add_argument("--version", action="version", version=f"gllm {gllm.__version__}")
    groups: dict[tuple[str, ...], Any] = {(): subcommands(parser)}
    for command in COMMANDS:
        *group, name = command.words
        if tuple(group) not in groups:
            groups[tuple(group)] = subcommands(groups[()].add_parser(*group, help=f"{group[0]} commands"))
        leaf = groups[tuple(group)].add_parser(name, help=command.help, description=command.help)
        command.add_arguments(leaf)
        leaf.set_defaults(run=command.run)
    return parser


def subcommands(parser: argparse.ArgumentParser) -> Any:
    return parser.add_subparsers(metavar="COMMAND", required=True)


# ---- arguments --------------------------------------------------------------------------------


def add_deployment(parser: argparse.ArgumentParser) -> None:
    """What to serve: a YAML file or a model directory, and every flag of the configuration."""
    parser.add_argument(
        "target", nargs="?", metavar="FILE.yaml|DIR", help="configuration file or model directory"
    )
    add_flags(parser)


def deployment(given: argparse.Namespace) -> DeploymentConfig:
    """The configuration that `add_deployment`'s arguments describe; raises ConfigError."""
    if given.target is None or Path(given.target).suffix not in (".yaml", ".yml"):
        return load(given.config, given, model_path=given.target)
    if given.config is not None:
        raise ConfigError(f"two configuration files are given, {given.target} and {given.config}: remove one")
    return load(given.target, given)


def before_deployment(
    add_own: Callable[[argparse.ArgumentParser], None],
) -> Callable[[argparse.ArgumentParser], None]:
    """A command's own flags, and those of the deployment that it needs."""

    def add_both(parser: argparse.ArgumentParser) -> None:
        add_own(parser)
        add_deployment(parser)

    return add_both


CHAT_OPTIONS = {  # fields of SamplingParams and of OpenAI's chat request alike
    "max_tokens": (int, "N", "longest answer in tokens (default: what the context has room for)"),
    "temperature": (float, "T", "0 is greedy"),
    "top_p": (float, "P", "draw from the likeliest tokens of this probability"),
    "top_k": (int, "K", "draw from this many likeliest tokens"),
    "seed": (int, "N", "the same seed gives the same answers"),
}


def add_chat(parser: argparse.ArgumentParser) -> None:
    chat = parser.add_argument_group("chat")  # made first: so it comes first in --help
    add_deployment(parser)
    chat.add_argument("--url", help="talk to the server there, such as http://127.0.0.1:8000")
    chat.add_argument("--system", metavar="TEXT", help="a system message that opens the conversation")
    parser.conflict_handler = chat.conflict_handler = "resolve"  # one request's --seed, not the deployment's
    for name, (kind, metavar, about) in CHAT_OPTIONS.items():
        chat.add_argument(f"--{name.replace('_', '-')}", type=kind, metavar=metavar, help=about)


def add_batch(parser: argparse.ArgumentParser) -> None:
    batch = parser.add_argument_group("batch")
    batch.add_argument(
        "-i", "--input-file", metavar="IN.jsonl", required=True, help="requests, one a line; - is stdin"
    )
    batch.add_argument("-o", "--output-file", metavar="OUT.jsonl", required=True, help="answers; - is stdout")
    add_deployment(parser)


def add_forward(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "arguments", nargs=argparse.REMAINDER, metavar="...", help="those of `python -m bench.forward`"
    )


# ---- commands ---------------------------------------------------------------------------------


def on_deployment(
    run: Callable[[argparse.Namespace, DeploymentConfig], int],
) -> Callable[[argparse.Namespace], int]:
    return lambda given: run(given, deployment(given))


def run_serve(given: argparse.Namespace) -> int:
    from gllm.launch import serve

    return serve(deployment(given))


def run_chat(given: argparse.Namespace) -> int:
    from gllm import chat

    options = {name: value for name in CHAT_OPTIONS if (value := getattr(given, name)) is not None}
    if given.url is None:
        from gllm.llm import LLM

        SamplingParams(**options)  # a mistake is named before anything starts
        with LLM(config=deployment(given)) as llm:
            params = replace(llm.get_default_sampling_params(), **{"max_tokens": None, **options})
            chat.converse(chat.offline_speaker(llm, params), given.system)
        return 0
    model = model_at_server(given)
    try:
        with chat.connect(given.url) as client:
            speak = chat.server_speaker(client, model or chat.first_model(client), options)
            chat.converse(speak, given.system)
    except chat.ChatError as error:
        return complain(error, EXIT_FAILED)
    return 0


def model_at_server(given: argparse.Namespace) -> str | None:
    """The name that `chat --url` asks for; raises ConfigError for what would have no effect there."""
    flags = dict(getattr(given, "config_flags", {}))
    model: str | None = flags.pop("--served-model-name", None)
    for idle in (given.target, given.config, *flags):
        if idle is not None:
            raise ConfigError(f"--url talks to a server that runs already: remove {idle}, or --url")
    return model


def run_batch(given: argparse.Namespace) -> int:
    from gllm.batch import run

    return run(deployment(given), given.input_file, given.output_file)


def run_inspect(given: argparse.Namespace) -> int:
    from gllm.inspect_model import inspect

    return inspect(deployment(given))


def run_forward(given: argparse.Namespace) -> int:
    """In a process of its own: it loads torch and measures, which nothing else of this one should."""
    import os
    import subprocess

    checkout = Path(gllm.__file__).resolve().parent.parent
    if not (checkout / "bench" / "forward.py").exists():
        return complain("gllm bench forward is part of a checkout of gLLM, not of a wheel", EXIT_FAILED)
    path = os.pathsep.join(filter(None, [str(checkout), os.environ.get("PYTHONPATH")]))
    command = [sys.executable, "-m", "bench.forward", *given.arguments]
    return subprocess.call(command, env={**os.environ, "PYTHONPATH": path})


def run_config_show(given: argparse.Namespace) -> int:
    print(show(deployment(given)))
    return 0


COMMANDS = (
    Command(("serve",), "serve a model over HTTP, in OpenAI's form", add_deployment, run_serve),
    Command(("chat",), "chat with a model on the terminal", add_chat, run_chat),
    Command(("batch",), "answer a file of requests in OpenAI's batch form", add_batch, run_batch),
    Command(("inspect",), "say what a model directory holds, what it needs, and whether it runs here",
            add_deployment, run_inspect),
    Command(("config", "show"), "print the configuration in force, and where each value is from",
            add_deployment, run_config_show),
    Command(("replay",), REPLAY_HELP, add_replay, replay),
    Command(("simulate",), SIMULATE_HELP, add_simulate, simulate),
    Command(("bench", "serve"), "put load on a running server and measure it", bench.add_serve, bench.serve),
    Command(("bench", "throughput"), "measure the offline throughput of an engine",
            before_deployment(bench.add_throughput), on_deployment(bench.throughput)),
    Command(("bench", "latency"), "measure the time that one batch takes",
            before_deployment(bench.add_latency), on_deployment(bench.latency)),
    Command(("bench", "figures"), "draw saved results, as SVG and PNG", bench.add_figures, bench.figures),
    Command(("bench", "forward"), "measure the worker's steps and fit what gllm simulate computes with",
            add_forward, run_forward),
)  # fmt: skip
