"""A saliency network for a data set: which images it is fitted on, the fit's folder, and how it comes on."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from pipelines import decode
from pipelines.prepare.engines import Engine, run
from pipelines.shards import AnyBeton, open_beton
from relic import cores
from relic.console import Progress
from relic.lock import only_writer
from relic.masks.batches import check_seen
from relic.masks.folder import images_in, read_picture
from saliency.fit import fit
from saliency.network import multiply_adds
from saliency.sheet import sheet
from saliency.training import FitConfig

MOST_IMAGES = 4096  # 0.16 MB of memory each; so many differ enough, and an epoch takes a minute of one core


@dataclass(frozen=True, kw_only=True)
class Fitted:
    """What a fit made."""

    network: str
    """File of the network."""
    images: int
    """That it was fitted on."""
    damaged: int
    """Others that do not decode."""
    multiply_adds: int
    """Of the network, per image."""


class OfBeton(NamedTuple):
    """Reads images of a beton, or of its shards, on whatever machine a task runs."""

    path: Path
    fingerprint: str

    def __call__(self, index: int) -> np.ndarray:
        """Return an image, uint8 [H, W, 3]; ValueError where it is damaged."""
        return decode.fused(_opened(self), index).copy()


class OfFolder(NamedTuple):
    """Reads images of a folder, on whatever machine a task runs."""

    path: Path
    names: tuple[Path, ...]

    def __call__(self, index: int) -> np.ndarray:
        """Return an image, uint8 [H, W, 3]; ValueError where it is damaged."""
        file = self.path / self.names[index]
        check_seen(file)
        return read_picture(file)


@lru_cache(maxsize=1)
def _opened(reader: OfBeton) -> AnyBeton:
    """Open a beton once per process. OSError, not ValueError: its images are not damaged, and must not be left out."""
    check_seen(reader.path)
    try:
        beton = open_beton(reader.path)
    except ValueError as error:
        raise OSError(str(error)) from None
    if beton.fingerprint() != reader.fingerprint:
        raise OSError(f"{reader.path}: has other images than when the fit was begun; give another --out")
    return beton


def fit_network(
    source: Path,
    folder: Path,
    config: FitConfig,
    *,
    images: int = MOST_IMAGES,
    start: Path | None = None,
    engine: Engine,
    on_note: Callable[[str], None],
) -> Fitted:
    """Fit a network on images of a beton, of its shards or of a folder; continues what was interrupted.

    Args:
        source: the images; of more than `images`, so many that lie evenly.
        folder: kept files, sheets, TensorBoard's log and the network go there.
        config: how it is fitted.
        images: most images.
        start: exported ResNet-18 for the encoder (`relic export RUN --to safetensors`).
        engine: where images are prepared and labels made; the network itself trains here.
        on_note: gets a sentence for the user.

    Raises:
        OSError, ValueError: in one line that names the mend; what is finished is kept.
    """
    read, count, identity = _reader(source)
    indices = np.linspace(0, count - 1, min(images, count)).round().astype(int).tolist()
    begun = {"source": identity, "images": len(indices), "start": None if start is None else str(start.absolute())}
    begun["config"] = json.loads(json.dumps(asdict(config)))
    weights = None if start is None else _weights(start)
    folder.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(cores.available())  # the workers are gone when the network trains
    with only_writer(folder, "--out"):
        _remember(folder, begun)
        with _Watch(folder, config) as watch:
            each: Any = partial(run, engine=engine, on_note=on_note)
            network, seen = fit(read, indices, folder, config, watcher=watch, each=each, start=weights)
    if seen < len(indices):
        on_note(f"{len(indices) - seen} of {len(indices)} images do not decode and were left out")
    return Fitted(
        network=str(network),
        images=seen,
        damaged=len(indices) - seen,
        multiply_adds=multiply_adds(config.network),
    )


def _reader(source: Path) -> tuple[Callable[[int], np.ndarray], int, str]:
    """Return what reads images by index, how many there are, and what tells this source from another."""
    if source.is_dir():
        names = tuple(images_in(source))
        digest = hashlib.sha256("\n".join(map(str, names)).encode("utf-8", "surrogateescape")).hexdigest()
        return OfFolder(source.absolute(), names), len(names), f"{source.absolute()}, names {digest[:16]}"
    with open_beton(source) as beton:
        fingerprint = beton.fingerprint()
        return OfBeton(source.absolute(), fingerprint), beton.num_images, fingerprint


def _remember(folder: Path, begun: dict[str, Any]) -> None:
    """Write down what a fit is of, or hold it against what stands there."""
    file = folder / "fit.json"
    if not file.exists():
        file.write_text(json.dumps(begun, indent=1) + "\n")
        return
    found = json.loads(file.read_text())
    changed = [name for name in begun if found.get(name) != begun[name]]
    if changed:
        raise ValueError(f"{folder}: was begun with another {' and '.join(changed)}; give another --out, or the same")


def _weights(path: Path) -> dict[str, Any]:
    mend = "make it by `relic export RUN --to safetensors`"
    if not path.is_file():
        raise FileNotFoundError(f"--start {path}: no such file; {mend}")
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise ValueError(f"--start {path}: not a readable safetensors file ({error}); {mend}") from None


class _Watch:
    """Shows progress, and keeps a TensorBoard log and a contact sheet of each phase."""

    def __init__(self, folder: Path, config: FitConfig):
        from torch.utils.tensorboard.writer import SummaryWriter

        self._folder, self._config = folder, config
        self._log = SummaryWriter(str(folder / "tensorboard"))
        self._stack = ExitStack()
        self._bars: dict[str, Progress] = {}

    def __enter__(self) -> _Watch:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()
        self._log.close()

    def _bar(self, name: str, total: int, unit: str) -> Progress:
        if name not in self._bars:
            self._stack.close()  # one bar at a time
            self._bars[name] = self._stack.enter_context(Progress(name, total, unit))
        return self._bars[name]

    def prepared(self, images: int, of: int) -> None:
        bar = self._bar("prepare", of, "images")
        bar.advance(images - bar.done)

    def epoch(self, done: int, loss: float) -> None:
        bar = self._bar("learn", self._config.epochs, "epochs")
        bar.advance(done - bar.done)
        self._log.add_scalar("loss", loss, done)

    def phase(self, name: str, rgb: np.ndarray, columns: dict[str, np.ndarray]) -> None:
        (self._folder / f"{name}.png").write_bytes(sheet(rgb, columns, heading=f"{self._folder}: {name}"))
        maps = np.stack([np.concatenate(list(row), axis=1) for row in zip(*columns.values(), strict=True)])
        self._log.add_images(name, np.repeat(maps[:, None], 3, axis=1), dataformats="NCHW")
