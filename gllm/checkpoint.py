"""What a model directory in Hugging Face layout says of itself: its configuration and where its tensors lie.

Reads JSON and the headers of safetensors files with the standard library alone, so that processes
without torch can use it. Knows nothing of model families, nor of what a tensor means; never reads
a weight.
"""

import json
import math
import os
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

INDEX_FILE = "model.safetensors.index.json"
SINGLE_FILE = "model.safetensors"
MAX_HEADER_BYTES = 100_000_000  # the bound of the safetensors library
MAX_INT = 2**31 - 1

# Bits an element, of every dtype that the format knows; those that a worker cannot load it refuses by name.
DTYPE_BITS = {
    "BOOL": 8, "U8": 8, "I8": 8, "U16": 16, "I16": 16, "U32": 32, "I32": 32, "U64": 64, "I64": 64,
    "F16": 16, "BF16": 16, "F32": 32, "F64": 64, "C64": 64,
    "F8_E4M3": 8, "F8_E5M2": 8, "F8_E8M0": 8, "F8_E4M3FNUZ": 8, "F8_E5M2FNUZ": 8,
    "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6,
}  # fmt: skip


class CheckpointError(ValueError):
    """The model directory cannot be used; the message is one sentence that says how to mend it."""


@dataclass(frozen=True, slots=True)
class TensorEntry:
    """Where one tensor lies: bytes [start, end) of `file`, row-major, little-endian."""

    file: Path
    dtype: str
    shape: tuple[int, ...]
    start: int
    end: int


@dataclass(frozen=True)
class Checkpoint:
    """A model directory whose files are all there and as long as their headers say."""

    path: Path
    config: dict[str, Any]
    generation_config: dict[str, Any]
    architecture: str
    max_model_len: int
    vocab_size: int
    eos_token_ids: tuple[int, ...]  # of config.json and of generation_config.json, without repeats
    tensors: dict[str, TensorEntry] = field(repr=False)


def open_checkpoint(path: str | Path, *, weights: bool = True) -> Checkpoint:
    """The checkpoint in the directory `path`; raises `CheckpointError` for whatever is wrong with it.

    weights: false for a directory that need not hold any, and whose tensors are not looked for.
    """
    root = Path(path)
    if not root.is_dir():
        raise CheckpointError(
            f"the model path {str(path)!r} is not a directory: give a local directory with config.json and "
            f"*.safetensors files (`hf download NAME --local-dir DIR` makes one)"
        )
    if not (root / "config.json").is_file():
        raise CheckpointError(
            f"{root} has no config.json: give the directory that holds a Hugging Face model"
        )
    config = _read_json(root / "config.json")
    generation_path = root / "generation_config.json"
    generation_config = _read_json(generation_path) if generation_path.is_file() else {}
    architectures = config.get("architectures")
    if not isinstance(architectures, list) or not architectures or not isinstance(architectures[0], str):
        raise CheckpointError(
            f"{root / 'config.json'} names no architecture: expected `architectures` with one class name"
        )
    if config.get("quantization_config") is not None:
        method = config["quantization_config"]
        method = method.get("quant_method", "unknown") if isinstance(method, dict) else method
        raise CheckpointError(
            f"the checkpoint is quantised (quantization_config, method {method!r}), but only float32, "
            f"bfloat16 and float16 weights can be loaded: give the unquantised checkpoint"
        )
    return Checkpoint(
        path=root,
        config=config,
        generation_config=generation_config,
        architecture=architectures[0],
        max_model_len=_max_model_len(config),
        vocab_size=read_int(config, "padded_vocab_size", "vocab_size"),
        eos_token_ids=tuple(dict.fromkeys(_eos_ids(config) + _eos_ids(generation_config))),
        tensors=_find_tensors(root) if weights else {},
    )


# ---- configuration ----------------------------------------------------------------------------


