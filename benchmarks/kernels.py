"""`python -m benchmarks kernels`: what the assembler says of every Triton kernel, for GPUs that need not be here."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from relic.kernels.ahead_of_time import Case, Compiled


def kernels(json: str | None = None) -> int:
    """Compile all kernels ahead of time and show registers, spills and shared memory; 1 if a register is spilled.

    Args:
        json: File for the records, - for standard output.
    """
    from benchmarks import machine, records
    from benchmarks.table import text_table
    from relic.kernels.ahead_of_time import KERNELS, TARGETS, compile_for

    records.check_target(json)
    try:
        import triton  # noqa: F401
    except ImportError:
        raise ValueError("Triton is missing, which compiles the kernels: pip install triton") from None
    shared = records.conditions(machine.describe())
    made = []
    for name, make in KERNELS.items():
        case = make()
        for target in TARGETS:
            compiled = compile_for(
                case.kernel,
                signature=case.signature,
                constants=case.constants,
                capability=target,
                num_warps=case.num_warps,
            )
            made.append(_record(name, case, target, compiled, shared))
    rows = [
        (entry["provider"], entry["target"], *(str(entry[name]) for name in ("value", "spill_bytes", "shared_bytes")))
        for entry in made
    ]
    header = ("kernel", "target", "registers", "spilled bytes", "shared bytes")
    print(text_table(header, rows), file=sys.stderr if json == "-" else sys.stdout)
    if json is not None:
        records.write(made, json)
    return int(any(entry["spill_bytes"] for entry in made))


def _record(name: str, case: Case, target: int, compiled: Compiled, shared: dict[str, Any]) -> dict[str, Any]:
    from benchmarks import records

    return {
        "benchmark": "kernels",
        "provider": name,
        "value": compiled.registers,
        "unit": "registers per thread",
        "low": compiled.registers,
        "high": compiled.registers,
        "repeats": 1,
        "threads": 32 * case.num_warps,
        "recipe": {key: str(value) for key, value in case.constants.items()},
        "images": None,
        "target": f"sm_{target}",
        "spill_bytes": compiled.spill_bytes,
        "shared_bytes": compiled.shared_bytes,
        "versions": records.versions((*records.ALWAYS, "triton")),
        **shared,
    }
