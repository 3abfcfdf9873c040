"""The doctor tells healthy from sick, and names the cure."""

from __future__ import annotations

import importlib.metadata
import json
import os
import subprocess
import sys
from collections import namedtuple
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from relic import doctor
from relic.checks import machine, software
from relic.checks.check import Check
from relic.cli import main

ROOT = Path(__file__).parent.parent.parent


def only(checks) -> Check:
    (check,) = checks
    return check


# -- our packages and foreign ones ------------------------------------------------------------------------------------


def test_our_packages_are_ours_here():
    assert only(software.own_packages()).status == "ok"


@pytest.fixture
def foreign_site(tmp_path: Path) -> Path:
    """Return a folder of installed packages with a foreign `saliency`, as pip leaves it."""
    site = tmp_path / "site"
    (site / "saliency").mkdir(parents=True)
    (site / "saliency" / "__init__.py").write_text("")
    information = site / "pair_saliency-0.2.dist-info"
    information.mkdir()
    (information / "METADATA").write_text("Metadata-Version: 2.1\nName: pair-saliency\nVersion: 0.2\n")
    (information / "top_level.txt").write_text("saliency\n")
    (information / "RECORD").write_text("saliency/__init__.py,,\n")
    return site


@pytest.mark.parametrize(
    ("before", "sign", "said"),
    [
        (True, "✗", "the package saliency of pair-saliency in SITE/saliency hides ours"),
        (False, "–", "pair-saliency also installs saliency: it hides ours where it comes first in sys.path"),
    ],
)
def test_a_foreign_package_is_named_with_its_uninstall_command(before, sign, said, foreign_site):
    paths = [str(foreign_site), str(ROOT)] if before else [str(ROOT), str(foreign_site)]
    code = (
        f"import sys; sys.path[:0] = {paths!r}\n"
        "from relic.checks.software import own_packages; from relic.doctor import line\n"
        "print(*(line(check, 0) for check in own_packages()), sep='\\n')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=foreign_site)
    first, second = done.stdout.splitlines()
    assert first == f"{sign} saliency  {said}".replace("SITE", str(foreign_site))
    assert second.split("mend: ")[1] == "pip uninstall pair-saliency"


def test_a_foreign_package_in_the_same_place_has_overwritten_ours(monkeypatch):
    monkeypatch.setattr(importlib.metadata, "packages_distributions", lambda: {"relic": ["relicv2", "relic-pytorch"]})
    monkeypatch.setattr(importlib.metadata, "distribution", lambda name: SimpleNamespace(locate_file=lambda path: ROOT))
    check = only(software.own_packages())
    assert (check.name, check.status) == ("relic", "broken")
    assert "relic-pytorch also installs relic: it has written into our package" in check.detail
    assert check.mend == "pip uninstall relic-pytorch && pip install --force-reinstall --no-deps relicv2"


def test_a_missing_package_of_ours(monkeypatch):
    monkeypatch.setattr(software, "OUR_PACKAGES", ("relic", "no_such_package"))
    check = only(software.own_packages())
    assert check.status == "broken"
    assert "no_such_package is missing" in check.detail


# -- libraries --------------------------------------------------------------------------------------------------------


def test_required_libraries(monkeypatch):
    assert only(software.required_packages()).status == "ok"
    monkeypatch.setitem(software.REQUIRED, "no_such_module", "no-such-package")
    check = only(software.required_packages())
    assert (check.status, check.mend) == ("broken", "pip install no-such-package")


def test_torch_that_does_not_import(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    check = only(software.torch_and_gpus())
    assert (check.status, check.mend) == ("broken", "pip install torch torchvision")


def test_no_driver_is_no_obstacle(monkeypatch):
    monkeypatch.setattr(software, "_driver_version", lambda: None)
    found = list(software.torch_and_gpus())
    assert [(check.name, check.status) for check in found] == [("torch", "ok"), ("NVIDIA driver", "absent")]


def test_a_driver_with_a_cpu_build_of_torch(monkeypatch):
    monkeypatch.setattr(software, "_driver_version", lambda: "570.86.15")
    monkeypatch.setattr(torch.version, "cuda", None)
    *_, check = software.torch_and_gpus()
    assert (check.name, check.status) == ("GPU", "broken")
    assert "CPU build" in check.detail
    assert check.mend is not None
    assert check.mend.startswith("pip install --force-reinstall torch torchvision")


def test_a_driver_too_old_for_torch(monkeypatch):
    def unavailable() -> bool:
        import warnings

        warnings.warn("The NVIDIA driver on your system is too old (found version 11040).", stacklevel=1)
        return False

    monkeypatch.setattr(software, "_driver_version", lambda: "470.1")
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.cuda, "is_available", unavailable)
    *_, check = software.torch_and_gpus()
    assert check.status == "broken"
    assert "too old (found version 11040)" in check.detail
    assert check.mend is not None
    assert "CUDA 13.0" in check.mend


@pytest.mark.parametrize(
    ("capability", "computed", "status", "said"),
    [
        ((9, 0), 1.0, "ok", "H1, 80 GiB, sm_90, bfloat16"),
        ((7, 5), 1.0, "absent", "H1, 80 GiB, sm_75, no bfloat16"),
        ((9, 0), 2.0, "broken", "computes wrongly"),
        (
            (12, 0),
            RuntimeError("no kernel image is available\nCUDA kernel errors"),
            "broken",
            "no kernel image is available",
        ),
    ],
)
def test_a_gpu(capability, computed, status, said, monkeypatch):
    ones = torch.ones

    def fake_ones(*shape: int, device: str) -> torch.Tensor:
        assert device == "cuda:1"
        if isinstance(computed, Exception):
            raise computed
        return ones(*shape) * computed

    properties = SimpleNamespace(name="H1", total_memory=80 << 30, major=capability[0], minor=capability[1])
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda number: properties)
    monkeypatch.setattr(torch, "ones", fake_ones)
    check = software._gpu(1)
    assert (check.name, check.status) == ("GPU 1", status)
    assert check.detail.endswith(said)
    assert (check.mend is None) == (status == "ok")


