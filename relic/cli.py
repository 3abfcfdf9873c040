"""The `relic` program: finds the command, lets tyro parse its flags, turns errors into one line and an exit code."""

from __future__ import annotations

import difflib
import importlib
import resource
import sys

from relic import __version__
from relic.flags import OK, WRONG_USE, run

OPEN_FILES = 65536  # shards are held open by the thousand

COMMANDS: dict[str, tuple[str, str]] = {
    "data convert": ("data:convert", "folder, tars or zip of JPEGs to a beton; resumable, parallel, verified"),
    "data info": ("data:info", "what is inside a beton"),
    "data check": ("data:check", "every sample decodes"),
    "data synthetic": ("synthetic:synthetic", "write the embedded data set of photograph-like images"),
    "masks fit": ("masks_fit:fit", "saliency network from images alone, in two phases"),
    "masks infer": ("masks_infer:infer", "label-free saliency masks of a beton, maps of a folder"),
    "masks backgrounds": ("masks_backgrounds:backgrounds", "background plates for swaps, objects filled in"),
    "masks score": ("masks_score:score", "how good masks are, and how far priors agree"),
    "views": ("views:views", "contact sheet of the views a recipe makes"),
    "pretrain": ("pretrain:pretrain", "pretrain with a recipe"),
    "resume": ("pretrain:resume", "continue a run exactly where it stopped"),
    "slurm": ("slurm:slurm", "batch script that pretrains with a recipe under Slurm"),
    "evaluate": ("evaluate:evaluate", "kNN and linear evaluation of a run or of weights"),
    "export": ("export:export", "backbone for torchvision, timm or safetensors"),
    "report": ("report:report", "one self-contained HTML file"),
    "doctor": ("doctor:doctor", "what this machine has and lacks, each with the command that mends it"),
}


def main(arguments: list[str] | None = None) -> int:
    """Run one command; return 0 (ok), 1 (failed) or 2 (wrong use)."""
    arguments = sys.argv[1:] if arguments is None else arguments
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if 0 <= soft < OPEN_FILES:
        resource.setrlimit(resource.RLIMIT_NOFILE, (OPEN_FILES if hard < 0 else min(hard, OPEN_FILES), hard))
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(_overview())
        return OK
    if arguments[0] == "--version":
        print(f"relicv2 {__version__}")
        return OK
    command = next((name for name in (" ".join(arguments[:2]), arguments[0]) if name in COMMANDS), None)
    if command is None:
        return _unknown(arguments)
    module, function = COMMANDS[command][0].split(":")
    rest = arguments[len(command.split()) :]
    return run(getattr(importlib.import_module(f"relic.commands.{module}"), function), rest, prog=f"relic {command}")


def _unknown(arguments: list[str]) -> int:
    groups = [name for name in COMMANDS if name.split()[0] == arguments[0]]
    if groups and len(arguments) > 1 and arguments[1] not in ("-h", "--help"):
        nearest = difflib.get_close_matches(" ".join(arguments[:2]), groups, 1) or groups
        print(f"relic: error: no command {' '.join(arguments[:2])!r}: did you mean {nearest[0]!r}?", file=sys.stderr)
        return WRONG_USE
    if groups:
        print("\n".join(f"  relic {name:<17} {COMMANDS[name][1]}" for name in groups))
        return OK
    nearest = difflib.get_close_matches(arguments[0], COMMANDS, 1)
    hint = f"did you mean {nearest[0]!r}?" if nearest else "`relic --help` lists the commands"
    print(f"relic: error: no command {arguments[0]!r}: {hint}", file=sys.stderr)
    return WRONG_USE


def _overview() -> str:
    lines = ["usage: relic COMMAND [--help] ...", "", "ReLICv2 pretraining of ResNets, built around the data path.", ""]
    lines += [f"  {name:<17} {summary}" for name, (_, summary) in COMMANDS.items()]
    return "\n".join(lines)
