"""The command `gllm simulate`: its flags, and what goes wrong as one sentence.

Imports what computes (numpy, the core) only when the command runs, so that other commands start fast.
"""

import argparse
import json
import math
import sys
from pathlib import Path

from gllm.config import ConfigError, FlagParser, add_flags

BUDGETS = "512,1024,2048,4096,8192,16384"


HELP = "run a trace through the scheduler and a cost model, to see latencies and capacity"


def add_simulate(parser: argparse.ArgumentParser) -> None:
    """The flags of the command, and those of the deployment that is simulated."""
    group = parser.add_argument_group("simulate")
    group.add_argument("--trace", metavar="FILE", required=True, help="requests: JSON lines, gzip'd or not")
    group.add_argument(
        "--cost",
        metavar="FILE",
        required=True,
        help="cost file, such as configs/costs/*.json or of bench.forward",
    )
    group.add_argument("--num-prompts", type=int, metavar="N", help="only the first N requests")
    group.add_argument(
        "--length-divisor", type=int, default=1, metavar="N", help="divide all lengths, for small models"
    )
    rate = group.add_mutually_exclusive_group()
    rate.add_argument(
        "--request-rate", type=positive, metavar="R", help="stretch time to R requests per second"
    )
    rate.add_argument("--rate-scale", type=positive, metavar="X", help="multiply the trace's own rate by X")
    group.add_argument(
        "--goodput", nargs="+", metavar="METRIC:MS", help="the SLO: ttft:200 tpot:50 e2el:3000, any of them"
    )
    group.add_argument(
        "--slo-share",
        type=share,
        default=0.9,
        metavar="SHARE",
        help="requests that must keep it (default 0.9)",
    )
    group.add_argument("--find-rate", action="store_true", help="the highest rate that keeps the SLO")
    group.add_argument(
        "--find-budget", nargs="?", type=whole_numbers, const=whole_numbers(BUDGETS), metavar="N,N,...",
        help=f"the best max_num_batched_tokens of these (default {BUDGETS}), at the rate found or given",
    )  # fmt: skip
    group.add_argument(
        "--rates",
        type=numbers,
        metavar="R,R,...|auto",
        help="one run for each rate; auto: around the highest one",
    )
    group.add_argument(
        "--plot", type=Path, metavar="FILE.png", help="draw the curve over --rates (default auto)"
    )
    group.add_argument("--json", action="store_true", help="print one JSON object instead of tables")
    parser.add_argument("target", nargs="?", metavar="FILE.yaml", help="deployment; without it the defaults")
    add_flags(parser)


def positive(text: str) -> float:
    value = float(text)
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"{text} is not above 0")
    return value


def share(text: str) -> float:
    value = positive(text)
    if value > 1:
        raise argparse.ArgumentTypeError(f"{text} is above 1")
    return value


def numbers(text: str) -> list[float]:
    """The rates of `--rates`; none for `auto`."""
    return [] if text == "auto" else sorted(positive(word) for word in text.split(","))


def whole_numbers(text: str) -> list[int]:
    return [int(positive(word)) for word in text.split(",")]


def simulate(given: argparse.Namespace) -> int:
    """Run the command; returns the exit code."""
    from gllm.simulate.answers import UsageError, answer, finite, shown
    from gllm.simulate.cost import CostError
    from gllm.simulate.plot import PlotError
    from gllm.simulate.report import SloError

    try:
        answers = answer(given)
    except (CostError, SloError, UsageError, PlotError, ConfigError) as error:
        print(f"gllm simulate: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"gllm simulate: {error.filename}: {error.strerror}", file=sys.stderr)
        return 1
    print(json.dumps(finite(answers)) if given.json else shown(answers, given))
    return 0


def main() -> int:
    parser = FlagParser(prog="gllm simulate", description=__doc__)
    add_simulate(parser)
    return simulate(parser.parse_args())


if __name__ == "__main__":
    raise SystemExit(main())