@pytest.mark.parametrize(
    "text",
    [
        "NVRM version: NVIDIA UNIX x86_64 Kernel Module  550.54.14  Thu Feb 22 01:44:30 2024\nGCC version:  gcc 12\n",
        "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  550.54.14  Release Build  (dvs-builder@U16)\n",
    ],
)
def test_the_driver_version(text, tmp_path):
    (tmp_path / "version").write_text(text)
    assert software._driver_version(tmp_path / "version") == "550.54.14"
    assert software._driver_version(tmp_path / "none") is None


def test_jpeg_decoding(monkeypatch):
    monkeypatch.setattr(software, "SLOW_DECODE", 1)
    check = only(software.jpeg_decoding())
    assert check.status == "ok"
    assert "images/s of 500×375" in check.detail
    monkeypatch.setattr(software, "SLOW_DECODE", 10**9)
    check = only(software.jpeg_decoding())
    assert (check.status, check.detail.split(": ")[-1]) == ("absent", "slow")
    monkeypatch.setitem(sys.modules, "simplejpeg", None)
    assert only(software.jpeg_decoding()).status == "broken"


def test_the_numba_cache(monkeypatch, tmp_path):
    """Folders below a file can never be made, whoever runs the test."""
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(software, "_folders", lambda name: [tmp_path / "file" / name])
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file" / "cache"))
    monkeypatch.delenv("NUMBA_CACHE_DIR", raising=False)
    check = only(software.numba_cache())
    assert (check.status, check.mend) == ("broken", "export NUMBA_CACHE_DIR=/tmp/numba-cache")
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path / "new"))
    check = only(software.numba_cache())
    assert (check.status, check.detail) == ("ok", str(tmp_path / "new"))


@pytest.mark.parametrize(("cuda", "package"), [("13.0", "cuda130"), ("12.8", "cuda120"), (None, "cuda120")])
def test_without_dali_the_one_for_this_torch_is_named(cuda, package, monkeypatch):
    monkeypatch.setattr(importlib.metadata, "distributions", list)
    monkeypatch.setattr(torch.version, "cuda", cuda)
    check = only(software.dali())
    assert (check.status, check.mend) == ("absent", f"pip install nvidia-dali-{package}")


def test_ffcv_is_tried_by_its_library(monkeypatch, tmp_path):
    monkeypatch.setattr(software, "_folders", lambda name: [])
    assert only(software.ffcv()).detail.startswith("absent")
    (tmp_path / "_libffcv.so").write_bytes(b"no library")
    monkeypatch.setattr(software, "_folders", lambda name: [tmp_path])
    check = only(software.ffcv())
    assert check.status == "absent"
    assert "does not load" in check.detail
    assert check.mend


def test_optional_packages_name_what_they_are_for(monkeypatch):
    monkeypatch.setattr(
        software, "OPTIONAL", {"no_such": ("no-such", "a feature", "pip install it"), "json": ("x", "", "")}
    )
    absent, there = software.optional_packages()
    assert (absent.status, absent.detail, absent.mend) == ("absent", "absent: needed for a feature", "pip install it")
    assert there.status == "ok"


