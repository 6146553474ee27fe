"""The documents against the code: what they name is there, and the command lines they show are understood."""

import argparse
import importlib.util
import re
import shlex
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from gllm import meters
from gllm.cli import COMMANDS, make_parser
from gllm.config.schema import SECTIONS
from gllm.frontend.metrics import OF_STATS, PASSED_OVER
from gllm.protocol.messages import message

ROOT = Path(__file__).resolve().parent.parent
DOCS = ["README.md", "bench/README.md", "bench/NOTES.md", "bench/peers/README.md"]
DOCS += sorted(str(path.relative_to(ROOT)) for path in (ROOT / "docs").glob("*.md"))
FOREIGN_FLAGS = {"mypy": {"--strict"}}
PROSE = "README.md", "docs/design.md"


def text_of(document: str) -> str:
    return (ROOT / document).read_text()


def spans(document: str) -> list[str]:
    """What stands in backquotes, outside of fenced blocks."""
    return re.findall(r"`([^`\n]+)`", re.sub(r"^```.*?^```$", "", text_of(document), flags=re.M | re.S))


def fenced_lines(document: str) -> list[str]:
    blocks = re.findall(r"^```\w*\n(.*?)^```$", text_of(document), flags=re.M | re.S)
    return [line for block in blocks for line in block.splitlines()]


@cache
def files() -> list[str]:
    """Of the repository, without hidden ones and what Python leaves behind."""
    tops = [top for top in ROOT.iterdir() if not top.name.startswith(".")]
    found = [path for top in tops for path in (top, *top.rglob("*")) if path.is_file()]
    return [str(path.relative_to(ROOT)) for path in found if path.suffix != ".pyc"]


@cache
def ends_of_paths() -> frozenset[str]:
    """Every file and folder, by each of the ways in which a document may shorten its path."""
    names = set()
    for path in files():
        parts = path.split("/")
        for end in range(1, len(parts) + 1):
            names |= {"/".join(parts[start:end]) for start in range(end)}
    return frozenset(names)


def flags_of(parser: argparse.ArgumentParser) -> Iterator[str]:
    for action in parser._actions:
        yield from action.option_strings
        if isinstance(action, argparse._SubParsersAction):
            for inner in action.choices.values():
                yield from flags_of(inner)


@cache
def flags() -> frozenset[str]:
    """Those of `gllm`, and those that scripts beside the package name in their sources."""
    scripts = [
        path
        for path in files()
        if path.startswith(("bench/", "demo/", "examples/")) and path.endswith((".py", ".sh"))
    ]
    named = {flag for path in scripts for flag in re.findall(r"--[a-z][a-z0-9-]*", text_of(path))}
    return frozenset(flags_of(make_parser())) | named


@pytest.mark.parametrize("document", DOCS)
def test_every_link_leads_to_a_file(document: str) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", text_of(document)):
        if not target.startswith(("https://", "http://")):
            assert ((ROOT / document).parent / target.partition("#")[0]).exists(), target


@pytest.mark.parametrize("document", DOCS)
def test_every_file_and_folder_that_is_named_exists(document: str) -> None:
    tops = {path.partition("/")[0] for path in files() if "/" in path}
    for word in (word for span in spans(document) for word in span.split()):
        is_source = re.fullmatch(r"[\w./-]+\.(py|c|h|md|sh|ya?ml|toml)", word)
        is_place = re.fullmatch(r"[\w.-]+(/[\w.-]+)+/?", word) and word.partition("/")[0] in tops
        if is_source or is_place:
            assert word.rstrip("/") in ends_of_paths(), word


@pytest.mark.parametrize("document", DOCS)
def test_every_flag_that_is_named_exists(document: str) -> None:
    for line in fenced_lines(document) + spans(document):
        foreign = {flag for program, own in FOREIGN_FLAGS.items() if program in line for flag in own}
        if braces := re.search(r"\{([\w,]+)\}", line):  # as a shell would write several at once
            line = " ".join(line.replace(braces[0], word) for word in braces[1].split(","))
        for flag in re.findall(r"(?<![\w-])--[a-z][a-z0-9-]*", line):
            assert flag in flags() | foreign, f"{flag} in {line}"


@pytest.mark.parametrize("document", DOCS)
def test_every_command_line_of_a_block_is_understood(
    document: str, capsys: pytest.CaptureFixture[str]
) -> None:
    for line in fenced_lines(document):
        if match := re.match(r"(?:\.venv/bin/)?gllm (.*)", line):
            try:
                make_parser().parse_args(shlex.split(match[1], comments=True))
            except SystemExit as ending:  # 0: --help
                if ending.code:
                    pytest.fail(f"{line}: {capsys.readouterr().err}")


@pytest.mark.parametrize("document", DOCS)
def test_every_command_that_is_named_exists(document: str) -> None:
    for line in fenced_lines(document) + spans(document):
        if match := re.match(r"gllm ([a-z]+)(?: ([a-z]+))?", line):
            groups = [command.words for command in COMMANDS if command.words[0] == match[1]]
            assert (match[1],) in groups or match[2] in (None, *(words[-1] for words in groups)), line
            assert groups, line
        if match := re.search(r"python3? -m (\w+(?:\.\w+)*)", line):
            assert importlib.util.find_spec(match[1]), line
        if match := re.match(r"make (\w+)", line):
            assert re.search(rf"^{match[1]}:", text_of("Makefile"), re.M), line


@pytest.mark.parametrize("document", DOCS)
def test_every_key_of_the_configuration_that_is_named_exists(document: str) -> None:
    for span in spans(document):
        if (match := re.fullmatch(r"(\w+)\.(\w+)", span)) and match[1] in SECTIONS:
            assert match[2] in SECTIONS[match[1]].model_fields, span


@pytest.mark.parametrize("document", DOCS)
def test_every_route_that_is_named_is_served(document: str) -> None:
    sources = [path for path in files() if path.startswith("gllm/frontend/")]
    served = set(re.findall(r'path="(/[^"]+)"', "".join(map(text_of, sources))))
    for span in spans(document):
        if match := re.fullmatch(r"(?:GET |POST )?(/[\w/{}]+)(?:\?.*)?", span):
            assert match[1] in served, span


def test_every_metric_of_the_table_is_measured() -> None:
    counts = {name for name, meter in meters.CATALOGUE.items() if not meter.bounds} | {PASSED_OVER}
    counts |= {figure.name for figure in OF_STATS if figure.is_count}
    others = (meters.CATALOGUE.keys() | {figure.name for figure in OF_STATS}) - counts
    section = text_of("docs/operating.md").partition("| metric | is |")[2]
    named = re.findall(r"`(\w+)(?:\{[\w,]+\})?`", "".join(re.findall(r"^\|([^|]*)\|", section, re.M)))
    assert len(named) >= 8
    assert set(named) <= {f"{name}_total" for name in counts} | others


def test_the_design_tells_of_every_message_and_the_map_of_every_room() -> None:
    design, both = text_of("docs/design.md"), "".join(map(text_of, PROSE))
    assert not [
        cls.__name__ for cls in message.by_tag.values() if not re.search(rf"\b{cls.__name__}\b", design)
    ]
    rooms = [path.parent.name for path in (ROOT / "gllm").glob("*/__init__.py")]
    assert not [room for room in rooms if not re.search(rf"gllm[/.]{room}\b", both)]
