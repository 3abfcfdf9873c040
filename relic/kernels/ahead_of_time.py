"""Compile kernels for GPUs that this machine need not have, and read what the assembler says of them."""

from __future__ import annotations

import re
import subprocess
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

TARGETS = (80, 90, 100)
"""Compute capabilities compiled for: A100, H100, B200."""


@dataclass(frozen=True, kw_only=True)
class Compiled:
    """What the assembler says of one kernel on one target."""

    registers: int
    """Per thread; 255 at most."""
    spill_bytes: int
    """Stored and loaded again per thread for want of registers."""
    shared_bytes: int
    """Per block."""


@dataclass(frozen=True, kw_only=True)
class Case:
    """A kernel with the types and sizes that training gives it."""

    kernel: Any
    """A `triton.jit` function."""
    signature: Mapping[str, str]
    """Argument -> type such as `*bf16`, `i64`, `fp32`; `:16` after it where the value is a multiple of 16."""
    constants: Mapping[str, object]
    """Argument of type `tl.constexpr` -> value."""
    num_warps: int = 4


TABLE, FLOATS = "*i64:16", "*fp32:16"


def _multi_tensor(name: str, signature: dict[str, str], **constants: str | bool) -> Callable[[], Case]:
    """Return what makes a case of `relic.kernels.multi_tensor`; dtypes are given by name."""

    def make() -> Case:
        import triton.language as tl

        from relic.kernels import multi_tensor

        values = {key: getattr(tl, value) if isinstance(value, str) else value for key, value in constants.items()}
        block = multi_tensor.SUMS if name == "ratios_kernel" else multi_tensor.BLOCK
        return Case(kernel=getattr(multi_tensor, name), signature=signature, constants=values | {"BLOCK": block})

    return make


_NORMS = {"parameters": TABLE, "gradients": TABLE, "chunks": TABLE, "squares": FLOATS, "weight_decay": "fp32"}
_RATIOS = {"squares": FLOATS, "first_chunks": TABLE, "ratios": FLOATS, "trust_coefficient": "fp32"}
_UPDATE = dict.fromkeys(("parameters", "gradients", "buffers", "chunks"), TABLE)
_UPDATE |= {"ratios": FLOATS, "lr": FLOATS, "momentum": "fp32", "weight_decay": "fp32"}
_LERP = {"targets": TABLE, "online": TABLE, "chunks": TABLE, "weight": FLOATS}
_F32 = {"PARAMETER": "float32", "GRADIENT": "float32"}
_F32_UPDATE = _F32 | {"BUFFER": "float32"}
_BF16_UPDATE = dict.fromkeys(_F32_UPDATE, "bfloat16")
_F32_LERP = {"TARGET": "float32", "ONLINE": "float32"}


def _relic_loss(name: str, outputs: str, *arguments: str) -> Callable[[], Case]:
    """Return what makes a case of `relic.kernels.relic_loss`: 6 and 4 views of 256 numbers, 10 negatives.

    Args:
        name: of the kernel.
        outputs: type of the networks' outputs.
        arguments: those that are no pointers: `name:type`.
    """

    def make() -> Case:
        from relic.kernels import relic_loss

        kernel = getattr(relic_loss, name)
        constants, num_warps = relic_loss.view_tile(6, 256)
        constants |= {"ONLINE": 6, "TARGET": 4, "FEATURES": 256}
        if name == "terms_kernel":
            constants, num_warps = relic_loss.pair_tiles(24, 11) | {"PAIRS": 24}, 4
        types = {"online": outputs, "target": outputs} | dict.fromkeys(("negatives", "offsets", "entries"), TABLE)
        types |= dict(argument.split(":", 1) for argument in arguments)
        signature = {name: types.get(name, FLOATS) for name in kernel.arg_names if name not in constants}
        return Case(kernel=kernel, signature=signature, constants=dict(constants), num_warps=num_warps)

    return make


def _photometric(name: str, result: str, size: int, **constants: bool) -> Callable[[], Case]:
    """Return what makes a case of `pipelines.kernels.photometric`: views of `size`, masks and plates at hand.

    Args:
        name: of the kernel.
        result: type of the finished views.
        size: side of the views in pixels.
        constants: those that are not the same for all cases.
    """

    def make() -> Case:
        from pipelines.kernels import photometric
        from pipelines.ops import blur

        kernel = getattr(photometric, name)
        values = {"SIZE": size, "RELICV2": True, "HAS_MASKS": True, "HAS_PLATES": True, "REACH": blur.radius(size)}
        values |= {"NORMALIZED": result != "*u8:16", **photometric.tiles_of(size), **constants}
        types = dict.fromkeys(("views", "bits", "plates"), "*u8:16") | dict.fromkeys(("high", "broad"), "i32")
        types |= dict.fromkeys(("fill_red", "fill_green", "fill_blue"), "fp32") | {"out": result}
        types |= dict.fromkeys(("wide", "source", "target"), "*i16:16")
        constant = {key: value for key, value in values.items() if key in kernel.arg_names}
        signature = {key: types.get(key, FLOATS) for key in kernel.arg_names if key not in constant}
        return Case(kernel=kernel, signature=signature, constants=constant)

    return make


_SIZES = ("num_images:i32:16", "first_anchor:i32:16", "num_anchors:i32:16", "num_negatives:i32", "norm_floor:fp32")
_LOGITS = (*_SIZES, "inverse_temperature:fp32")
_TERMS = ("num_candidates:i32", "scale:fp32", "contrastive_weight:fp32", "invariance_weight:fp32")

