"""Imports go one way and need no optional package; the sources are clean."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
OPTIONAL = ("ffcv", "nvidia.dali", "timm", "triton", "ray", "wandb", "tensorboard", "onnx", "fsspec", "py_sod_metrics")


def run(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def modules(*packages: str) -> list[str]:
    """Return the dotted names of all modules of these packages."""
    files = (path for package in packages for path in sorted((ROOT / package).rglob("*.py")))
    names = (".".join(path.relative_to(ROOT).with_suffix("").parts) for path in files)
    return [name.removesuffix(".__init__") for name in names if not name.endswith("__main__")]


BLOCKED = f"""
import importlib, importlib.abc, sys

class Block(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name in {OPTIONAL!r}:
            raise ModuleNotFoundError(f"{{name}} is blocked")

sys.meta_path.insert(0, Block())
for name in sys.argv[1:]:
    importlib.import_module(name)
"""


def test_every_module_imports_without_optional_packages():
    names = modules("relic", "pipelines", "saliency")
    assert "pipelines.backends.ffcv" in names
    finished = run(sys.executable, "-c", BLOCKED, *names)
    assert finished.returncode == 0, finished.stderr


def test_the_block_of_optional_packages_blocks():
    finished = run(sys.executable, "-c", BLOCKED, "timm")
    assert "timm is blocked" in finished.stderr


@pytest.mark.parametrize("package", ["relic", "pipelines", "saliency"])
def test_a_package_imports_without_torch(package: str):
    """The command line opens them all before it knows what it is asked for."""
    program = f"import sys, {package}; sys.exit('torch' in sys.modules or 'numpy' in sys.modules)"
    assert run(sys.executable, "-c", program).returncode == 0


def test_imports_go_one_way():
    finished = run(str(Path(sys.executable).with_name("lint-imports")), "--no-cache")
    assert finished.returncode == 0, finished.stdout
    assert " kept, 0 broken" in finished.stdout


def test_the_sources_are_clean_by_ruff():
    finished = run(sys.executable, "-m", "ruff", "check", "--no-cache")
    assert finished.returncode == 0, finished.stdout


def test_the_types_agree_by_pyright():
    finished = run(sys.executable, "-m", "pyright")
    assert finished.returncode == 0, finished.stdout