def read_int(config: dict[str, Any], *names: str, default: int | None = None, low: int = 1) -> int:
    """The integer under the first of `names` that `config` has (null counts as absent), at least `low`."""
    for name in names:
        value = config.get(name)
        if value is None:
            continue
        if type(value) is not int or not low <= value <= MAX_INT:
            raise CheckpointError(
                f"config.json: {name} is {value!r:.80}, expected an integer of [{low}, {MAX_INT}]"
            )
        return value
    if default is None:
        raise CheckpointError(f"config.json has no {names[-1]}: expected an integer of at least {low}")
    return default


def read_float(config: dict[str, Any], name: str, default: float | None = None) -> float:
    """The finite number above zero under `name`."""
    value = config.get(name)
    if value is None:
        if default is None:
            raise CheckpointError(f"config.json has no {name}: expected a number above 0")
        return default
    if type(value) not in (int, float) or not 0 < value < math.inf:
        raise CheckpointError(f"config.json: {name} is {value!r:.80}, expected a number above 0")
    return float(value)


def rope_block(config: dict[str, Any]) -> dict[str, Any]:
    """The rotary settings in one form: `rope_type`, `rope_theta` if given, and what the type needs.

    Older files say `rope_theta` beside `rope_scaling{rope_type or type, ...}`; transformers 5 puts
    all of it in `rope_parameters`.
    """
    block: dict[str, Any] = {}
    for name in ("rope_scaling", "rope_parameters"):
        given = config.get(name)
        if given is None:
            continue
        if not isinstance(given, dict):
            raise CheckpointError(f"config.json: {name} is {given!r:.80}, expected a table or null")
        block.update(given)
    block.setdefault("rope_type", block.pop("type", "default"))
    for name in ("rope_theta", "partial_rotary_factor"):
        if config.get(name) is not None:
            block.setdefault(name, config[name])
    return block


def _max_model_len(config: dict[str, Any]) -> int:
    length = read_int(config, "max_position_embeddings", "seq_length", "max_position_embeddings")
    rope = rope_block(config)
    # Files with linear, dynamic or yarn scaling state the length before scaling; llama3's the one after it.
    if rope["rope_type"] in ("linear", "dynamic"):
        return int(length * read_float(rope, "factor"))
    if rope["rope_type"] == "yarn":
        original = read_int(rope, "original_max_position_embeddings", default=length)
        return int(original * read_float(rope, "factor"))
    return length


def _eos_ids(config: dict[str, Any]) -> tuple[int, ...]:
    value = config.get("eos_token_id")
    ids = [] if value is None else value if isinstance(value, list) else [value]
    if not all(type(i) is int and 0 <= i <= MAX_INT for i in ids):
        raise CheckpointError(f"eos_token_id is {value!r:.80}, expected a token id or a list of them")
    return tuple(ids)


def _read_json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} is not JSON ({error}): fetch the file again") from error
    if not isinstance(value, dict):
        raise CheckpointError(f"{path} holds a JSON {type(value).__name__}, expected an object")
    return value


# ---- tensors ----------------------------------------------------------------------------------


def _find_tensors(root: Path) -> dict[str, TensorEntry]:
    if (root / INDEX_FILE).is_file():
        return _indexed_tensors(root)
    files = sorted(root.glob("*.safetensors"))
    if (root / SINGLE_FILE) in files:
        files = [root / SINGLE_FILE]
    if len(files) == 1:
        return read_header(files[0])
    if files:
        raise CheckpointError(
            f"{root} holds {len(files)} safetensors files but no {INDEX_FILE}, which says what belongs "
            f"where: fetch that file too"
        )
    others = sorted(p.name for ending in ("bin", "pt", "pth", "gguf") for p in root.glob(f"*.{ending}"))
    if others:
        raise CheckpointError(
            f"{root} holds its weights only as {others[0]}, but only safetensors are read (a pickle can run "
            f"code): convert it with transformers (`model.save_pretrained(DIR)` writes safetensors)"
        )
    raise CheckpointError(f"{root} holds no *.safetensors file: fetch the weights of the model too")


