"""Read what a run directory holds, without torch."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from relic.config import RunConfig, load
from relic.schedules import duration_steps


@dataclass(frozen=True, kw_only=True)
class Run:
    """What a run directory holds."""

    path: Path
    config: RunConfig
    command: str | None
    environment: dict[str, Any] | None
    steps: list[dict[str, Any]]
    """Records of the training step, in order."""
    health: list[dict[str, Any]]
    """Records of the health probe, in order."""
    unreadable_lines: int
    evaluation: dict[str, Any] | None
    views: bytes | None
    """PNG."""

    @property
    def name(self) -> str:
        """The directory's name."""
        return self.path.resolve().name

    @property
    def total_steps(self) -> int | None:
        """Steps that the configuration asks for; None before the first record, which tells the data set's size."""
        if not self.steps or not self.steps[-1].get("epoch"):
            return None
        last = self.steps[-1]
        steps_per_epoch = max(round(last["step"] / last["epoch"]), 1)
        num_images = steps_per_epoch * self.config.batch_size
        return duration_steps(self.config.duration, num_images=num_images, batch_size=self.config.batch_size)


def read_run(path: Path) -> Run:
    """Read a run directory; what was not written yet is None or empty.

    Raises:
        FileNotFoundError: it is none, since it has no config.yaml.
        ValueError: one of its files is damaged.
    """
    if not (path / "config.yaml").is_file():
        what = "is no run directory (it has no config.yaml)" if path.is_dir() else "no such directory"
        raise FileNotFoundError(f"{path}: {what}; give one that `relic pretrain` made, for instance runs/demo")
    records, unreadable = _read_metrics(path / "metrics.jsonl")
    command, views = path / "command.txt", path / "views.png"
    return Run(
        path=path,
        config=load(path / "config.yaml"),
        command=command.read_text(encoding="utf-8").strip() if command.is_file() else None,
        environment=_read_json(path / "environment.json"),
        steps=[record for record in records if "images_per_second" in record],
        health=[record for record in records if "images_per_second" not in record],
        unreadable_lines=unreadable,
        evaluation=_read_json(path / "evaluation.json"),
        views=views.read_bytes() if views.is_file() else None,
    )


def _read_json(path: Path) -> dict[str, Any] | None:
    if not path.is_file():
        return None
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not JSON ({error}): write it again or remove it") from None
    if not isinstance(content, dict):
        raise ValueError(f"{path} holds {type(content).__name__}, not an object: write it again or remove it")
    return content


def _read_metrics(path: Path) -> tuple[list[dict[str, Any]], int]:
    """Return records in order, and how many lines are none: a machine that goes down leaves half a line."""
    records, unreadable = [], 0
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines() if path.is_file() else []:
        try:
            record = json.loads(line)
            records.append({"step": int(record["step"])} | {k: _number(v) for k, v in record.items()})
        except (ValueError, KeyError, TypeError, AttributeError):
            unreadable += 1
    return records, unreadable


def _number(value: Any) -> Any:
    """Undo the JSON spelling of NaN and infinity."""
    return float(value) if value in ("nan", "inf", "-inf") else value
