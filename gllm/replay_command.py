"""`gllm replay`: a recording of `gllm serve --record`, replayed, looked into, or tried under another setting.

Knows the command line and what to print. Importing it loads nothing of the scheduler.
"""

import argparse
import sys
import traceback
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gllm.config import ConfigError, load
from gllm.config.schema import options

if TYPE_CHECKING:
    from gllm.scheduler.recording import Part
    from gllm.scheduler.replay import Differs, Replay

EXIT_DIFFERS, EXIT_USAGE = 1, 2
HELP = "replay a recording of the scheduler, or try it under another setting"
ABOUT = """\
Runs the real scheduler on what `gllm serve --record FILE` wrote down: it must make the same plans,
byte for byte. FILE is the newest part; older ones (FILE.1, ...) of the same recording beside it are
replayed first. A recording contains the token ids of prompts and answers.

With any option of the setting, the same requests come at the same times to another setting; a model
fitted to the recorded steps stands for the worker, and a table shows what changes.

Exit code: 0 all plans are equal, 1 they differ, 2 the file or an option is wrong.
"""
SHORT_FLAGS = {"scheduler.policy": "--policy", "worker.num_pages": "--num-pages"}
SETTING = (
    "scheduler.policy",
    "scheduler.max_num_seqs",
    "scheduler.max_num_batched_tokens",
    "scheduler.micro_batches",
    "scheduler.prefix_cache",
    "scheduler.max_num_queued_reqs",
    "scheduler.max_num_queued_tokens",
    "scheduler.throttling_min_tokens",
    "scheduler.throttling_max_tokens",
    "scheduler.throttling_iterations",
    "scheduler.throttling_free_threshold",
    "worker.num_pages",
    "worker.page_size",
)


def add_replay(subparsers: Any) -> None:
    """The subcommand, with `replay` as what runs it."""
    parser = subparsers.add_parser(
        "replay", help=HELP, description=ABOUT, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_arguments(parser)
    parser.set_defaults(run=replay)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", type=Path, metavar="FILE", help="recording, or one part of it")
    parser.add_argument(
        "--until",
        type=int,
        metavar="STEP",
        help="print who ran and who waited when this step had been planned",
    )
    group = parser.add_argument_group("setting: what the recording is tried under")
    for key in SETTING:
        option, _ = options()[key]
        if not option.flags:  # the prefix cache has switches only
            (switch, *_), about = option.switches, option.help
            group.add_argument(switch, dest=key, action=argparse.BooleanOptionalAction, help=about)
            continue
        flags = [SHORT_FLAGS[key]] if key in SHORT_FLAGS else []
        metavar = "POLICY" if key == "scheduler.policy" else option.metavar
        group.add_argument(*flags, *option.flags, dest=key, metavar=metavar, help=option.help)


def replay(given: argparse.Namespace) -> int:
    """Run the command; returns the exit code."""
    from gllm.scheduler.recording import RecordingError, open_recording
    from gllm.scheduler.replay import Differs

    try:
        changes = _changes(given)
        if changes and given.until is not None:
            raise ConfigError(
                "--until shows the recording as it was: remove it, or the options of the setting"
            )
        parts = open_recording(given.file)
        if changes:
            return _try(parts, changes)
        if given.until is not None:
            return _show(parts, given.until)
        return _check(parts)
    except Differs as difference:
        _print_difference(difference)
        return EXIT_DIFFERS
    except (RecordingError, ConfigError) as error:
        print(f"gllm: {error}", file=sys.stderr)
    except OSError as error:
        print(f"gllm: {error.filename}: {error.strerror}", file=sys.stderr)
    return EXIT_USAGE


def _changes(given: argparse.Namespace) -> dict[str, object]:
    """The given options of the setting, checked, by key; raises ConfigError."""
    written: dict[str, object] = {}
    for key in SETTING:
        if (value := getattr(given, key)) is not None:
            option, _ = options()[key]
            written[(*option.flags, *option.switches)[0]] = value
    config = load(None, written, model_path="unused")
    return {
        key: getattr(getattr(config, section), name)
        for key in SETTING
        for section, _, name in [key.partition(".")]
        if config.sources[key] != "default"
    }


def _check(parts: "Sequence[Part]") -> int:
    from gllm.scheduler.replay import Replay

    run = Replay(parts)
    run.run()
    print(f"{run.num_events} events, {run.num_plans} plans, all plans are equal")
    _print_ending(run)
    return 0


def _show(parts: "Sequence[Part]", step: int) -> int:
    from gllm.scheduler.recording import RecordingError
    from gllm.scheduler.replay import Replay
    from gllm.scheduler.state_text import state_text

    run = Replay(parts)
    first = run.core.num_steps
    run.run(until=step if step >= first else None)
    if not first <= step < run.core.num_steps:
        sentence = f"the steps {first} to {run.core.num_steps - 1}" if run.num_plans else "no step"
        raise RecordingError(f"step {step} is not in the recording, which has {sentence}")
    since = run.now - parts[0].begin.now
    began = datetime.fromtimestamp(parts[0].begin.written_at, UTC)
    print(f"when step {step} had been planned, {since:.3f} s after {began:%Y-%m-%d %H:%M:%S} UTC\n")
    print(state_text(run.core, run.now, run.lack))
    return 0


def _try(parts: "Sequence[Part]", changes: dict[str, object]) -> int:
    from gllm.what_if.compare import compare
    from gllm.what_if.text import comparison_text

    print(comparison_text(compare(parts, changes)))
    return 0


def _print_ending(run: "Replay") -> None:
    """What the recording does not have, and how the recorded process ended if not in order."""
    first, last = run.parts[0].begin, run.parts[-1]
    if first.part:
        print(f"the recording begins with part {first.part}: older ones are not here")
    if run.error is not None:
        print("then the core ends as the recorded one did:")
        traceback.print_exception(run.error, file=sys.stdout)
    elif run.end is not None and run.end.sentence:
        print(f"then the recorded process ended: {run.end.sentence}")
    elif last.is_cut_off:
        print(f"the last frame of {last.path} is not whole: the recorded process ended while it was written")
    elif run.end is None:
        print("no end is recorded: the process was killed, or recorded on in a newer part")


def _print_difference(difference: "Differs") -> None:
    from gllm.scheduler.state_text import differing, plan_text

    print(f"step {difference.step}: {difference}")
    if difference.recorded is not None or difference.replayed is not None:
        if names := differing(difference.recorded, difference.replayed):
            print(f"in {', '.join(names)}")
        print(f"recorded\n{plan_text(difference.recorded)}")
        print(f"replayed\n{plan_text(difference.replayed)}")
    if difference.__cause__ is not None:
        traceback.print_exception(difference.__cause__, file=sys.stdout)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="gllm replay", description=ABOUT, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_arguments(parser)
    return replay(parser.parse_args(argv))


if __name__ == "__main__":
    sys.exit(main())
