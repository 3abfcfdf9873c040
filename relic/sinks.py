"""Where metrics go: JSON lines always, TensorBoard by default, Weights & Biases by flag."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any, Protocol

from relic.config import RunConfig, run_directory, to_dict


class Sink(Protocol):
    """Takes one record of metrics per call."""

    def write(self, record: dict[str, Any]) -> None:
        """Store a record; `record["step"]` is the number of updates done."""
        ...

    def close(self) -> None:
        """Flush."""
        ...


class JsonLines:
    """Append records to `metrics.jsonl`, each flushed, NaN and infinity as strings (JSON has no such numbers).

    Args:
        path: the file.
        step: the step that the run resumes at; later lines of an interrupted run are cut off, since they come again.
    """

    def __init__(self, path: Path, *, step: int):
        lines = path.read_text().splitlines() if path.exists() else []
        kept = [line for line in lines if _step_of(line) <= step]
        if kept != lines:
            temporary = path.with_suffix(".tmp")
            temporary.write_text("".join(line + "\n" for line in kept))
            temporary.replace(path)
        self._file = open(path, "a")  # noqa: SIM115 - open for the life of the run

    def write(self, record: dict[str, Any]) -> None:
        """Append one line."""
        self._file.write(json.dumps({name: _finite(value) for name, value in record.items()}) + "\n")
        self._file.flush()

    def close(self) -> None:
        """Close the file."""
        self._file.close()


class TensorBoard:
    """Write numbers as scalars into `tensorboard/`."""

    def __init__(self, folder: Path, *, step: int):
        from torch.utils.tensorboard.writer import SummaryWriter

        self._writer = SummaryWriter(str(folder), purge_step=step + 1 if step else None)

    def write(self, record: dict[str, Any]) -> None:
        """Add every number of the record."""
        for name, value in record.items():
            if isinstance(value, int | float) and name != "step":
                self._writer.add_scalar(name, value, record["step"])

    def close(self) -> None:
        """Flush and close the event file."""
        self._writer.close()


class WeightsAndBiases:
    """Log to one W&B run per run directory, continued under the same id after a resume."""

    def __init__(self, config: RunConfig):
        try:
            import wandb
        except ImportError as error:
            raise ValueError("log.wandb needs wandb: pip install 'relicv2[track]'") from error
        run = run_directory(config)
        self._run = wandb.init(
            project="relicv2", name=run.name, id=run.name, resume="allow", dir=str(run), config=to_dict(config)
        )

    def write(self, record: dict[str, Any]) -> None:
        """Log the record under its step."""
        self._run.log({k: v for k, v in record.items() if isinstance(v, int | float)}, step=record["step"])

    def close(self) -> None:
        """Finish the upload."""
        self._run.finish()


def open_sinks(config: RunConfig, *, step: int) -> list[Sink]:
    """Open the sinks that a configuration asks for, continuing at `step`."""
    run = run_directory(config)
    sinks: list[Sink] = [JsonLines(run / "metrics.jsonl", step=step)]
    if config.log.tensorboard:
        sinks.append(TensorBoard(run / "tensorboard", step=step))
    if config.log.wandb:
        sinks.append(WeightsAndBiases(config))
    return sinks


def _step_of(line: str) -> float:
    try:
        return json.loads(line)["step"]
    except (ValueError, KeyError, TypeError):
        return math.inf  # half a line, from a machine that went down while writing


def _finite(value: Any) -> Any:
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value
