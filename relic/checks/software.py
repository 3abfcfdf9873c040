"""Checks of what is installed: our packages, libraries, torch and GPUs, decoders, optional packages."""

from __future__ import annotations

import ctypes
import importlib.metadata
import importlib.util
import io
import os
import platform
import re
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator
from pathlib import Path

from relic.checks.check import Check

ROOT = Path(__file__).resolve().parent.parent.parent
OUR_PACKAGES = ("relic", "pipelines", "saliency", "benchmarks")
REQUIRED = {
    "torchvision": "torchvision",
    "numpy": "numpy",
    "cv2": "opencv-python-headless",
    "numba": "numba",
    "simplejpeg": "simplejpeg",
    "PIL": "pillow",
    "tyro": "tyro",
    "rich": "rich",
    "yaml": "pyyaml",
    "safetensors": "safetensors",
    "matplotlib": "matplotlib",
    "jinja2": "jinja2",
}
OPTIONAL = {
    "timm": ("timm", "timm backbones and export to timm", "pip install 'relicv2[eval]'"),
    "tensorboard": ("tensorboard", "event files beside metrics.jsonl", "pip install tensorboard"),
    "wandb": ("wandb", "logging to Weights & Biases", "pip install 'relicv2[track]'"),
}
SLOW_DECODE = 400  # images/s of 500x375 on one core; a Zen 4 core makes 820 with libjpeg-turbo's vector code


def python() -> Iterator[Check]:
    """Tell the interpreter; pip refuses those before 3.10."""
    yield Check(name="Python", status="ok", detail=f"{platform.python_version()} ({sys.executable})")


def own_packages(root: Path = ROOT) -> Iterator[Check]:
    """Check that our four top-level packages are ours: their names are taken on PyPI.

    relic-pytorch also installs `relic`, PAIR's saliency installs `saliency`.
    """
    owners = importlib.metadata.packages_distributions()
    clean = True
    for name in OUR_PACKAGES:
        foreign = sorted({owner for owner in owners.get(name, []) if owner.lower() != "relicv2"})
        mend = f"pip uninstall {' '.join(foreign)}" if foreign else "pip install --force-reinstall --no-deps relicv2"
        folders = _folders(name)
        if not folders:
            clean = False
            yield Check(name=name, status="broken", detail=f"the package {name} is missing beside {root}", mend=mend)
        elif folders[0] != root / name:
            clean = False
            who = f" of {', '.join(foreign)}" if foreign else ""
            yield Check(
                name=name, status="broken", detail=f"the package {name}{who} in {folders[0]} hides ours", mend=mend
            )
        elif foreign:
            clean = False
            # In one site-packages the two have overwritten each other's files; ours must then be installed again.
            shared = any(_installs_into(owner, root) for owner in foreign)
            again = " && pip install --force-reinstall --no-deps relicv2" if shared else ""
            what = "has written into our package" if shared else "hides ours where it comes first in sys.path"
            yield Check(
                name=name,
                status="broken" if shared else "absent",
                detail=f"{', '.join(foreign)} also installs {name}: it {what}",
                mend=mend + again,
            )
    if clean:
        yield Check(name="packages", status="ok", detail=f"{', '.join(OUR_PACKAGES)} in {root}")


def _folders(name: str) -> list[Path]:
    try:
        spec = importlib.util.find_spec(name)
    except (ImportError, ValueError):
        return []
    if spec is None:
        return []
    # A module of one file has no folder, but hides a package just as well.
    places = spec.submodule_search_locations or ([spec.origin] if spec.origin else [])
    return [Path(place).resolve() for place in places]


def _installs_into(distribution: str, root: Path) -> bool:
    files = importlib.metadata.distribution(distribution).locate_file("")
    return Path(str(files)).resolve() == root


def required_packages() -> Iterator[Check]:
    """Check that what the code imports is there."""
    missing = [package for module, package in REQUIRED.items() if importlib.util.find_spec(module) is None]
    if missing:
        mend = f"pip install {' '.join(missing)}"
        yield Check(name="libraries", status="broken", detail=f"missing: {', '.join(missing)}", mend=mend)
        return
    shown = ("torchvision", "numpy", "numba", "opencv-python-headless", "simplejpeg", "pillow")
    yield Check(name="libraries", status="ok", detail=", ".join(f"{n} {v}" for n in shown if (v := _version(n))))


