"""`relic data convert`, `relic data info` and `relic data check`."""

from __future__ import annotations

import sys
from contextlib import ExitStack
from json import dumps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from relic import cores

if TYPE_CHECKING:
    from pipelines.prepare.convert import Summary

SHOWN_FAILURES = 20


def convert(
    source: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="SRC")],
    out: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="OUT.beton")],
    workers: int | None = None,
    shard_size: str | None = None,
    engine: Literal["local", "ray"] = "local",
    address: str | None = None,
    max_side: int | None = None,
    quality: int | None = None,
    per_class: int | None = None,
    skip_per_class: int = 0,
    exif: Literal["upright", "ignore"] = "ignore",
    verify: Literal["full", "header"] = "header",
    page_size: str = "8MiB",
    strict: bool = False,
    overwrite: bool = False,
    json: bool = False,
) -> None:
    """Convert a folder, tars or a zip of images to a beton, or to many shards of one.

    JPEG files are copied byte for byte, everything else that is 8-bit and opaque is stored as exact pixels, and
    what cannot be stored is listed with its reason in OUT.rejected.jsonl. The same bytes come out for any number of
    workers, on any engine. An interrupted conversion continues when the same command is run again.

    Args:
        source: Folder with a folder per class; folder of images without classes; .tar, or folder or 'glob' of .tar
            files (ImageNet's own too, WebDataset's with 'train-{0000..0146}.tar'); .zip; or the URL of any of these.
        out: The beton to make, a path; class names go into OUT.beton.classes.txt.
        workers: Most processes, small data sets take fewer; by default one per core, on Ray all CPUs of the cluster.
        shard_size: Make shards of at most so many bytes of images (a tar is not cut), with KiB, MiB or GiB. OUT then
            names them all, and every command takes it as one data set. Memory does not grow with the number of images.
        engine: local: processes of this machine; ray: a Ray cluster, whose machines must see SRC and the folder of OUT
            under the same names; a machine that is lost costs the shards that it was at.
        address: HOST:PORT of the Ray cluster; by default the one that this machine belongs to, else one of its own.
        max_side: Make images with a longer side smaller, antialiased, and store them as JPEG; never enlarges.
        quality: JPEG quality of those, 1 to 100; 90 by default.
        per_class: Take only so many files of each class, in sorted order.
        skip_per_class: Skip so many files of each class first.
        exif: ignore: photographs that EXIF turns are copied as they are, which is how torchvision, FFCV and DALI read
            them; upright: their upright pixels are stored.
        verify: header: markers, sizes and the end of each JPEG, which finds every cut file; full: decodes each JPEG,
            which finds damaged ones too, at a fifth of the speed (as `relic data check` does later).
        page_size: Least page, a power of two from 2MiB to 2048MiB; grows to hold the largest source file.
        strict: Make nothing where any file is rejected. Of shards, the work is kept for a run without it.
        overwrite: Replace OUT.
        json: Print the summary as JSON.
    """
    from pipelines.prepare.convert import ConvertConfig
    from pipelines.prepare.convert import convert as run
    from relic.console import Progress

    if quality is not None and max_side is None:
        raise ValueError("--quality is for images that --max-side makes smaller; give that too")
    config = ConvertConfig(
        workers=cores.available() if workers is None and engine == "local" else workers,
        engine=engine,
        address=address,
        shard_size=None if shard_size is None else _bytes("--shard-size", shard_size, "4GiB"),
        max_side=max_side,
        quality=90 if quality is None else quality,
        per_class=per_class,
        skip_per_class=skip_per_class,
        exif=exif,
        verify=verify,
        page_size=_bytes("--page-size", page_size, "8MiB"),
        strict=strict,
        overwrite=overwrite,
    )
    with ExitStack() as stack:
        bars: list[Progress] = []
        summary = run(
            source,
            out,
            config=config,
            on_start=lambda total, unit: bars.append(stack.enter_context(Progress("convert", total, unit))),
            on_progress=lambda n: bars[0].advance(n),
            on_note=lambda note: print(f"note: {note}", file=sys.stderr),
        )
    if summary.rejected:
        rejected = sum(summary.rejected.values())
        print(f"warning: {rejected:,} files were rejected, see {summary.rejected_list}", file=sys.stderr)
    if json:
        from dataclasses import asdict

        print(dumps(asdict(summary)))
    else:
        _print_summary(summary)


def info(file: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="FILE.beton")], json: bool = False) -> None:
    """Say what is inside a beton.

    Args:
        file: A beton, ours or FFCV's, or the name of all shards.
        json: Print JSON.
    """
    from pipelines.prepare.info import describe

    facts = describe(file)
    if json:
        print(dumps(facts))
    else:
        _print_facts(facts)


