"""Builds the fused backend's engine. Without a C++ compiler the install goes on: numba renders instead."""

import platform
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

SOURCE = "pipelines/engine/source"
IS_X86 = platform.machine().lower() in ("x86_64", "amd64")
BUILDS = ["portable", "avx2", "avx512"] if IS_X86 else ["portable"]


class BuildEngine(build_ext):
    """Compiles, or says in one line what it means that it could not."""

    def build_extension(self, ext):
        try:
            super().build_extension(ext)
        except Exception as error:  # every compiler fails in its own way
            reason = type(error).__name__
            print(
                f"warning: the compiled engine was not built ({reason}): numba will render the same views, several"
                " times slower. Install a C++17 compiler (Debian: apt-get install g++ python3-dev) and install relicv2"
                " again."
            )


setup(
    ext_modules=[
        Extension(
            "pipelines.engine.native",
            sources=[f"{SOURCE}/module.cpp", *(f"{SOURCE}/render_{build}.cpp" for build in BUILDS)],
            depends=sorted(map(str, Path(SOURCE).glob("*.h"))),
            define_macros=[("RELIC_X86", "1")] if IS_X86 else [],
            # No contraction to fused multiply-add: every build, and the numba twin, computes the same bits.
            extra_compile_args=[
                "-std=c++17", "-O3", "-fno-exceptions", "-fno-rtti", "-ffp-contract=off", "-fno-math-errno",
                "-fno-trapping-math", "-fvisibility=hidden",
            ],
            language="c++",
            optional=True,
        )
    ],
    cmdclass={"build_ext": BuildEngine},
)  # fmt: skip