def torch_and_gpus() -> Iterator[Check]:
    """Check torch, driver and GPUs, and that a GPU computes."""
    driver = _driver_version()
    try:
        import torch
    except (ImportError, OSError) as error:
        yield Check(
            name="torch", status="broken", detail=f"does not import: {error}", mend="pip install torch torchvision"
        )
        return
    build = f"for CUDA {torch.version.cuda}" if torch.version.cuda else "CPU build"
    yield Check(name="torch", status="ok", detail=f"{torch.__version__}, {build}")
    if driver is None:
        mend = "on a GPU machine: ubuntu-drivers install (in a container: docker run --gpus all)"
        yield Check(name="NVIDIA driver", status="absent", detail="none: training runs on the CPU", mend=mend)
        return
    yield Check(name="NVIDIA driver", status="ok", detail=driver)
    if torch.version.cuda is None:
        mend = "pip install --force-reinstall torch torchvision (on Linux, PyPI's are for CUDA)"
        yield Check(name="GPU", status="broken", detail="there is a driver, but torch is a CPU build", mend=mend)
        return
    with warnings.catch_warnings(record=True) as complaints:
        warnings.simplefilter("always")
        available = torch.cuda.is_available()
    if not available:
        reason = " ".join(str(complaints[0].message).split())[:160] if complaints else "torch sees none"
        mend = f"update the driver for CUDA {torch.version.cuda}, or check CUDA_VISIBLE_DEVICES and `nvidia-smi`"
        yield Check(name="GPU", status="broken", detail=reason, mend=mend)
        return
    for number in range(torch.cuda.device_count()):
        yield _gpu(number)


def _gpu(number: int) -> Check:
    import torch

    properties = torch.cuda.get_device_properties(number)
    capability = (properties.major, properties.minor)
    what = f"{properties.name}, {properties.total_memory / 2**30:.0f} GiB, sm_{capability[0]}{capability[1]}"
    try:
        total = torch.ones(64, 64, device=f"cuda:{number}").matmul(torch.ones(64, 64, device=f"cuda:{number}")).sum()
        computes = float(total) == 64.0**3
    except RuntimeError as error:
        return Check(
            name=f"GPU {number}",
            status="broken",
            detail=f"{what}: {str(error).splitlines()[0]}",
            mend="pip install --upgrade torch (this build has no code for the GPU), or free the GPU (`nvidia-smi`)",
        )
    if not computes:
        return Check(
            name=f"GPU {number}", status="broken", detail=f"{what}: computes wrongly", mend="nvidia-smi -q -d ECC"
        )
    if capability < (8, 0):
        detail = f"{what}, no bfloat16"
        return Check(name=f"GPU {number}", status="absent", detail=detail, mend="train with --precision float16")
    return Check(name=f"GPU {number}", status="ok", detail=f"{what}, bfloat16")


def _driver_version(path: Path = Path("/proc/driver/nvidia/version")) -> str | None:
    if not path.is_file():
        return None
    found = re.search(r"(\d+\.\d+(?:\.\d+)?)  ", path.read_text())
    return found[1] if found else "unknown version"


def triton() -> Iterator[Check]:
    """Check Triton, which the kernels are written in."""
    version = _version("triton") if importlib.util.find_spec("triton") else None
    if version:
        yield Check(name="Triton", status="ok", detail=version)
    else:
        detail = "absent: the kernels for GPUs are written in it"
        yield Check(name="Triton", status="absent", detail=detail, mend="pip install triton")


