"""Checkpoints: written atomically in the run's own folder, verified when read, without running code, pruned by age."""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import pickle
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import IO, Any

import torch

FORMAT = 2
_CHECKSUM_BYTES = 64


class DamagedError(ValueError):
    """A checkpoint whose bytes are not those that were written."""


def save(run: Path, step: int, payload: dict[str, Any]) -> Path:
    """Write `checkpoints/step-000123.pt`: a temporary name in the same folder, fsync, rename.

    A crash leaves the old files or the new one, never half a file under its name (NFS included, since nothing crosses
    folders).

    Raises:
        OSError: the disk is full or refuses; the older checkpoints are as they were.
    """
    folder = run / "checkpoints"
    path = path_of(run, step)
    temporary = folder / f".{path.name}.tmp"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with open(temporary, "w+b") as file:
            _serialise({"format": FORMAT, "step": step, **payload}, file)
            _seal(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        _sync_folder(folder)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        kept = newest(run)
        held = "no earlier one is there" if kept is None else f"{kept.name} is kept"
        raise OSError(
            f"checkpoint {path} was not written ({error.strerror or error}); {held}: make room or rights there, then"
            " run the same command again"
        ) from error
    return path


def read(path: Path) -> dict[str, Any]:
    """Read a checkpoint onto the CPU.

    Raises:
        FileNotFoundError: there is none.
        DamagedError: its bytes are not those that were written.
        ValueError: it is of another format.
    """
    return load(path.read_bytes(), name=str(path))


def load(content: bytes, *, name: str) -> dict[str, Any]:
    """Read a checkpoint from its bytes, every one of which the checksum at their end covers.

    Args:
        content: the file.
        name: for errors.
    """
    body, checksum = memoryview(content)[:-_CHECKSUM_BYTES], content[-_CHECKSUM_BYTES:]
    if hashlib.sha256(body).hexdigest().encode() != checksum:
        if _is_of_another_format(content):
            raise ValueError(f"{name} is not a checkpoint of format {FORMAT} (made by another version of relicv2?)")
        raise DamagedError(f"{name} is damaged (wrong checksum): delete it to fall back to the one before")
    try:
        payload = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:  # it holds more than tensors and plain values
        raise ValueError(f"{name} is not a checkpoint of this project: {str(error).splitlines()[0]}") from error
    if not isinstance(payload, dict) or payload.get("format") != FORMAT:
        raise ValueError(f"{name} is not a checkpoint of format {FORMAT} (made by another version of relicv2?)")
    return payload


def _is_of_another_format(content: bytes) -> bool:
    """Say whether these are a whole checkpoint from before there were checksums (format 1)."""
    if content[-_CHECKSUM_BYTES - 2 : -_CHECKSUM_BYTES] == _CHECKSUM_BYTES.to_bytes(2, "little"):
        return False
    try:
        payload = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except Exception:  # whatever torch says of damaged bytes
        return False
    return isinstance(payload, dict) and payload.get("format") not in (None, FORMAT)


def newest_intact(run: Path, *, on_damage: Callable[[str], None]) -> bytes | None:
    """Return the bytes of the newest checkpoint that is whole, None where there is none.

    A damaged one is put aside under another name (`step-000123.pt.damaged`), and `on_damage` gets a line for people.

    Raises:
        DamagedError: there are checkpoints, and none is whole.
        ValueError: the newest is of another format.
    """
    steps = all_steps(run)
    for step in reversed(steps):
        path = path_of(run, step)
        content = path.read_bytes()
        try:
            load(content, name=str(path))
        except DamagedError as error:
            aside = path.with_name(f"{path.name}.damaged")
            os.replace(path, aside)
            on_damage(f"{str(error).split(': delete')[0]}: put aside as {aside.name}; falling back to the one before")
            continue
        return content
    if steps:
        raise DamagedError(f"no checkpoint in {run / 'checkpoints'} is whole: start anew under another --name")
    return None


def all_steps(run: Path) -> list[int]:
    """Return the steps of a run's checkpoints, oldest first."""
    names = (path.stem.removeprefix("step-") for path in (run / "checkpoints").glob("step-*.pt"))
    return sorted(int(name) for name in names if name.isdigit())  # others are the user's own copies


def newest(run: Path) -> Path | None:
    """Return a run's newest checkpoint, None where there is none."""
    steps = all_steps(run)
    return path_of(run, steps[-1]) if steps else None


def path_of(run: Path, step: int) -> Path:
    """Return the path of a step's checkpoint."""
    return run / "checkpoints" / f"step-{step:06d}.pt"


def prune(run: Path, *, keep_last: int, keep_every: int | None) -> None:
    """Delete all but the newest `keep_last` and multiples of `keep_every` steps, and what killed writes left."""
    for left in (run / "checkpoints").glob(".step-*.pt.tmp"):
        left.unlink()
    steps = all_steps(run)
    for step in steps[: -max(keep_last, 1)]:
        if keep_every is None or step % keep_every:
            path_of(run, step).unlink()


class Saver:
    """Write checkpoints from a thread, one at a time; an error is raised by the next call.

    Args:
        run: the run directory.
        keep_last, keep_every: as `prune`.
    """

    def __init__(self, run: Path, *, keep_last: int, keep_every: int | None):
        self._run, self._keep = run, {"keep_last": keep_last, "keep_every": keep_every}
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._writing: Future[None] | None = None

    def save(self, step: int, payload: dict[str, Any]) -> None:
        """Copy what the next update changes, and write the copy while training goes on."""
        self.wait()
        self._writing = self._thread.submit(self._write, step, _copied(payload))

    def wait(self) -> None:
        """Wait until the last checkpoint is on the disk; raises OSError where it is not."""
        if self._writing is not None:
            writing, self._writing = self._writing, None
            writing.result()

    def close(self) -> None:
        """Let a checkpoint that is being written be finished; whether it was is not asked."""
        self._thread.shutdown(wait=True)

    def _write(self, step: int, payload: dict[str, Any]) -> None:
        save(self._run, step, payload)
        prune(self._run, **self._keep)


def _copied(value: Any) -> Any:
    """Return nested containers with every tensor copied to the CPU."""
    if isinstance(value, torch.Tensor):
        return value.detach().to("cpu", copy=True)
    if isinstance(value, dict):
        return {name: _copied(entry) for name, entry in value.items()}
    return [_copied(entry) for entry in value] if isinstance(value, list) else value


def _serialise(payload: dict[str, Any], file: IO[bytes]) -> None:
    """Let torch write, and raise the disk's own error where torch would speak of its archive."""
    refused: list[OSError] = []

    class Sink(io.RawIOBase):
        def writable(self) -> bool:
            return True

        def write(self, data: Any) -> int:
            try:
                return file.write(data)
            except OSError as error:
                refused.append(error)
                raise

    try:
        torch.save(payload, Sink())
    except Exception:
        if refused:
            raise refused[0] from None
        raise


def _seal(file: IO[bytes]) -> None:
    """Append the SHA-256 of all that stands before it, as the comment that a zip archive may end with.

    So torch.load and unzip read the file as it is. The archive's own CRCs leave its directory open: one flipped bit
    there made torch return memory that nobody had written.
    """
    file.seek(-2, os.SEEK_END)  # the length of the comment closes the archive's last record
    file.write(_CHECKSUM_BYTES.to_bytes(2, "little"))
    checksum = hashlib.sha256()
    file.seek(0)
    while block := file.read(1 << 20):
        checksum.update(block)
    file.write(checksum.hexdigest().encode())


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
