"""A wheel holds what the packages need to run, not only an editable checkout."""

from __future__ import annotations

import os
import shutil
import subprocess
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


def build_engine(folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run setup.py on a copy of the sources, in place, as an editable install does."""
    shutil.copy(ROOT / "setup.py", folder)
    shutil.copy(ROOT / "pyproject.toml", folder)
    shutil.copy(ROOT / "README.md", folder)
    shutil.copy(ROOT / "LICENSE", folder)
    for package in ("relic", "pipelines"):
        shutil.copytree(ROOT / package, folder / package, ignore=shutil.ignore_patterns("*.so", "__pycache__"))
    command = [sys.executable, "setup.py", "-q", "build_ext", "--inplace"]
    settings = {**os.environ, **environment}
    return subprocess.run(command, cwd=folder, env=settings, capture_output=True, text=True, check=False)


def test_an_install_without_a_compiler_goes_on_and_says_so(tmp_path: Path):
    done = build_engine(tmp_path, CC="/nowhere/cc", CXX="/nowhere/c++")
    assert done.returncode == 0, done.stderr
    told = [line for line in done.stdout.splitlines() if line.startswith("warning: the compiled engine was not built")]
    assert len(told) == 1
    assert "numba will render the same views" in told[0]
    assert not list(tmp_path.rglob("*.so"))