# -- the machine ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("affinity", "quota", "status", "said"),
    [
        (8, "max 100000", "ok", "8 of 16, "),
        (16, "400000 100000", "ok", "4 of 16, "),
        (16, "", "ok", "16, "),
        (1, "", "absent", "1 of 16: "),
        (16, "50000 100000", "absent", "1 of 16: "),
    ],
)
def test_cores_are_those_that_the_process_may_use(affinity, quota, status, said, monkeypatch):
    monkeypatch.setattr(os, "cpu_count", lambda: 16)
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(affinity)), raising=False)
    monkeypatch.setattr(machine, "_cgroup", lambda name: quota)
    check = only(machine.cores())
    assert check.status == status
    assert check.detail.startswith(said)


@pytest.mark.parametrize(("limit", "status"), [("max", "ok"), (str(1 << 30), "absent")])
def test_memory_knows_the_container(limit, status, monkeypatch, tmp_path):
    monkeypatch.setattr(machine, "_cgroup", lambda name: limit)
    monkeypatch.setattr(machine, "MEMORY", tmp_path / "meminfo")
    (tmp_path / "meminfo").write_text("MemTotal:  16777216 kB\nMemFree: 1 kB\nMemAvailable:  8388608 kB\n")
    check = only(machine.memory())
    assert check.status == status
    assert check.detail == ("8.0 GiB free of 16.0 GiB" if status == "ok" else "1.0 GiB free of 1.0 GiB")


@pytest.mark.parametrize(("size", "status"), [(64 << 20, "absent"), (8 << 30, "ok")])
def test_shared_memory(size, status, monkeypatch, tmp_path):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(machine.shutil, "disk_usage", lambda folder: usage(size, 0, size))
    check = only(machine.shared_memory(tmp_path))
    assert check.status == status
    assert (check.mend is None) == (status == "ok")
    assert only(machine.shared_memory(tmp_path / "none")).status == "absent"


@pytest.mark.parametrize(("limit", "status"), [(256, "absent"), (1024, "ok"), (-1, "ok")])
def test_open_files(limit, status, monkeypatch):
    import resource

    monkeypatch.setattr(resource, "getrlimit", lambda which: (limit, limit))
    check = only(machine.open_files())
    assert (check.status, check.mend) == (status, "ulimit -n 65536" if status == "absent" else None)


def test_reading_measures_a_beton(tiny_beton, monkeypatch):
    read = []
    pread = os.pread
    monkeypatch.setattr(os, "pread", lambda *arguments: read.append(arguments[2]) or pread(*arguments))
    monkeypatch.setattr(machine, "READ_BYTES", 1 << 19)
    check = only(machine.reading(tiny_beton))
    assert check.status == "ok"
    assert "images/s" in check.detail
    assert len(set(read)) == len(read) > 10  # no place twice, which would read memory
    assert read != sorted(read)


def test_reading_what_is_no_beton(tmp_path):
    assert only(machine.reading(tmp_path / "none.beton")).status == "broken"
    (tmp_path / "bad.beton").write_bytes(b"x" * 100)
    check = only(machine.reading(tmp_path / "bad.beton"))
    assert check.status == "broken"
    assert check.mend == f"relic data convert SRC {tmp_path / 'bad.beton'}"


# -- the command ------------------------------------------------------------------------------------------------------


@pytest.fixture
def few_checks(monkeypatch):
    """Leave out the slow checks."""
    monkeypatch.setattr(software, "jpeg_decoding", lambda: iter(()))
    monkeypatch.setattr(software, "torch_and_gpus", lambda: iter(()))


def test_a_healthy_machine(few_checks, capsys):
    assert main(["doctor"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1] == "ready: nothing that is needed is missing"
    assert all(line[0] in "✓– " for line in lines[:-2])


def test_a_sick_machine(few_checks, monkeypatch, capsys):
    monkeypatch.setitem(software.REQUIRED, "no_such_module", "no-such-package")
    assert main(["doctor"]) == 1
    output = capsys.readouterr().out
    assert "✗ libraries" in output
    assert "mend: pip install no-such-package" in output
    assert output.splitlines()[-1] == "1 thing stands in the way (✗)"


def test_a_check_that_breaks_is_a_finding(few_checks, monkeypatch):
    def shared_memory():
        raise OSError("no such thing")

    monkeypatch.setattr(machine, "shared_memory", shared_memory)
    checks = {check.name: check for check in doctor.examine()}
    assert checks["shared memory"].status == "broken"
    assert "no such thing" in checks["shared memory"].detail
    assert checks["open files"].status == "ok"


def test_json(few_checks, tmp_path, capsys):
    assert main(["doctor", "--json", "--data", str(tmp_path / "none.beton")]) == 1
    answer = json.loads(capsys.readouterr().out)
    assert answer["ok"] is False
    assert answer["checks"][0]["name"] == "Python"
    assert [check["name"] for check in answer["checks"] if check["status"] == "broken"] == ["reading data"]
