"""A wheel holds what the packages need to run, not only an editable checkout."""

from __future__ import annotations

import sys
from pathlib import Path

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # pytest brings it

ROOT = Path(__file__).parents[2]


def test_every_data_file_of_a_package_is_named_in_pyproject():
    patterns = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]
    for package in ("relic", "pipelines", "saliency", "benchmarks"):
        files = {path for path in (ROOT / package).rglob("*") if path.is_file() and "__pycache__" not in path.parts}
        named = {path for pattern in patterns.get(package, ()) for path in (ROOT / package).glob(pattern)}
        compiled = (".py", ".pyc", ".so", ".cpp", ".h")  # the engine's sources travel in the sdist, as setup.py's
        assert {path for path in files if path.suffix not in compiled} == named
