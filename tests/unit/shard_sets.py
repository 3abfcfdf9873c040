"""A small data set to convert in shards, and what comes of it."""

from __future__ import annotations

from pathlib import Path

import pytest
from making import encoded

from pipelines.prepare.convert import ConvertConfig, Summary, convert
from pipelines.shards import open_beton

SHARD = 4000  # bytes: two to four of the images
GOOD = {
    f"{name}/{i}.jpg": encoded(20 + 3 * i, 30, 10 * n + i)
    for n, name in enumerate(("ant", "bee", "cow"))
    for i in range(5)
}
GOOD["bee/5.png"] = encoded(9, 9, 77, file_format="PNG")
BAD = {"ant/9.jpg": b"", "bee/9.jpg": b"x" * 100, "cow/9.jpg": b""}


def run(source: str | Path, out: Path, **options) -> Summary:
    return convert(source, out, config=ConvertConfig(**{"shard_size": SHARD, **options}))


def made(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def beside(tmp_path: Path, name: str) -> Path:
    (tmp_path / name).mkdir()
    return tmp_path / name / "x.beton"


def stored(path: Path) -> list[tuple[int, bytes]]:
    with open_beton(path) as beton:
        payload = [beton.jpeg(i) if beton.is_jpeg(i) else beton.pixels(i) for i in range(beton.num_images)]
        return [(int(label), bytes(data)) for label, data in zip(beton.labels.tolist(), payload, strict=True)]


class Stop(Exception):
    """Ends a conversion from within, as a crash would."""


def interrupted(source: Path, out: Path, after: int, **options) -> None:
    done = 0

    def count(n: int) -> None:
        nonlocal done
        done += n
        if done >= after:
            raise Stop

    with pytest.raises(Stop):
        convert(source, out, config=ConvertConfig(shard_size=SHARD, **options), on_progress=count)