def check(
    file: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="FILE.beton")],
    workers: int | None = None,
    json: bool = False,
) -> int:
    """Decode every image of a beton; exit code 1 where one fails.

    Args:
        file: A beton, ours or FFCV's, or the name of all shards.
        workers: Processes; by default one per core.
        json: Print JSON.
    """
    import time

    from pipelines.prepare.check import check as run
    from pipelines.shards import open_beton
    from relic.console import Progress

    workers = cores.available() if workers is None else workers
    if workers < 1:
        raise ValueError(f"--workers {workers}: give at least 1")
    with open_beton(file) as beton:
        images = beton.num_images
    start = time.perf_counter()
    with Progress("check", images) as progress:
        bad = run(file, workers=workers, on_progress=progress.advance)
    rate = images / (time.perf_counter() - start)
    if json:
        failures = [{"index": index, "reason": reason} for index, reason in bad]
        print(dumps({"path": str(file), "images": images, "bad": failures, "images_per_second": rate}))
    else:
        for index, reason in bad[:SHOWN_FAILURES]:
            print(f"image {index}: {reason}")
        if len(bad) > SHOWN_FAILURES:
            print(f"and {len(bad) - SHOWN_FAILURES:,} more; --json lists all")
        print(f"{file}: {images - len(bad):,} of {images:,} images decode, {rate:,.0f} images/s")
        if bad:
            print("convert again with --verify full to leave them out")
    return 1 if bad else 0


def _print_summary(summary: Summary) -> None:
    raw = summary.images - summary.jpegs
    shards = f" in {summary.shards:,} shards" if summary.shards else ""
    print(f"{summary.out}: {summary.images:,} images ({summary.jpegs:,} JPEG, {raw:,} as pixels){shards}")
    print(f"classes     {summary.classes:,}" if summary.classes else "classes     none (label -1)")
    for reason, count in summary.rejected.items():
        print(f"rejected    {count:,} {reason}")
    if summary.ignored:
        print(f"passed over {summary.ignored:,} files outside of the class folders, or beside images (.json, .txt)")
    print(f"bytes       {summary.bytes:,} in pages of {summary.page_size >> 20} MiB")
    if summary.resumed_files:
        print(f"continued   {summary.resumed_files:,} files were done by an earlier run")
    print(f"speed       {summary.images_per_second:,.0f} images/s, {summary.seconds:,.1f} s")


def _print_facts(facts: dict[str, Any]) -> None:
    pages = facts["page_size"] >> 20
    shards = f" in {facts['shards']:,} shards" if facts["shards"] else ""
    print(f"{facts['path']}: {facts['images']:,} images{shards}, {facts['bytes']:,} bytes in pages of {pages} MiB")
    if facts["class_sizes"]:
        least, median, most = facts["class_sizes"]
        print(f"classes     {facts['classes']:,}, of {least:,} to {most:,} images (median {median:,.0f})")
    if facts["unlabeled"]:
        print(f"unlabeled   {facts['unlabeled']:,}")
    print(f"stored      {facts['jpegs']:,} JPEG, {facts['raw']:,} as pixels")
    for name, unit in (("width", "px"), ("height", "px"), ("jpeg_bytes", "bytes")):
        if facts[name]:
            least, low, middle, high, most = facts[name]
            print(f"{name:<11} {least:,} least, {low:,} / {middle:,} / {high:,} at 5/50/95 %, {most:,} most ({unit})")
    if facts["headers_sampled"]:
        print(f"gray        {facts['gray_share']:.1%} of {facts['headers_sampled']:,} JPEGs looked at")
    if facts["turned"]:
        print(f"turned      {facts['turned']:,} of them by EXIF, which is not heeded (`--exif upright` stores them so)")
    print(f"fingerprint {facts['fingerprint']}")
    masks = facts["masks"]
    if masks is None:
        print("masks       none beside it")
    elif "problem" in masks:
        print(f"masks       {masks['problem']}")
    else:
        maker = masks["maker"] or "whom it does not say"
        print(f"masks       {masks['path']}: {masks['masks']:,}, {masks['absent']:,} absent, by {maker}")


def _bytes(flag: str, text: str, example: str) -> int:
    units = {"KiB": 10, "MiB": 20, "GiB": 30}
    number, shift = text.strip(), 0
    for unit, bits in units.items():
        if number.lower().endswith(unit.lower()):
            number, shift = number[: -len(unit)], bits
    if not number.strip().isdigit():
        raise ValueError(f"{flag} {text}: give a number of bytes, or one with KiB, MiB or GiB, for instance {example}")
    return int(number) << shift
