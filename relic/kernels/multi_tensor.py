"""LARS and the target's moving average over all parameters in a few launches, whatever their number.

A launch has one program per chunk of CHUNK elements. Tables on the device say which tensor a chunk belongs to, where
it starts, and at which address each tensor lies; they are made again only where an address changed. Per-step settings
are read through pointers, so that a captured CUDA graph follows them. Arithmetic is float32.

Bytes per float32 parameter: 8 for the norms (w, g), 20 for the update (w, g, m read; w, m written), 12 for the moving
average; about 3, 6 and 3 operations. Memory alone bounds them: docs/kernels.md has the budget.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor

from pipelines.kernels.optional import jit, tl
from relic.kernels.layout import in_layout_of, is_dense

CHUNK = 8192
"""Elements per program: 4,400 programs for ResNet-50 with its heads, 3.3 waves of an H100's 132 × 10 blocks."""
BLOCK = 1024
"""Elements per turn of a program's loop: 8 per thread, two loads of 16 bytes in flight for each tensor."""
SUMS = 1024
"""Chunks that `ratios_kernel` adds up per turn."""
DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def fits(*lists: Sequence[Tensor]) -> bool:
    """Say whether the kernels take these lists: on one CUDA device, one dtype per list, each tensor without gaps."""
    device = lists[0][0].device
    return device.type == "cuda" and all(
        tensors[0].dtype in DTYPES
        and all(tensor.device == device and tensor.dtype == tensors[0].dtype and is_dense(tensor) for tensor in tensors)
        for tensors in lists
    )


def lars_(
    parameters: Sequence[Tensor],
    gradients: Sequence[Tensor],
    buffers: Sequence[Tensor],
    *,
    lr: float | Tensor,
    momentum: float,
    weight_decay: float,
    trust_coefficient: float,
    adapt: bool,
) -> None:
    """Change parameters and momentum buffers by one step of LARS; the settings are those of `relic.optim.Lars`.

    Equal to `relic.optim.reference.lars_` up to float32 rounding; where parameters are bf16 or fp16 it rounds once,
    the reference after each operation. The sums of the norms have a fixed order: the same bits at every run.

    Args:
        parameters, gradients, buffers: lists for which `fits` is true, of the same shapes; buffers in the memory
            layout of their parameters. A gradient of another layout is copied.
        lr: a 0-d float32 tensor on the device is read there; a float is sent there without waiting.
    """
    gradients = [in_layout_of(gradient, parameter) for gradient, parameter in zip(gradients, parameters, strict=True)]
    device = parameters[0].device
    w, g, m = _addresses(parameters), _addresses(gradients), _addresses(buffers)
    chunks, first_chunks = _chunks(parameters)
    kinds = {"PARAMETER": _kind(parameters), "GRADIENT": _kind(gradients)}
    blocks = {"BLOCK": BLOCK, "ALIGNED": _aligned(parameters, gradients, buffers)}
    ratios = torch.empty(len(parameters), dtype=torch.float32, device=device)
    with _launching_on(device):
        if adapt:
            squares = torch.empty(len(chunks), 2, dtype=torch.float32, device=device)
            norms_kernel[(len(chunks),)](w, g, chunks, squares, weight_decay, **kinds, **blocks)
            ratios_kernel[(len(parameters),)](squares, first_chunks, ratios, trust_coefficient, BLOCK=SUMS)
        update_kernel[(len(chunks),)](
            w, g, m, chunks, ratios, _scalar(lr, device), momentum, weight_decay,
            **kinds, BUFFER=_kind(buffers), ADAPT=adapt, **blocks,
        )  # fmt: skip