def _indexed_tensors(root: Path) -> dict[str, TensorEntry]:
    weight_map = _read_json(root / INDEX_FILE).get("weight_map")
    if not isinstance(weight_map, dict) or not all(isinstance(name, str) for name in weight_map.values()):
        raise CheckpointError(f"{root / INDEX_FILE} has no table `weight_map` of tensor name to file name")
    names = sorted(set(weight_map.values()))
    for name in names:
        if os.path.basename(name) != name or name in ("", ".", ".."):
            raise CheckpointError(f"{root / INDEX_FILE} names {name!r}, expected a file of its own directory")
    missing = [name for name in names if not (root / name).is_file()]
    if missing:
        raise CheckpointError(
            f"{len(missing)} of the {len(names)} shards that {root / INDEX_FILE} lists are missing "
            f"({some(missing)}): fetch them"
        )
    shards = {name: read_header(root / name) for name in names}
    absent = [f"{tensor} in {name}" for tensor, name in weight_map.items() if tensor not in shards[name]]
    if absent:
        raise CheckpointError(
            f"{root / INDEX_FILE} lists {len(absent)} tensors that its shards do not hold ({some(absent)}): "
            f"index and shards are of different checkpoints, fetch them again"
        )
    return {tensor: shards[name][tensor] for tensor, name in weight_map.items()}


def read_header(path: Path) -> dict[str, TensorEntry]:
    """The tensors of one safetensors file: 8 bytes of little-endian header length N, N bytes of JSON,
    then the tensors' bytes without gap or overlap. Source: the format section of the safetensors README."""
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or not 2 <= length <= MAX_HEADER_BYTES:
            raise CheckpointError(
                f"{path} is no safetensors file: its first 8 bytes give a header of {length} bytes"
            )
        header = file.read(length)
    if len(header) < length:
        raise CheckpointError(
            f"{path} is cut off: it has {size} bytes, but its header alone {8 + length}: fetch it again"
        )
    try:
        table = json.loads(header)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} has a header that is not JSON ({error}): fetch it again") from error
    if not isinstance(table, dict):
        raise CheckpointError(f"{path} has a header that is no table of tensors: fetch it again")
    table.pop("__metadata__", None)
    entries = {name: _read_entry(path, name, value, 8 + length) for name, value in table.items()}
    ordered = sorted(entries.values(), key=lambda entry: (entry.start, entry.end))
    end = ordered[-1].end if ordered else 8 + length
    if size < end:
        raise CheckpointError(
            f"{path} is cut off: it has {size} bytes of the {end} that its header says: fetch it again"
        )
    gap = any(before.end != after.start for before, after in pairwise(ordered))
    if gap or size > end or (ordered and ordered[0].start != 8 + length):
        raise CheckpointError(f"{path} does not hold its tensors one behind the other: fetch it again")
    return entries


def _read_entry(path: Path, name: str, value: Any, base: int) -> TensorEntry:
    """The entry `value` of a header whose data begin at byte `base` of the file."""
    try:
        dtype, shape, (start, end) = value["dtype"], value["shape"], value["data_offsets"]
        if not isinstance(shape, list) or not all(type(n) is int and n >= 0 for n in [*shape, start, end]):
            raise ValueError("shape and offsets must be whole numbers")
        if 8 * (end - start) != DTYPE_BITS[dtype] * math.prod(shape):
            raise ValueError("shape and offsets contradict each other")
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(
            f"{path}: the header's entry of tensor {name!r:.200} is {value!r:.200}, which cannot be right: "
            f"fetch the file again"
        ) from error
    return TensorEntry(path, dtype, tuple(shape), base + start, base + end)


def some(names: list[str], most: int = 5) -> str:
    """The first few of `names` for a sentence, and how many more there are."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
