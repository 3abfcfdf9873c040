"""Batch scripts: what is asked for, quoting, submission, and what a script does when it runs."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from relic.cli import main
from relic.slurm import Allocation, render, submit


def program(folder: Path, name: str, text: str) -> None:
    path = folder / name
    path.write_text("#!/bin/bash\n" + text)
    path.chmod(0o755)


def options(script: str) -> dict[str, str]:
    lines = [line.removeprefix("#SBATCH --") for line in script.splitlines() if line.startswith("#SBATCH")]
    return {name: " ".join(shlex.split(value)) for name, _, value in (line.partition("=") for line in lines)}


def command(script: str) -> list[str]:
    (line,) = [line for line in script.splitlines() if line.startswith("srun ")]
    return shlex.split(line)


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a folder whose programs are found first."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    return folder


def test_the_script_asks_for_a_process_per_gpu(tmp_path: Path) -> None:
    allocation = Allocation(nodes=2, gpus_per_node=4, cpus_per_gpu=3, hours=1.5, partition="gpu", account="me")
    script = render(allocation, ["true"], name="a run/%j", folder=tmp_path / "a folder", plan="steps 3\n\nhours 1")
    asked = options(script)
    assert (asked["nodes"], asked["ntasks-per-node"], asked["gpus-per-node"]) == ("2", "4", "4")
    assert (asked["cpus-per-task"], asked["time"]) == ("3", "01:30:00")
    assert (asked["partition"], asked["account"]) == ("gpu", "me")
    assert (asked["signal"], asked["open-mode"]) == ("USR1@120", "append")
    assert "requeue" in asked
    assert asked["output"] == "a_run__j-%j.log"
    assert asked["chdir"] == str(tmp_path / "a folder")
    assert command(script) == ["srun", "--cpus-per-task=3", "--kill-on-bad-exit=0", "true"]
    assert "\n# steps 3\n#\n# hours 1\n" in script
    # Slurm reads no option after the first command.
    assert script.rindex("#SBATCH") < script.index("\ntrap ")
    assert "scontrol" not in script


def test_what_the_site_decides_is_left_out(tmp_path: Path) -> None:
    asked = options(render(Allocation(hours=100), ["true"], name="x", folder=tmp_path))
    assert "partition" not in asked
    assert "account" not in asked
    assert asked["time"] == "100:00:00"


def test_the_script_runs_the_command_in_the_same_words(tmp_path: Path, path: Path) -> None:
    """Executed by bash, with an srun that runs its command once."""
    program(path, "srun", 'shift 2; "$@"; exit 85')
    words = ["--name", 'it\'s $HOME `x` "y"', "*", "", "--data=a b.beton"]
    print_words = [sys.executable, "-c", "import sys; print(sys.argv[1:])", *words]
    script = tmp_path / "script.sh"
    script.write_text(render(Allocation(), print_words, name="x", folder=tmp_path))
    assert subprocess.run(["bash", "-n", str(script)], capture_output=True, check=False).returncode == 0
    done = subprocess.run(["bash", str(script)], capture_output=True, text=True, check=False)
    assert done.stdout == f"{words}\n"
    assert done.stderr == ""
    assert done.returncode == 85


def test_the_shell_outlives_a_signal_until_srun_has_finished(tmp_path: Path, path: Path) -> None:
    program(path, "srun", "kill -TERM $PPID; sleep 0.2; echo saved; exit 85")
    script = tmp_path / "script.sh"
    script.write_text(render(Allocation(), ["true"], name="x", folder=tmp_path))
    done = subprocess.run(["bash", str(script)], capture_output=True, text=True, check=False)
    assert (done.stdout, done.returncode) == ("saved\n", 85)


@pytest.mark.parametrize("wrong", [{"nodes": 0}, {"gpus_per_node": 0}, {"cpus_per_gpu": -1}, {"hours": 0.05}])
def test_impossible_allocations_are_named(wrong: dict) -> None:
    (name,) = wrong
    with pytest.raises(ValueError, match=f"--{name.replace('_', '-')} "):
        Allocation(**wrong)


def test_submission_returns_the_number(path: Path, tmp_path: Path) -> None:
    program(path, "sbatch", f"cat > {tmp_path}/got; echo '4711;cluster'")
    assert submit("the script\n") == "4711"
    assert (tmp_path / "got").read_text() == "the script\n"
    program(path, "sbatch", "echo 'sbatch: error: no such partition' >&2; exit 1")
    with pytest.raises(OSError, match="sbatch refuses: sbatch: error: no such partition"):
        submit("")


# -- the command ------------------------------------------------------------------------------------------------------


def test_the_command_writes_checks_and_submits(tiny_beton, tmp_path, path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    program(path, "sbatch", "cat > submitted; echo 12")
    mine = ["--nodes", "2", "--gpus_per_node=2", "--hours", "3", "--out", "s.sh", "--submit"]
    theirs = ["--data", str(tiny_beton), "--batch-size", "8", "--name", "it's one", "--loss.no-fused"]
    assert main(["slurm", "demo", *theirs[:2], *mine, *theirs[2:]]) == 0
    assert capsys.readouterr().out == "12\n"
    script = (tmp_path / "s.sh").read_text()
    assert (tmp_path / "submitted").read_text() == script
    assert command(script)[3:] == [sys.executable, "-m", "relic", "pretrain", "demo", *theirs]
    assert options(script)["job-name"] == "it_s_one"
    assert "2 on each of 4 processes" in script


def test_the_command_prints_the_script_otherwise(tiny_beton, tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["slurm", "demo", "--data", str(tiny_beton), "--batch-size", "8", "--gpus-per-node", "4"]) == 0
    assert capsys.readouterr().out.startswith("#!/bin/bash\n#SBATCH")
    assert not list(tmp_path.glob("*.sh"))


@pytest.mark.parametrize(
    ("flags", "status", "said"),
    [
        ("--batch-size 12", 1, "batch_size=12 is no multiple of the 8 processes"),
        ("--batch-size 8 --duration 3 --nodes 1 --gpus-per-node 4", 1, "duration '3'"),
        ("--nodes 0", 1, "--nodes 0: give at least 1"),
        ("--ndoes 3", 2, "unknown option --ndoes: did you mean --nodes?"),
        ("--batch-size 8 --gpus-per-node 4 --submit", 1, "no sbatch here: submit from a login node"),
    ],
)
def test_a_mistake_gets_one_line(flags: str, status: int, said: str, tiny_beton, tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert main(["slurm", "demo", "--data", str(tiny_beton), *flags.split()]) == status
    error = capsys.readouterr().err
    assert said in error
    assert len(error.splitlines()) == 1


def test_the_recipe_comes_first(capsys) -> None:
    assert main(["slurm", "--nodes", "2"]) == 2
    assert "the recipe comes first" in capsys.readouterr().err
