"""Weights from safetensors files into preallocated parameters: mapped, converted, copied, nothing else kept.

Peak memory is the parameters and one tensor. Knows which tensor goes where only by the table it is
given; nothing of what a parameter is for.
"""

import logging
import math
import mmap
import sys
import time
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import torch
from torch import Tensor
from tqdm import tqdm

from gllm.checkpoint import Checkpoint, CheckpointError, TensorEntry, some

log = logging.getLogger("gllm")

DTYPES = {"F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16}
# Buffers that old checkpoints carry though they follow from the configuration.
DERIVED = (".inv_freq",)


@dataclass(frozen=True, slots=True)
class TensorNames:
    """How a family names its modules in a checkpoint; `.weight` and `.bias` follow each name.

    layer: name behind `layer_prefix` -> parameter of the layer, and which part of its rows ("": all).
    """

    outer: dict[str, str]
    layer_prefix: str  # with {} for the number of the layer
    layer: dict[str, tuple[str, str]]


@dataclass(frozen=True, slots=True)
class Place:
    """A tensor belongs into rows [start, end) of `parameter`."""

    parameter: str
    start: int
    end: int


def place_tensors(
    names: TensorNames,
    num_layers: int,
    shapes: dict[str, tuple[int, ...]],
    row_ranges: dict[str, tuple[int, int]],
) -> dict[str, Place]:
    """The place of every tensor that parameters of these shapes need, by its name in the checkpoint."""
    modules = {name: (module, "") for name, module in names.outer.items()}
    for n in range(num_layers):
        for name, (module, part) in names.layer.items():
            modules[names.layer_prefix.format(n) + name] = (f"layers.{n}.{module}", part)
    places = {}
    for name, (module, part) in modules.items():
        for kind in ("weight", "bias"):
            parameter = f"{module}.{kind}"
            if parameter in shapes:
                start, end = row_ranges[part] if part else (0, shapes[parameter][0])
                places[f"{name}.{kind}"] = Place(parameter, start, end)
    return places


def allocate(
    shapes: dict[str, tuple[int, ...]], dtype: torch.dtype, device: torch.device
) -> dict[str, Tensor]:
    """Parameters of these shapes, not yet filled."""
    return {name: torch.empty(shape, dtype=dtype, device=device) for name, shape in shapes.items()}


def load_weights(
    checkpoint: Checkpoint, places: dict[str, Place], parameters: dict[str, Tensor], tied: bool
) -> None:
    """Fill `parameters`, converting to their dtype; raises `CheckpointError` before anything is read if a
    tensor is missing, unexpected, of another shape, or of a dtype that is not a floating point number's.

    tied: the checkpoint may hold the output matrix although the embedding serves as it.
    """
    _check_names(checkpoint, places, tied)
    by_file: defaultdict[Path, list[tuple[TensorEntry, Tensor]]] = defaultdict(list)
    for name, place in places.items():
        entry, target = checkpoint.tensors[name], parameters[place.parameter][place.start : place.end]
        if entry.shape != tuple(target.shape):
            raise CheckpointError(
                f"tensor {name} has shape {list(entry.shape)}, but config.json makes it "
                f"{list(target.shape)}: weights and configuration are of different models"
            )
        if entry.dtype not in DTYPES:
            raise CheckpointError(
                f"tensor {name} is stored as {entry.dtype}, but only {', '.join(DTYPES)} can be loaded: give "
                f"the unquantised checkpoint"
            )
        by_file[entry.file].append((entry, target))
    total = sum(entry.end - entry.start for entries in by_file.values() for entry, _ in entries)
    began = time.monotonic()
    quiet = not sys.stderr.isatty()
    with tqdm(total=total, unit="B", unit_scale=True, desc="weights", disable=quiet) as progress:
        for path, entries in sorted(by_file.items()):
            _load_file(path, sorted(entries, key=lambda pair: pair[0].start), progress)
    seconds = time.monotonic() - began
    log.info(
        "loaded %d tensors, %.2f GB, in %.1f s (%.2f GB/s)",
        len(places), total / 1e9, seconds, total / 1e9 / max(seconds, 1e-9),
    )  # fmt: skip


def _load_file(path: Path, entries: list[tuple[TensorEntry, Tensor]], progress: "tqdm[NoReturn]") -> None:
    """Copy the tensors of one file in the order in which they lie there."""
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY) as mapped:
        for entry, target in entries:
            target.copy_(_view(mapped, entry))
            # The pages stay in the system's cache, but count no longer as this process's memory.
            page = entry.start - entry.start % mmap.PAGESIZE
            mapped.madvise(mmap.MADV_DONTNEED, page, entry.end - page)
            progress.update(entry.end - entry.start)


def _view(mapped: mmap.mmap, entry: TensorEntry) -> Tensor:
    """The mapped bytes as a tensor; hazard: it must be gone before `mapped` can be closed."""
    dtype = DTYPES[entry.dtype]
    if entry.start % dtype.itemsize:  # allowed by the format, not by torch
        return torch.frombuffer(bytearray(mapped[entry.start : entry.end]), dtype=dtype).view(entry.shape)
    view = torch.frombuffer(mapped, dtype=dtype, count=math.prod(entry.shape), offset=entry.start)
    return view.view(entry.shape)


def _check_names(checkpoint: Checkpoint, places: dict[str, Place], tied: bool) -> None:
    missing = [name for name in places if name not in checkpoint.tensors]
    if missing:
        raise CheckpointError(
            f"{checkpoint.path} lacks {len(missing)} tensors that a {checkpoint.architecture} needs "
            f"({some(missing)}): fetch the whole checkpoint"
        )
    unexpected = [
        name
        for name in checkpoint.tensors
        if name not in places and not name.endswith(DERIVED) and not (tied and name == "lm_head.weight")
    ]
    if unexpected:
        raise CheckpointError(
            f"{checkpoint.path} holds {len(unexpected)} tensors that a {checkpoint.architecture} of this "
            f"config.json has no place for ({some(unexpected)}): weights and configuration are of "
            f"different models"
        )
