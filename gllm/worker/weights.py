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
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import NoReturn

import torch
from torch import Tensor
from tqdm import tqdm

from gllm.checkpoint import Checkpoint, CheckpointError, TensorEntry, some
from gllm.worker.quantization import LARGEST, quantize_rows, scale_name
from gllm.worker.staging import Staging

log = logging.getLogger("gllm")

DTYPES = {"F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16}
# Buffers that old checkpoints carry though they follow from the configuration.
DERIVED = (".inv_freq",)
RANDOM_BLOCK = (1 << 20) + 7
RANDOM_DEVIATION = 0.02
RANDOM_SCALE = 5 * RANDOM_DEVIATION / LARGEST  # of int8: five deviations fit
OF_VECTORS = {"bias": 0.0, "scale": RANDOM_SCALE}  # the others are norms

Shapes = dict[str, tuple[int, ...]]


@dataclass(frozen=True, slots=True)
class TensorNames:
    """How a family names its modules in a checkpoint; `.weight` and `.bias` follow each name.

    layer: name behind `layer_prefix` -> parameter of the layer, and which part of its rows ("": all).
    expert: the same behind `layer_prefix` and `expert_prefix`; the part is one of the expert's own.
    """

    outer: dict[str, str]
    layer_prefix: str  # with {} for the number of the layer
    layer: dict[str, tuple[str, str]]
    expert_prefix: str = ""  # with {} for the number of the expert
    expert: dict[str, tuple[str, str]] = field(default_factory=dict)

    def extended(
        self,
        layer: dict[str, tuple[str, str]],
        without: tuple[str, ...] = (),
        *,
        expert_prefix: str = "",
        expert: dict[str, tuple[str, str]] | None = None,
    ) -> "TensorNames":
        """The table of a family that differs in these lines."""
        kept = {name: place for name, place in self.layer.items() if name not in without}
        return TensorNames(self.outer, self.layer_prefix, kept | layer, expert_prefix, expert or {})

    def output_names(self) -> tuple[str, ...]:
        """Tensors that a checkpoint may hold in vain, where the embedding serves as output matrix."""
        return tuple(f"{name}.weight" for name, module in self.outer.items() if module == "lm_head")


@dataclass(frozen=True, slots=True)
class Place:
    """A tensor belongs into rows [start, end) of `parameter`."""

    parameter: str
    start: int
    end: int


def place_tensors(
    names: TensorNames, num_layers: int, shapes: Shapes, row_ranges: dict[str, tuple[int, int]]
) -> dict[str, Place]:
    """The place of every tensor that parameters of these shapes need, by its name in the checkpoint."""
    modules = {name: (module, "") for name, module in names.outer.items()}
    num_experts = sum(part.endswith(".down") for part in row_ranges)
    for n in range(num_layers):
        prefix = names.layer_prefix.format(n)
        for name, (module, part) in names.layer.items():
            modules[prefix + name] = (f"layers.{n}.{module}", part)
        for e in range(num_experts):
            for name, (module, part) in names.expert.items():
                modules[prefix + names.expert_prefix.format(e) + name] = (
                    f"layers.{n}.{module}",
                    f"{e}.{part}",
                )
    places = {}
    for name, (module, part) in modules.items():
        for kind in ("weight", "bias"):
            parameter = f"{module}.{kind}"
            if parameter in shapes:
                start, end = row_ranges[part] if part else (0, shapes[parameter][0])
                places[f"{name}.{kind}"] = Place(parameter, start, end)
    return places


def check_tensors(
    checkpoint: Checkpoint, places: dict[str, Place], shapes: Shapes, spare: tuple[str, ...] = ()
) -> None:
    """Raise `CheckpointError`, before anything is read or allocated, if a tensor is missing, unexpected, of
    another shape than its place, or not of floating point numbers that can be loaded.

    spare: tensors that the checkpoint may hold though they have no place.
    """
    missing = [name for name in places if name not in checkpoint.tensors]
    if missing:
        raise CheckpointError(
            f"{checkpoint.path} lacks {len(missing)} tensors that a {checkpoint.architecture} needs "
            f"({some(missing)}): fetch the whole checkpoint"
        )
    unexpected = [
        name
        for name in checkpoint.tensors
        if name not in places and name not in spare and not name.endswith(DERIVED)
    ]
    if unexpected:
        raise CheckpointError(
            f"{checkpoint.path} holds {len(unexpected)} tensors that a {checkpoint.architecture} of this "
            f"config.json has no place for ({some(unexpected)}): weights and configuration are of "
            f"different models"
        )
    for name, place in places.items():
        entry, shape = checkpoint.tensors[name], (place.end - place.start, *shapes[place.parameter][1:])
        if entry.shape != shape:
            raise CheckpointError(
                f"tensor {name} has shape {list(entry.shape)}, but config.json makes it "
                f"{list(shape)}: weights and configuration are of different models"
            )
        if entry.dtype not in DTYPES:
            raise CheckpointError(
                f"tensor {name} is stored as {entry.dtype}, but only {', '.join(DTYPES)} can be loaded: give "
                f"the unquantised checkpoint"
            )


def stored_dtypes(checkpoint: Checkpoint, places: dict[str, Place]) -> dict[str, torch.dtype]:
    """The dtype of each parameter whose tensors are all stored in one."""
    found: defaultdict[str, set[str]] = defaultdict(set)
    for name, place in places.items():
        found[place.parameter].add(checkpoint.tensors[name].dtype)
    return {name: DTYPES[dtypes.pop()] for name, dtypes in found.items() if len(dtypes) == 1}


def allocate(shapes: Shapes, dtypes: dict[str, torch.dtype], device: torch.device) -> dict[str, Tensor]:
    """Parameters of these shapes, not yet filled."""
    return {name: torch.empty(shape, dtype=dtypes[name], device=device) for name, shape in shapes.items()}


def load_weights(
    checkpoint: Checkpoint,
    places: dict[str, Place],
    parameters: dict[str, Tensor],
    staging: Staging | None = None,
) -> None:
    """Fill `parameters`, converting to their dtype, from tensors that `check_tensors` has seen.

    A parameter with scales beside it is quantised tensor by tensor, and they are filled, too.
    staging: the way to another device than the host.
    """
    copy = Tensor.copy_ if staging is None else staging.copy
    by_file: defaultdict[Path, list[tuple[TensorEntry, Callable[[Tensor], object]]]] = defaultdict(list)
    for name, place in places.items():
        entry, rows = checkpoint.tensors[name], slice(place.start, place.end)
        target, scale = parameters[place.parameter][rows], parameters.get(scale_name(place.parameter))
        fill: Callable[[Tensor], object] = partial(copy, target)
        if scale is not None:
            fill = partial(quantize_rows, values=target, scale=scale[rows])
        by_file[entry.file].append((entry, fill))
    total = sum(entry.end - entry.start for entries in by_file.values() for entry, _ in entries)
    began = time.monotonic()
    quiet = not sys.stderr.isatty()
    with tqdm(total=total, unit="B", unit_scale=True, desc="weights", disable=quiet) as progress:
        for path, entries in sorted(by_file.items()):
            _load_file(path, sorted(entries, key=lambda pair: pair[0].start), progress)
    if staging is not None:
        staging.finish()
    seconds = time.monotonic() - began
    log.info(
        "loaded %d tensors, %.2f GB, in %.1f s (%.2f GB/s)",
        len(places), total / 1e9, seconds, total / 1e9 / max(seconds, 1e-9),
    )  # fmt: skip


def _load_file(
    path: Path,
    entries: list[tuple[TensorEntry, Callable[[Tensor], object]]],
    progress: "tqdm[NoReturn]",
) -> None:
    """Give each tensor of one file to what fills its place, in the order in which they lie there."""
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY) as mapped:
        for entry, fill in entries:
            fill(_view(mapped, entry))
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


def fill_random(parameters: dict[str, Tensor]) -> None:
    """Random weights at the speed of memory, for benchmarks: the text is noise, the work that of real ones.

    One block of random numbers is repeated; its length is odd, so that no two rows of a matrix are alike.
    """
    block = torch.randn(RANDOM_BLOCK, generator=torch.Generator().manual_seed(0)) * RANDOM_DEVIATION
    ready = block.to(next(iter(parameters.values())))  # the dtype and the device of all but int8
    integers = (block / RANDOM_SCALE).round().clamp(-LARGEST, LARGEST).to(torch.int8)
    for name, parameter in parameters.items():
        if parameter.ndim == 1:
            parameter.fill_(OF_VECTORS.get(name.rpartition(".")[2], 1.0))
            continue
        flat, repeated = parameter.view(-1), integers if parameter.dtype == torch.int8 else ready
        for start in range(0, len(flat), RANDOM_BLOCK):
            flat[start : start + RANDOM_BLOCK] = repeated[: len(flat) - start]
    log.info("made random weights: what this model says means nothing")
