"""Every kernel compiles for every target that we name, without spilling a register."""

from __future__ import annotations

import os

import pytest

from relic.kernels.ahead_of_time import KERNELS, TARGETS, compile_for

pytestmark = [
    pytest.mark.extra("triton"),
    pytest.mark.skipif("TRITON_INTERPRET" in os.environ, reason="the interpreter compiles nothing"),
]


@pytest.mark.parametrize("name", KERNELS)
def test_no_register_is_spilled(name: str) -> None:
    case = KERNELS[name]()
    for capability in TARGETS:
        compiled = compile_for(
            case.kernel,
            signature=case.signature,
            constants=case.constants,
            capability=capability,
            num_warps=case.num_warps,
        )
        assert compiled.spill_bytes == 0, f"sm_{capability}"
        assert 0 < compiled.registers <= 255


def test_spills_are_seen() -> None:
    case = KERNELS["lars update"]()
    constants = {**case.constants, "BLOCK": 2**12}
    compiled = compile_for(case.kernel, signature=case.signature, constants=constants, capability=80, num_warps=1)
    assert compiled.spill_bytes > 0


def test_a_forgotten_argument_is_named() -> None:
    case = KERNELS["target lerp"]()
    signature = {name: kind for name, kind in case.signature.items() if name != "online"}
    with pytest.raises(ValueError, match="lerp_kernel: signature and constants do not match at online"):
        compile_for(case.kernel, signature=signature, constants=case.constants, capability=90)
