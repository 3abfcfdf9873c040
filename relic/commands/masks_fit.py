"""`relic masks fit`: a saliency network from images alone."""

from __future__ import annotations

import sys
from json import dumps
from pathlib import Path
from typing import Annotated, Literal

import tyro

from relic import cores
from relic.commands.masks_infer import one_thread_each


def fit(
    source: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="SRC")],
    out: Path = Path("runs/masks"),
    images: int = 4096,
    epochs: int = 200,
    batch_size: int = 16,
    learning_rate: float = 2e-3,
    width: float = 0.5,
    seed: int = 0,
    start: Path | None = None,
    workers: int | None = None,
    engine: Literal["local", "ray"] = "local",
    address: str | None = None,
    json: bool = False,
) -> None:
    """Fit a saliency network on images alone: no labels, no weights of others.

    `relic masks infer SRC --network OUT/network.safetensors` applies it. OUT keeps everything: an interrupted fit
    continues when the same command is run again, to the same bits. labels.png shows the labels that it made,
    network.png what the network makes of the same images, `tensorboard --logdir OUT` the loss.

    Args:
        source: A .beton file, or the name of all its shards; or a folder of images.
        out: Folder of the fit.
        images: Most images; of a larger SRC, so many that lie evenly.
        epochs: Passes over the images.
        batch_size: Images per step.
        learning_rate: Largest step of AdamW.
        width: Channels of the encoder, a ResNet-18, as a share of the usual.
        seed: Seed of all that is drawn.
        start: Weights of a ResNet-18 of that width for the encoder, as `relic export RUN --to safetensors` writes them.
        workers: Processes that prepare images and labels; by default one per core, on Ray all CPUs of the cluster.
        engine: local: processes of this machine; ray: a Ray cluster, whose machines must see SRC and OUT.
        address: HOST:PORT of the Ray cluster.
        json: Print the summary as JSON.
    """
    with one_thread_each():
        from pipelines.prepare.engines import Engine
        from relic.masks.fitting import fit_network
        from saliency.network import NetworkConfig
        from saliency.training import FitConfig

        if images < 1:
            raise ValueError(f"--images {images}: give at least a batch, 16")
        config = FitConfig(
            network=NetworkConfig(width=width),
            epochs=epochs,
            batch_size=batch_size,
            learning_rate=learning_rate,
            seed=seed,
        )
        workers = cores.available() if workers is None and engine == "local" else workers
        fitted = fit_network(
            source,
            out,
            config,
            images=images,
            start=start,
            engine=Engine(kind=engine, workers=workers, address=address),
            on_note=lambda note: print(f"note: {note}", file=sys.stderr),
        )
    if json:
        print(dumps(vars(fitted)))
    else:
        work = f"{fitted.multiply_adds / 1e6:,.0f} million multiply-adds an image"
        print(f"{fitted.network}: fitted on {fitted.images:,} images, {work}")
        print(f"apply it: relic masks infer {source} --network {fitted.network}")