def lerp_(targets: Sequence[Tensor], online: Sequence[Tensor], weight: float | Tensor) -> None:
    """Move each target by `weight` times its difference to `online`, as `Tensor.lerp_` does.

    Args:
        targets, online: lists for which `fits` is true, of the same shapes; their dtypes may differ.
        weight: a 0-d float32 tensor on the device is read there; a float is sent there without waiting.
    """
    online = [in_layout_of(tensor, target) for tensor, target in zip(online, targets, strict=True)]
    device = targets[0].device
    chunks, _ = _chunks(targets)
    with _launching_on(device):
        lerp_kernel[(len(chunks),)](
            _addresses(targets), _addresses(online), chunks, _scalar(weight, device),
            TARGET=_kind(targets), ONLINE=_kind(online), BLOCK=BLOCK, ALIGNED=_aligned(targets, online),
        )  # fmt: skip


# -- tables -----------------------------------------------------------------------------------------------------------


def _addresses(tensors: Sequence[Tensor]) -> Tensor:
    """Return int64 [T] addresses on the tensors' device."""
    return _kept(_address_table(tuple(tensor.data_ptr() for tensor in tensors), tensors[0].device))


def _chunks(tensors: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Return int64 [C, 3] tensor, start and elements of all chunks, and int64 [T + 1] first chunk of each tensor."""
    chunks, first = _chunk_tables(tuple(tensor.numel() for tensor in tensors), tensors[0].device)
    return _kept(chunks), _kept(first)


@functools.lru_cache(maxsize=64)
def _address_table(addresses: tuple[int, ...], device: torch.device) -> Tensor:
    return _sent(torch.tensor(addresses), device)


@functools.lru_cache(maxsize=16)
def _chunk_tables(sizes: tuple[int, ...], device: torch.device) -> tuple[Tensor, Tensor]:
    chunks, first = [], [0]
    for tensor, size in enumerate(sizes):
        chunks += [(tensor, start, min(CHUNK, size - start)) for start in range(0, size, CHUNK)]
        first.append(len(chunks))
    return _sent(torch.tensor(chunks), device), _sent(torch.tensor(first), device)


def _sent(table: Tensor, device: torch.device) -> Tensor:
    """Send an int64 table to a device, from pinned memory, so that the host does not wait."""
    if device.type != "cuda":  # Triton's interpreter
        return table
    if torch.cuda.is_current_stream_capturing():
        raise RuntimeError(
            "parameters or gradients moved between the warm-up and the capture of a CUDA graph:"
            " keep gradients in place (zero_grad(set_to_none=False)) and do one step before the capture"
        )
    return table.pin_memory().to(device, non_blocking=True)


_captured: dict[int, Tensor] = {}
"""Tables that a CUDA graph reads: they must outlive the caches."""


def _kept(table: Tensor) -> Tensor:
    if table.is_cuda and torch.cuda.is_current_stream_capturing():
        _captured[table.data_ptr()] = table
    return table


def _scalar(value: float | Tensor, device: torch.device) -> Tensor:
    return value if isinstance(value, Tensor) else torch.full((), value, dtype=torch.float32, device=device)


def _aligned(*lists: Sequence[Tensor]) -> bool:
    """Say whether all addresses are multiples of 16, so that a thread may load 16 bytes at once."""
    return all(tensor.data_ptr() % 16 == 0 for tensors in lists for tensor in tensors)


def _kind(tensors: Sequence[Tensor]) -> object:
    return getattr(tl, str(tensors[0].dtype).removeprefix("torch."))


def _launching_on(device: torch.device) -> AbstractContextManager[object]:
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()


# -- kernels ----------------------------------------------------------------------------------------------------------
# Whole blocks are read and written without a mask: with one, the compiler moves single elements in place of 16 bytes.


@jit
def pointer_to(addresses, tensor, start, KIND: tl.constexpr):
    """Return the pointer to an element of a tensor."""
    return tl.load(addresses + tensor).to(tl.pointer_type(KIND)) + start


@jit
def block_at(pointer, offset, BLOCK: tl.constexpr, ALIGNED: tl.constexpr):
    """Return the pointers to a block of elements."""
    places = pointer + offset + tl.arange(0, BLOCK)
    return tl.multiple_of(places, 16) if ALIGNED else places


@jit
def loaded(places, mask, MASKED: tl.constexpr):
    """Return elements as float32, 0 outside of the mask."""
    return (tl.load(places, mask=mask, other=0.0) if MASKED else tl.load(places)).to(tl.float32)


@jit
def store(places, values, mask, MASKED: tl.constexpr):
    """Write float32 values in the type of the places."""
    values = values.to(places.dtype.element_ty)
    if MASKED:
        tl.store(places, values, mask=mask)
    else:
        tl.store(places, values)


@jit
def block_norms(w, g, offset, count, weight_decay, BLOCK: tl.constexpr, ALIGNED: tl.constexpr, MASKED: tl.constexpr):
    mask = offset + tl.arange(0, BLOCK) < count
    parameter = loaded(block_at(w, offset, BLOCK, ALIGNED), mask, MASKED)
    update = loaded(block_at(g, offset, BLOCK, ALIGNED), mask, MASKED) + weight_decay * parameter
    return parameter * parameter, update * update


@jit
def norms_kernel(
    parameters,  # [T] addresses
    gradients,  # [T] addresses
    chunks,  # [C, 3] tensor, start, elements
    squares,  # [C, 2] float32, written: sums of squares of w and of g + weight_decay * w
    weight_decay,
    PARAMETER: tl.constexpr,
    GRADIENT: tl.constexpr,
    BLOCK: tl.constexpr,
    ALIGNED: tl.constexpr,
):
    """Sum the squares of a chunk."""
    chunk = tl.program_id(0).to(tl.int64)
    tensor, start, count = tl.load(chunks + 3 * chunk), tl.load(chunks + 3 * chunk + 1), tl.load(chunks + 3 * chunk + 2)
    w, g = pointer_to(parameters, tensor, start, PARAMETER), pointer_to(gradients, tensor, start, GRADIENT)
    parameter_sum, update_sum = tl.zeros([BLOCK], tl.float32), tl.zeros([BLOCK], tl.float32)
    whole = count // BLOCK * BLOCK
    for offset in range(0, whole, BLOCK):
        parameter, update = block_norms(w, g, offset, count, weight_decay, BLOCK, ALIGNED, False)
        parameter_sum += parameter
        update_sum += update
    if whole < count:
        parameter, update = block_norms(w, g, whole, count, weight_decay, BLOCK, ALIGNED, True)
        parameter_sum += parameter
        update_sum += update
    tl.store(squares + 2 * chunk, tl.sum(parameter_sum))
    tl.store(squares + 2 * chunk + 1, tl.sum(update_sum))


@jit
def ratios_kernel(
    squares,  # [C, 2] float32, from norms_kernel
    first_chunks,  # [T + 1]
    ratios,  # [T] float32, written
    trust_coefficient,
    BLOCK: tl.constexpr,
):
    """Add up the chunks of a tensor, in an order that is always the same, and divide the norms."""
    tensor = tl.program_id(0)
    first, end = tl.load(first_chunks + tensor), tl.load(first_chunks + tensor + 1)
    parameter_sum, update_sum = tl.zeros([BLOCK], tl.float32), tl.zeros([BLOCK], tl.float32)
    for start in range(first, end, BLOCK):
        chunk = start + tl.arange(0, BLOCK)
        parameter_sum += tl.load(squares + 2 * chunk, mask=chunk < end, other=0.0)
        update_sum += tl.load(squares + 2 * chunk + 1, mask=chunk < end, other=0.0)
    parameter_norm, update_norm = tl.sqrt_rn(tl.sum(parameter_sum)), tl.sqrt_rn(tl.sum(update_sum))
    defined = (parameter_norm > 0) & (update_norm > 0)
    ratio = tl.div_rn(trust_coefficient * parameter_norm, tl.where(defined, update_norm, 1.0))
    tl.store(ratios + tensor, tl.where(defined, ratio, 1.0))


@jit
def block_update(
    w, g, m, offset, count, lr, ratio, momentum, weight_decay,
    BLOCK: tl.constexpr, ALIGNED: tl.constexpr, MASKED: tl.constexpr,
):  # fmt: skip
    mask = offset + tl.arange(0, BLOCK) < count
    w_places, m_places = block_at(w, offset, BLOCK, ALIGNED), block_at(m, offset, BLOCK, ALIGNED)
    parameter = loaded(w_places, mask, MASKED)
    update = (loaded(block_at(g, offset, BLOCK, ALIGNED), mask, MASKED) + weight_decay * parameter) * ratio
    buffer = momentum * loaded(m_places, mask, MASKED) + update
    store(m_places, buffer, mask, MASKED)
    store(w_places, parameter - lr * buffer, mask, MASKED)


@jit
def update_kernel(
    parameters,  # [T] addresses, changed
    gradients,  # [T] addresses
    buffers,  # [T] addresses, changed
    chunks,  # [C, 3] tensor, start, elements
    ratios,  # [T] float32, unused without ADAPT
    lr,  # [] float32
    momentum,
    weight_decay,
    PARAMETER: tl.constexpr,
    GRADIENT: tl.constexpr,
    BUFFER: tl.constexpr,
    ADAPT: tl.constexpr,
    BLOCK: tl.constexpr,
    ALIGNED: tl.constexpr,
):
    """Update the momentum and the parameters of a chunk."""
    chunk = tl.program_id(0).to(tl.int64)
    tensor, start, count = tl.load(chunks + 3 * chunk), tl.load(chunks + 3 * chunk + 1), tl.load(chunks + 3 * chunk + 2)
    w, g = pointer_to(parameters, tensor, start, PARAMETER), pointer_to(gradients, tensor, start, GRADIENT)
    m = pointer_to(buffers, tensor, start, BUFFER)
    rate = tl.load(lr).to(tl.float32)
    ratio = tl.load(ratios + tensor) if ADAPT else 1.0
    whole = count // BLOCK * BLOCK
    for offset in range(0, whole, BLOCK):
        block_update(w, g, m, offset, count, rate, ratio, momentum, weight_decay, BLOCK, ALIGNED, False)
    if whole < count:
        block_update(w, g, m, whole, count, rate, ratio, momentum, weight_decay, BLOCK, ALIGNED, True)


@jit
def block_lerp(t, o, offset, count, weight, BLOCK: tl.constexpr, ALIGNED: tl.constexpr, MASKED: tl.constexpr):
    mask = offset + tl.arange(0, BLOCK) < count
    places = block_at(t, offset, BLOCK, ALIGNED)
    target = loaded(places, mask, MASKED)
    online = loaded(block_at(o, offset, BLOCK, ALIGNED), mask, MASKED)
    difference = online - target
    # Both ends are exact: weight 0 gives the target, weight 1 the online parameter.
    near_target, near_online = target + weight * difference, online - difference * (1.0 - weight)
    store(places, tl.where(weight < 0.5, near_target, near_online), mask, MASKED)


@jit
def lerp_kernel(
    targets,  # [T] addresses, changed
    online,  # [T] addresses
    chunks,  # [C, 3] tensor, start, elements
    weight,  # [] float32
    TARGET: tl.constexpr,
    ONLINE: tl.constexpr,
    BLOCK: tl.constexpr,
    ALIGNED: tl.constexpr,
):
    """Move a chunk of the targets towards the online parameters."""
    chunk = tl.program_id(0).to(tl.int64)
    tensor, start, count = tl.load(chunks + 3 * chunk), tl.load(chunks + 3 * chunk + 1), tl.load(chunks + 3 * chunk + 2)
    t, o = pointer_to(targets, tensor, start, TARGET), pointer_to(online, tensor, start, ONLINE)
    share = tl.load(weight).to(tl.float32)
    whole = count // BLOCK * BLOCK
    for offset in range(0, whole, BLOCK):
        block_lerp(t, o, offset, count, share, BLOCK, ALIGNED, False)
    if whole < count:
        block_lerp(t, o, whole, count, share, BLOCK, ALIGNED, True)
