"""`relic masks infer`: saliency maps and masks of a beton, of its shards, or of a folder."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from json import dumps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from relic import cores

if TYPE_CHECKING:
    from relic.masks.tally import Summary
    from saliency.infer import Maker


def infer(
    source: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="SRC")],
    out: Path | None = None,
    priors: str | None = None,
    network: Path | None = None,
    png: Path | None = None,
    workers: int | None = None,
    engine: Literal["local", "ray"] = "local",
    address: str | None = None,
    overwrite: bool = False,
    json: bool = False,
) -> None:
    """Make label-free saliency masks of all images of a beton, or maps of a folder of images.

    An interrupted run continues when the same command is run again. The same bytes come out for any number of workers,
    on any engine.

    Args:
        source: A .beton file, or the name of all its shards; or a folder of images, of which only PNGs are made.
        out: Mask store to write, for shards one beside each other and this to name them all; by default SRC's name
            ending in .masks.
        priors: Handcrafted saliency priors whose mean it is, with commas between: rbd, mc, dsr, hs, mbd; by default
            all of them.
        network: Network to use instead, a file of `relic masks fit`.
        png: Folder for the maps too, gray PNGs of the images' sizes in which 128 and more is salient: DIR/000123.png
            of a beton's images, DIR/name.png of a folder's.
        workers: Processes; by default one per core, on Ray all CPUs of the cluster.
        engine: local: processes of this machine; ray: a Ray cluster, whose machines must see SRC (and the network, and
            the folder of PNGs) under the same names; a machine that is lost costs what it was at.
        address: HOST:PORT of the Ray cluster; by default the one that this machine belongs to, else one of its own.
        overwrite: Replace masks that are there already.
        json: Print the summary as JSON.
    """
    with one_thread_each():
        from pipelines.prepare.engines import Engine
        from relic.console import Progress
        from relic.masks.folder import make_pngs
        from relic.masks.stores import make_stores

        maker = _maker(priors, network)
        workers = cores.available() if workers is None and engine == "local" else workers
        runner = Engine(kind=engine, workers=workers, address=address)
        if png is not None and not png.absolute().parent.is_dir():
            raise FileNotFoundError(f"--png {png}: there is no folder {png.parent}; make it first")
        with ExitStack() as stack:
            bars: list[Progress] = []
            watch: dict[str, Any] = {
                "on_start": lambda total: bars.append(stack.enter_context(Progress("masks", total))),
                "on_progress": lambda n: bars[0].advance(n),
                "on_note": lambda note: print(f"note: {note}", file=sys.stderr),
            }
            if source.is_dir():
                if png is None or out is not None:
                    raise ValueError(f"{source} is a folder: give --png DIR for its maps, and no --out")
                summary = make_pngs(source, png, maker, engine=runner, overwrite=overwrite, **watch)
                target = png
            else:
                target = source.with_suffix(".masks") if out is None else out
                summary = make_stores(source, target, maker, engine=runner, pngs=png, overwrite=overwrite, **watch)
    if json:
        prior = ",".join(maker.priors) or None
        print(dumps({"masks_file": str(target), "prior": prior, **vars(summary), "workers": workers}))
    else:
        _print_summary(summary, target)


@contextmanager
def one_thread_each() -> Iterator[None]:
    """Keep BLAS and OpenMP, which look when they are imported, to one thread, here and in the workers.

    More would stall each other on small matrices, and might add up in another order.
    """
    names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
    before = {name: os.environ.get(name) for name in names}
    os.environ.update(dict.fromkeys(names, "1"))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _maker(priors: str | None, network: Path | None) -> Maker:
    from saliency.infer import Maker, network_maker
    from saliency.priors import find_priors

    if network is not None:
        if priors is not None:
            raise ValueError(f"--priors {priors} or --network {network}: give one of them")
        return network_maker(network.absolute())
    return Maker() if priors is None else Maker(priors=tuple(find_priors(priors)))


def _print_summary(summary: Summary, target: Path) -> None:
    reasons = ", ".join(f"{count:,} {reason}" for reason, count in summary.rejected.items())
    print(target)
    print(f"  masks     {summary.masks:,} of {summary.images:,} images, by {summary.maker}")
    print(f"  rejected  {sum(summary.rejected.values()):,}" + (f" ({reasons})" if reasons else ""))
    if summary.coverage_quantiles:
        shares = "   ".join(f"{float(level):.0%}: {share:.0%}" for level, share in summary.coverage_quantiles.items())
        print(f"  coverage  {shares}   (quantile: salient share of the image)")
    if summary.resumed:
        print(f"  continued {summary.resumed:,} images were done by an earlier run")
    print(f"  rate      {summary.images_per_second:,.1f} images/s, {summary.seconds:,.1f} s")
