"""Checkpoints: written atomically in the run's own folder, read without running code, pruned by age."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch

FORMAT = 1


def save(run: Path, step: int, payload: dict[str, Any]) -> Path:
    """Write `checkpoints/step-000123.pt`: a temporary name in the same folder, fsync, rename.

    A crash leaves the old files or the new one, never half a file under its name (NFS included, since nothing crosses
    folders).
    """
    folder = run / "checkpoints"
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"step-{step:06d}.pt"
    temporary = folder / f".{path.name}.tmp"
    with open(temporary, "wb") as file:
        torch.save({"format": FORMAT, "step": step, **payload}, file)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)
    _sync_folder(folder)
    return path


def read(path: Path) -> dict[str, Any]:
    """Read a checkpoint onto the CPU.

    Raises:
        ValueError: the file is damaged or of another format.
    """
    try:
        payload = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise
    except Exception as error:  # torch raises half a dozen kinds for a damaged file
        first_line = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ValueError(f"{path} is damaged ({first_line}): delete it to fall back to the one before") from error
    if not isinstance(payload, dict) or payload.get("format") != FORMAT:
        raise ValueError(f"{path} is not a checkpoint of format {FORMAT} (made by another version of relicv2?)")
    return payload


def all_steps(run: Path) -> list[int]:
    """Return the steps of a run's checkpoints, oldest first."""
    return sorted(int(path.stem.removeprefix("step-")) for path in (run / "checkpoints").glob("step-*.pt"))


def newest(run: Path) -> Path | None:
    """Return a run's newest checkpoint, None where there is none."""
    steps = all_steps(run)
    return path_of(run, steps[-1]) if steps else None


def path_of(run: Path, step: int) -> Path:
    """Return the path of a step's checkpoint."""
    return run / "checkpoints" / f"step-{step:06d}.pt"


def prune(run: Path, *, keep_last: int, keep_every: int | None) -> None:
    """Delete all but the newest `keep_last` and those at multiples of `keep_every` steps."""
    steps = all_steps(run)
    for step in steps[: -max(keep_last, 1)]:
        if keep_every is None or step % keep_every:
            path_of(run, step).unlink()


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
