"""The command line: help without heavy imports, exit codes, one line for every mistake."""

from __future__ import annotations

import subprocess
import sys

import pytest

from relic.cli import COMMANDS, main

HEAVY = ("torch", "numpy", "cv2", "PIL", "numba", "matplotlib", "simplejpeg", "torchvision")


@pytest.mark.parametrize("command", ["", *COMMANDS, "pretrain cifar10_r18"])
def test_help_imports_nothing_heavy(command):
    """`--help` stays under half a second because of this."""
    code = (
        "import sys; from relic.cli import main\n"
        f"try: status = main({[*command.split(), '--help']!r})\n"
        "except SystemExit as stop: status = stop.code or 0\n"
        f"heavy = [name for name in {HEAVY!r} if name in sys.modules]\n"
        "sys.exit(f'imported {heavy}' if heavy else status)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) > 3


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        ("pretrian demo", 2, "no command 'pretrian': did you mean 'pretrain'?"),
        ("data convrt x y", 2, "no command 'data convrt': did you mean 'data convert'?"),
        ("pretrain demmo", 1, "no recipe 'demmo': did you mean 'demo'?"),
        ("pretrain demo --dta x", 2, "unknown option --dta: did you mean --data?"),
        ("pretrain demo --views.large.sze 3", 2, "unknown option --views.large.sze: did you mean --views.large.size?"),
        ("pretrain demo --batch-size many", 2, "--batch-size"),
        ("pretrain demo --loader.backend fusd", 2, "--loader.backend has no choice 'fusd': did you mean 'fused'?"),
        ("export run --to safetenors", 2, "--to has no choice 'safetenors': did you mean 'safetensors'?"),
        ("pretrain demo", 1, "data is missing: give --data"),
        ("pretrain demo --data nowhere.beton", 1, "nowhere.beton: no such file"),
        ("pretrain", 2, ""),
        ("resume nowhere", 1, "nowhere/config.yaml is missing"),
        ("data info nowhere.beton", 1, "nowhere.beton: no such file"),
    ],
)
def test_a_mistake_gets_one_line_that_names_it(arguments, status, said, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(arguments.split()) == status
    error = capsys.readouterr().err
    assert said in error
    assert len(error.splitlines()) == (1 if said else 0)


def test_wrong_durations_and_sizes_name_the_field(tiny_beton, tmp_path, capsys):
    for flags, said in (
        (["--duration", "3 epochs"], "duration: duration '3 epochs'"),
        (["--optim.warmup", "90ep"], "optim.warmup=90ep"),
        (["--batch-size", "4096"], "batch_size=4096 is larger than the data set"),
        (["--model.backbone", "resnet51"], "did you mean 'resnet50'"),
    ):
        arguments = [
            "pretrain",
            "demo",
            "--data",
            str(tiny_beton),
            "--runs",
            str(tmp_path),
            "--batch-size",
            "4",
            *flags,
        ]
        assert main(arguments) == 1
        error = capsys.readouterr().err
        assert said in error
        assert len(error.splitlines()) == 1


def test_the_overview_lists_every_command(capsys):
    assert main([]) == 0
    listed = capsys.readouterr().out
    assert all(f"  {name} " in listed for name in COMMANDS)


def test_a_dry_run_starts_nothing(tiny_beton, tmp_path, capsys):
    runs = tmp_path / "runs"
    arguments = ["pretrain", "relicv2_r50_300ep", "--data", str(tiny_beton), "--runs", str(runs), "--dry-run"]
    assert main([*arguments, "--batch-size", "4", "--loss.num-negatives", "3", "--rate", "700"]) == 0
    printed = capsys.readouterr().out
    for word in ("steps", "images", "learning rate", "memory", "source images/s per GPU"):
        assert word in printed
    assert not runs.exists()