KERNELS: dict[str, Callable[[], Case]] = {
    "loss logits": _relic_loss("logits_kernel", "*bf16:16", *_LOGITS),
    "loss logits, float32": _relic_loss("logits_kernel", "*fp32:16", *_LOGITS),
    "loss terms": _relic_loss("terms_kernel", "*bf16:16", *_TERMS),
    "loss gradient": _relic_loss("gradient_kernel", "*bf16:16", *_SIZES),
    "loss gradient, float32": _relic_loss("gradient_kernel", "*fp32:16", *_SIZES),
    "lars norms": _multi_tensor("norms_kernel", _NORMS, **_F32, ALIGNED=True),
    "lars norms, unaligned": _multi_tensor("norms_kernel", _NORMS, **_F32, ALIGNED=False),
    "lars ratios": _multi_tensor("ratios_kernel", _RATIOS),
    "lars update": _multi_tensor("update_kernel", _UPDATE, **_F32_UPDATE, ADAPT=True, ALIGNED=True),
    "lars update, no ratio": _multi_tensor("update_kernel", _UPDATE, **_F32_UPDATE, ADAPT=False, ALIGNED=True),
    "lars update, unaligned": _multi_tensor("update_kernel", _UPDATE, **_F32_UPDATE, ADAPT=True, ALIGNED=False),
    "lars update, bf16": _multi_tensor("update_kernel", _UPDATE, **_BF16_UPDATE, ADAPT=True, ALIGNED=True),
    "target lerp": _multi_tensor("lerp_kernel", _LERP, **_F32_LERP, ALIGNED=True),
    "target lerp, unaligned": _multi_tensor("lerp_kernel", _LERP, **_F32_LERP, ALIGNED=False),
    "views means": _photometric("means_kernel", "*bf16:16", 224),
    "views means, small": _photometric("means_kernel", "*bf16:16", 96),
    "views means, torchvision": _photometric("means_kernel", "*bf16:16", 224, RELICV2=False),
    "views colour": _photometric("colour_kernel", "*bf16:16", 224),
    "views colour, small": _photometric("colour_kernel", "*bf16:16", 96),
    "views colour, uint8": _photometric("colour_kernel", "*u8:16", 224),
    "views colour, no background": _photometric("colour_kernel", "*bf16:16", 224, HAS_MASKS=False, HAS_PLATES=False),
    "views colour, torchvision": _photometric("colour_kernel", "*bf16:16", 224, RELICV2=False),
    "views blur along y": _photometric("blur_kernel", "*bf16:16", 224, VERTICAL=True),
    "views blur along x": _photometric("blur_kernel", "*bf16:16", 224, VERTICAL=False),
    "views blur along x, small": _photometric("blur_kernel", "*bf16:16", 96, VERTICAL=False),
    "views blur along x, uint8": _photometric("blur_kernel", "*u8:16", 224, VERTICAL=False),
}
"""Name -> what makes its case; a kernel's module is imported only then, because Triton is optional."""


def compile_for(
    kernel: Any, *, signature: Mapping[str, str], constants: Mapping[str, object], capability: int, num_warps: int = 4
) -> Compiled:
    """Compile a kernel for a CUDA target, with no GPU at hand.

    Args:
        kernel: a `triton.jit` function, not one of Triton's interpreter.
        signature: argument -> type; `:16` marks pointers and integers that are multiples of 16, as the launcher
            finds for most tensors, so that accesses are vectorised as in a run.
        constants: argument of type `tl.constexpr` -> value.
        capability: 80, 90, 100, ...
        num_warps: warps per block.

    Raises:
        ImportError: Triton is missing.
        ValueError: the kernel was made for Triton's interpreter, or an argument is missing.
    """
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    if not isinstance(kernel, triton.JITFunction):
        raise ValueError(f"{kernel} is no compiled kernel: unset TRITON_INTERPRET before triton is imported")
    arguments = {name: signature.get(name, "constexpr") for name in kernel.arg_names}
    if missing := set(kernel.arg_names) ^ (signature.keys() | constants.keys()):
        raise ValueError(f"{kernel.__name__}: signature and constants do not match at {', '.join(sorted(missing))}")
    aligned = [place for place, kind in enumerate(arguments.values()) if kind.endswith(":16")]
    source = ASTSource(
        kernel,
        {name: kind.removesuffix(":16") for name, kind in arguments.items()},
        constexprs=dict(constants),
        attrs={(place,): [["tt.divisibility", 16]] for place in aligned},
    )
    binary = triton.compile(source, target=GPUTarget("cuda", capability, 32), options={"num_warps": num_warps})
    log = assemble(binary.asm["ptx"], capability)
    registers = re.search(r"Used (\d+) registers", log)
    spills = re.findall(r"(\d+) bytes spill (?:stores|loads)", log)
    if registers is None or not spills:
        raise ValueError(f"ptxas says nothing of registers and spills: {log!r}")
    return Compiled(registers=int(registers[1]), spill_bytes=sum(map(int, spills)), shared_bytes=binary.metadata.shared)


def assemble(ptx: str, capability: int) -> str:
    """Return what Triton's own ptxas says of PTX under -v."""
    from triton.backends.nvidia.compiler import get_ptxas, sm_arch_from_capability

    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "kernel.ptx").write_text(ptx)
        command = [get_ptxas(capability).path, "-v", f"--gpu-name={sm_arch_from_capability(capability)}"]
        run = subprocess.run([*command, "kernel.ptx", "-o", "cubin"], cwd=folder, capture_output=True, text=True)
    if run.returncode:
        raise ValueError(f"ptxas fails for sm_{capability}: {run.stderr.strip()}")
    return run.stdout + run.stderr