def jpeg_decoding() -> Iterator[Check]:
    """Decode a small JPEG over and over, as the fused backend does."""
    try:
        import numpy as np
        import simplejpeg
        from PIL import Image
    except (ImportError, OSError) as error:
        mend = "pip install --force-reinstall simplejpeg"
        yield Check(name="JPEG decoding", status="broken", detail=f"does not import: {error}", mend=mend)
        return
    ramp = np.add.outer(np.arange(375), np.arange(500))
    noise = np.random.default_rng(0).integers(0, 40, (375, 500))
    picture = np.stack([ramp * 215 // ramp.max() + noise, ramp[::-1] * 215 // ramp.max() + noise, noise * 5], -1)
    file = io.BytesIO()
    Image.fromarray(picture.astype(np.uint8)).save(file, "JPEG", quality=90)
    jpeg = file.getvalue()
    decoded = simplejpeg.decode_jpeg(jpeg, "RGB", fastdct=False, fastupsample=False)
    if decoded.shape != (375, 500, 3):
        mend = "pip install --force-reinstall simplejpeg"
        yield Check(name="JPEG decoding", status="broken", detail=f"decodes to {decoded.shape}", mend=mend)
        return
    count, start, used = 0, time.perf_counter(), time.thread_time()
    while time.perf_counter() - start < 0.4:
        simplejpeg.decode_jpeg(jpeg, "RGB", fastdct=False, fastupsample=False)
        count += 1
    rate = count / (time.thread_time() - used)  # of the core's own time, whatever else runs on it
    size = f"500×375 ({len(jpeg) // 1000} kB)"
    detail = f"simplejpeg {_version('simplejpeg')}: {rate:,.0f} images/s of {size} on one core"
    if rate < SLOW_DECODE:
        mend = "pip install --force-reinstall simplejpeg (a wheel has libjpeg-turbo's vector code)"
        yield Check(name="JPEG decoding", status="absent", detail=f"{detail}: slow", mend=mend)
    else:
        yield Check(name="JPEG decoding", status="ok", detail=detail)


def compiled_engine() -> Iterator[Check]:
    """Check that the fused backend's engine was compiled, and for which vector units this machine uses it."""
    from pipelines import engine

    builds = engine.available()
    if builds == ["numba"]:
        mend = "apt-get install g++ python3-dev && pip install --force-reinstall --no-deps relicv2"
        yield Check(
            name="engine", status="absent", detail="not compiled: numba renders the same views, slower", mend=mend
        )
        return
    try:
        yield Check(name="engine", status="ok", detail=f"compiled, uses {engine.chosen()} of {', '.join(builds)}")
    except ValueError as error:
        yield Check(
            name="engine", status="broken", detail=str(error), mend="unset RELIC_ENGINE, or install relicv2 again"
        )


def numba_cache() -> Iterator[Check]:
    """Check that numba can keep what it compiles; where it cannot, `cache=True` raises at import."""
    sources = [folder / "engine" for folder in _folders("pipelines")]
    user = Path(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")) / "numba"
    given = os.environ.get("NUMBA_CACHE_DIR")
    places = [*([Path(given)] if given else []), *(source / "__pycache__" for source in sources), user]
    place = next((place for place in places if _writable(place)), None)
    if place is not None:
        yield Check(name="numba cache", status="ok", detail=str(place))
        return
    mend = "export NUMBA_CACHE_DIR=/tmp/numba-cache"
    detail = f"not writable: {', '.join(map(str, places))}"
    yield Check(name="numba cache", status="broken", detail=detail, mend=mend)


def _writable(folder: Path) -> bool:
    """Try whether files can be made in a folder, or in the nearest folder above it that exists."""
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    try:
        with tempfile.TemporaryFile(dir=folder):
            return True
    except OSError:
        return False


def dali() -> Iterator[Check]:
    """Check DALI by its files; importing it takes seconds."""
    installed = next(
        (d for d in importlib.metadata.distributions() if d.name and d.name.lower().startswith("nvidia-dali-cuda")),
        None,
    )
    if installed is not None:
        yield Check(name="DALI", status="ok", detail=f"{installed.version} ({installed.name})")
        return
    cuda = "130" if _cuda_major() >= 13 else "120"
    mend = f"pip install nvidia-dali-cuda{cuda}"
    yield Check(name="DALI", status="absent", detail="absent: only the dali backend needs it", mend=mend)


def _cuda_major() -> int:
    try:
        import torch
    except (ImportError, OSError):
        return 12
    return int((torch.version.cuda or "12").split(".")[0])


def ffcv() -> Iterator[Check]:
    """Check stock FFCV by its compiled library; importing it takes seconds and changes torch's threads."""
    mend = (
        "apt-get install libopencv-dev libturbojpeg0-dev pkg-config build-essential && pip install ffcv"
        if sys.version_info < (3, 12)
        else "use Python 3.11: ffcv 1.0.2 does not build on 3.12 and newer"
    )
    libraries = [library for folder in _folders("ffcv") for library in folder.parent.glob("*_libffcv*.so")]
    libraries += [library for folder in _folders("ffcv") for library in folder.glob("*_libffcv*.so")]
    if not libraries:
        yield Check(
            name="ffcv", status="absent", detail="absent: only the ffcv backend (a baseline) needs it", mend=mend
        )
        return
    try:
        ctypes.CDLL(str(libraries[0]))
    except OSError as error:
        yield Check(name="ffcv", status="absent", detail=f"installed, but does not load: {error}", mend=mend)
        return
    yield Check(name="ffcv", status="ok", detail=str(_version("ffcv")))


def optional_packages() -> Iterator[Check]:
    """Check what single features need."""
    for module, (package, purpose, mend) in OPTIONAL.items():
        if importlib.util.find_spec(module):
            yield Check(name=module, status="ok", detail=str(_version(package)))
        else:
            yield Check(name=module, status="absent", detail=f"absent: needed for {purpose}", mend=mend)


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
