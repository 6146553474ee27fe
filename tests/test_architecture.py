"""Who may import whom, read from the sources; and what is loaded, seen in real children."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "gllm"

# room -> what of gllm it may import, and what it must never import. "*" allows all of gllm.
ROOMS: dict[str, tuple[set[str], set[str]]] = {
    "protocol": ({"protocol"}, {"torch", "numpy"}),
    "kernels": ({"kernels"}, {"zmq", "msgpack", "pydantic"}),
    "config": ({"config"}, {"torch", "zmq", "msgpack"}),
    "checkpoint": (set(), {"torch", "safetensors", "transformers"}),
    "process": ({"config", "protocol"}, {"torch"}),
    "timeline": (set(), {"torch", "numpy", "zmq"}),
    "meters": ({"protocol"}, {"torch", "zmq", "prometheus_client"}),
    "scheduler": ({"scheduler", "protocol", "config", "process", "timeline", "meters"}, {"torch", "numpy"}),
    "frontend": (
        {"frontend", "protocol", "config", "process", "checkpoint", "timeline", "meters"},
        {"torch", "transformers", "numpy"},
    ),
    "worker": (
        {"worker", "protocol", "config", "process", "checkpoint", "kernels", "timeline"},
        {"starlette", "uvicorn", "tokenizers", "jinja2"},
    ),
    "traces": ({"config"}, {"torch", "numpy", "zmq"}),
    "steps": ({"steps"}, {"torch", "zmq"}),
    "simulate": (
        {"simulate", "steps", "traces", "scheduler", "protocol", "config"},
        {"torch", "zmq", "transformers"},
    ),
    "what_if": ({"what_if", "steps", "scheduler", "protocol", "config"}, {"torch", "zmq"}),
    "offline": (
        {"checkpoint", "config", "frontend", "launch", "process", "protocol", "timeline"},
        {"torch", "numpy", "transformers"},
    ),
    "bench": (
        {"bench", "config", "chat", "process", "frontend", "llm", "timeline", "traces"},
        {"torch", "transformers", "zmq"},
    ),
    "launch": ({"launch", "config", "process", "protocol", "timeline"}, {"torch"}),
}
# What only a user calls: it may import all of gllm, and no room imports it unless its row says so.
SURFACE = {
    "__main__",
    "batch",
    "chat",
    "cli",
    "entrypoints",
    "inspect_model",
    "llm",
    "outputs",
    "replay_command",
}
EXECUTES_DATA = {"pickle", "marshal", "shelve", "dill", "cloudpickle"}


def imports_of(path: Path) -> set[str]:
    """Dotted names that a file imports, inside functions, too."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative imports hide who imports whom"
            names.add(node.module or "")
            if node.module == "gllm":
                names |= {f"gllm.{alias.name}" for alias in node.names}
    return names


def files_of(room: str) -> list[Path]:
    if (PACKAGE / f"{room}.py").exists():
        return [PACKAGE / f"{room}.py"]
    return sorted((PACKAGE / room).rglob("*.py"))


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_imports_only_what_the_plan_allows(room: str) -> None:
    allowed, never = ROOMS[room]
    files = files_of(room)
    assert files
    for path in files:
        for name in imports_of(path):
            top, _, rest = name.partition(".")
            assert top not in never, f"{path} imports {name}"
            if top == "gllm" and rest:
                assert rest.split(".")[0] in allowed, f"{path} imports {name}"


def test_every_room_has_its_row() -> None:
    rooms = {
        path.stem for path in PACKAGE.iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()
    }
    assert rooms - {"__init__"} == ROOMS.keys() | SURFACE


def test_only_channel_knows_sockets_in_protocol() -> None:
    for path in files_of("protocol"):
        if path.name != "channel.py":
            assert not {name for name in imports_of(path) if name.split(".")[0] == "zmq"}, path


def test_nothing_in_the_package_can_execute_data() -> None:
    for path in sorted(PACKAGE.rglob("*.py")):
        assert not {name.split(".")[0] for name in imports_of(path)} & EXECUTES_DATA, path
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call):
                called = ast.unparse(node.func)
                assert called not in ("eval", "exec", "compile", "torch.load", "__import__"), path
                assert not called.endswith(("recv_pyobj", "send_pyobj")), path


def loaded_by(statement: str) -> set[str]:
    """Top-level modules in a fresh interpreter after `statement`."""
    code = f"{statement}\nimport sys\nprint(*sorted({{name.split('.')[0] for name in sys.modules}}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    return set(done.stdout.split())


@pytest.mark.parametrize(
    ("statement", "never"),
    [
        ("import gllm", {"torch", "zmq", "pydantic", "tokenizers"}),
        ("from gllm import LLM, SamplingParams", {"torch", "transformers", "uvicorn"}),
        ("import gllm.cli", {"torch", "zmq", "tokenizers", "numpy"}),
        ("import gllm.bench.serve, gllm.bench.engines", {"torch", "transformers", "vllm", "uvicorn"}),
        ("import gllm.launch", {"torch", "tokenizers", "starlette"}),
        ("import gllm.scheduler.main", {"torch", "numpy", "tokenizers", "starlette", "transformers"}),
        ("import gllm.frontend.main", {"torch", "transformers", "safetensors"}),
        ("import gllm.worker.main", {"torch", "tokenizers", "starlette", "uvicorn", "transformers"}),
    ],
)
def test_a_process_loads_only_what_it_needs(statement: str, never: set[str]) -> None:
    assert not loaded_by(statement) & never
