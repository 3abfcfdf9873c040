"""Checks of the machine: cores, memory, limits, and the disk that the data lie on."""

from __future__ import annotations

import os
import platform
import random
import re
import resource
import shutil
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

from relic.checks.check import Check
from relic.cores import available

MEMORY = Path("/proc/meminfo")
LEAST_SHARED_MEMORY = 1 << 30  # NCCL's rings between GPUs of a machine lie there; Docker gives 64 MB
LEAST_OPEN_FILES = 1024
READ_SECONDS, READ_BYTES, READ_THREADS = 1.5, 256 << 20, 8
READ_FILES = 64  # shards read of a large data set, and images whose sizes are looked at


def cores() -> Iterator[Check]:
    """Count the cores that this process may use: affinity and container quota included."""
    there = os.cpu_count() or 1
    allowed = available()
    quota = _cgroup("cpu.max").split()
    if len(quota) == 2 and quota[0].isdigit():
        allowed = min(allowed, max(int(quota[0]) // int(quota[1]), 1))
    of_all = "" if allowed == there else f" of {there}"
    if allowed < 2:
        detail = f"{allowed}{of_all}: views and training share one"
        yield Check(
            name="cores", status="absent", detail=detail, mend="give the process two cores per GPU (taskset, --cpus)"
        )
    else:
        yield Check(name="cores", status="ok", detail=f"{allowed}{of_all}, {_processor()}")


def _processor() -> str:
    path = Path("/proc/cpuinfo")
    found = re.search(r"model name\s*:\s*(.+)", path.read_text()) if path.is_file() else None
    return found[1] if found else platform.machine()


def memory() -> Iterator[Check]:
    """Tell the main memory that is free, container limit included."""
    sizes = dict(re.findall(r"(\w+):\s+(\d+) kB", MEMORY.read_text())) if MEMORY.is_file() else {}
    if "MemAvailable" not in sizes:
        yield Check(name="memory", status="ok", detail="not known on this system")
        return
    total, free = int(sizes["MemTotal"]) << 10, int(sizes["MemAvailable"]) << 10
    limit = _cgroup("memory.max").strip()
    if limit.isdigit():
        total, free = min(total, int(limit)), min(free, int(limit))
    detail = f"{free / 2**30:.1f} GiB free of {total / 2**30:.1f} GiB"
    if free < 2 << 30:
        yield Check(name="memory", status="absent", detail=detail, mend="stop what else runs, or lower --batch-size")
    else:
        yield Check(name="memory", status="ok", detail=detail)


def _cgroup(name: str) -> str:
    path = Path("/sys/fs/cgroup") / name
    return path.read_text() if path.is_file() else ""


def shared_memory(folder: Path = Path("/dev/shm")) -> Iterator[Check]:
    """Check /dev/shm, which NCCL needs on machines with several GPUs."""
    if not folder.is_dir():
        yield Check(name=str(folder), status="absent", detail="none on this system; only several GPUs need it")
        return
    size = shutil.disk_usage(folder).total
    if size < LEAST_SHARED_MEMORY:
        mend = f"mount -o remount,size=8G {folder} (in a container: docker run --shm-size=8g)"
        detail = f"{size / 2**20:,.0f} MiB: too little for several GPUs"
        yield Check(name=str(folder), status="absent", detail=detail, mend=mend)
    else:
        yield Check(name=str(folder), status="ok", detail=f"{size / 2**30:.1f} GiB")


def open_files() -> Iterator[Check]:
    """Check the limit of open files."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if 0 <= soft < LEAST_OPEN_FILES:
        yield Check(name="open files", status="absent", detail=f"at most {soft}: few", mend="ulimit -n 65536")
    else:
        yield Check(name="open files", status="ok", detail="no limit" if soft < 0 else f"at most {soft:,}")


def reading(path: Path) -> Iterator[Check]:
    """Open a data set and read pieces of an image's size in random order, as training does, by eight threads."""
    from pipelines.shards import open_beton

    name = "reading data"
    try:
        with open_beton(path) as beton:
            num_images, files = beton.num_images, beton.files
            sizes = beton.payload_sizes[:: -(-num_images // READ_FILES) or 1]
    except (OSError, ValueError) as error:
        yield Check(name=name, status="broken", detail=str(error), mend=f"relic data convert SRC {path}")
        return
    if num_images == 0:
        yield Check(name=name, status="broken", detail=f"{path} has no images", mend=f"relic data convert SRC {path}")
        return
    chance = random.Random(0)
    files, size = chance.sample(files, min(len(files), READ_FILES)), max(int(sizes.mean()), 1)
    places, most = [], READ_BYTES // size // len(files) + 1
    with ExitStack() as closing:
        for shard in files:
            file = closing.enter_context(open(shard, "rb", buffering=0))
            there = range(0, max(shard.stat().st_size - size, 1), size)
            places += [(file.fileno(), place) for place in chance.sample(there, min(len(there), most))]
        chance.shuffle(places)
        sizes, seconds = _read_all(places, size)
    megabytes = sum(sizes) / 1e6
    detail = (
        f"{megabytes / seconds:,.0f} MB/s in random order, that is {sum(sizes) / size / seconds:,.0f} images/s of"
        f" {size / 1000:,.0f} kB ({megabytes:,.0f} MB read)"
    )
    yield Check(name=name, status="ok", detail=detail)


def _read_all(places: list[tuple[int, int]], size: int) -> tuple[list[int], float]:
    """Read `size` bytes at each (file, place), past the page cache where it can be; bytes read, and seconds."""
    if hasattr(os, "posix_fadvise"):
        for descriptor, place in places:  # only these pages: a training beside us keeps the rest of its cache
            os.posix_fadvise(descriptor, place, size, os.POSIX_FADV_DONTNEED)
    start = time.perf_counter()

    def read(where: tuple[int, int]) -> int:
        descriptor, place = where
        return len(os.pread(descriptor, size, place)) if time.perf_counter() - start < READ_SECONDS else 0

    with ThreadPoolExecutor(READ_THREADS) as pool:
        sizes = [size for size in pool.map(read, places) if size]
    return sizes, time.perf_counter() - start
