"""Stock FFCV and DALI read our betons, and we read FFCV's."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pipelines.beton import Beton
from pipelines.prepare.convert import ConvertConfig, convert
from pipelines.prepare.writer import write_beton


@pytest.fixture(autouse=True)
def _threads() -> Any:
    """Undo that importing ffcv sets the threads of the whole process to one."""
    import torch

    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def reference(beton: Beton, index: int) -> np.ndarray:
    """Return the pixels that Pillow gives of an image."""
    if beton.is_jpeg(index):
        return np.asarray(Image.open(io.BytesIO(beton.jpeg(index))).convert("RGB"))
    return beton.pixels(index)


def noise(height: int, width: int, seed: int) -> np.ndarray:
    """Return smooth colour noise, which JPEG keeps well."""
    coarse = np.random.default_rng(seed).integers(0, 256, (height // 8 + 2, width // 8 + 2, 3), np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))


def jpeg(image: np.ndarray, mode: str = "RGB") -> bytes:
    """Return the image as a JPEG file."""
    file = io.BytesIO()
    Image.fromarray(image).convert(mode).save(file, "JPEG", quality=95)
    return file.getvalue()


@pytest.fixture(scope="module")
def squares(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a beton of 40 images of 48 x 48 over several pages: colour, gray, pixels."""
    images: list[bytes | np.ndarray] = []
    for index in range(40):
        image = noise(48, 48, index)
        images.append(image if index % 5 == 0 else jpeg(image, "L" if index % 7 == 1 else "RGB"))
        if isinstance(images[-1], bytes):
            # Data behind the end of a JPEG is allowed; here it fills the pages.
            images[-1] += bytes(300_000)
    path = tmp_path_factory.mktemp("squares") / "x.beton"
    write_beton(path, images, [100 + 3 * index for index in range(40)], page_size=1 << 21)
    return path


# FFCV changes numba types that key its compiled functions, so numba's finalizer of a collected loader ends in a
# KeyError, which pytest would lay at the door of whichever test runs then.
_KEPT: list[Any] = []


def ffcv_loader(path: Path, decoders: dict[str, Any]) -> Any:
    """Return stock FFCV's Loader, in random order; several decoders of the same image share a pass."""
    from ffcv.fields.decoders import IntDecoder
    from ffcv.loader import Loader, OrderOption
    from ffcv.pipeline import PipelineSpec

    pipelines: dict[str, Any] = {"image": None, "label": [IntDecoder()]}
    for name, decoder in decoders.items():
        pipelines[name] = PipelineSpec("image", decoder=decoder, transforms=[])
    loader = Loader(
        str(path),
        batch_size=16,
        num_workers=1,
        order=OrderOption.RANDOM,
        drop_last=False,
        seed=1,
        pipelines=pipelines,
    )
    _KEPT.append(loader)
    return loader


def epoch(loader: Any) -> list[np.ndarray]:
    """Return labels and images of one pass."""
    batches = [tuple(np.array(part) for part in batch) for batch in loader]
    return [np.concatenate(parts) for parts in zip(*batches, strict=True)]


@pytest.mark.extra("ffcv")
def test_ffcv_reads_our_images_and_labels(squares: Path) -> None:
    from ffcv.fields.decoders import (
        CenterCropRGBImageDecoder,
        RandomResizedCropRGBImageDecoder,
        SimpleRGBImageDecoder,
    )
    from ffcv.traversal_order import QuasiRandom

    loader = ffcv_loader(
        squares,
        {
            "whole": SimpleRGBImageDecoder(),
            "center": CenterCropRGBImageDecoder((24, 24), ratio=0.5),
            "random": RandomResizedCropRGBImageDecoder((48, 48), scale=(1.0, 1.0), ratio=(1.0, 1.0)),
        },
    )
    for order in ("random", "quasi-random"):
        if order == "quasi-random":
            loader.traversal_order = QuasiRandom(loader)  # a loader of its own would compile everything again
        labels, *views = epoch(loader)
        indices = ((labels.reshape(-1) - 100) // 3).tolist()
        assert sorted(indices) == list(range(40))
        assert indices != list(range(40))
        with Beton(squares) as beton:
            assert beton.path.stat().st_size > 5 * beton.page_size
            for index, whole, center, random in zip(indices, *views, strict=True):
                wanted = reference(beton, index).astype(np.int16)
                # FFCV decodes with the fast DCT: up to 2.2 gray levels from Pillow's; another image is 60 away.
                assert np.abs(whole - wanted).mean() < 4
                assert np.abs(random - wanted).mean() < 4
                assert np.abs(center - wanted[12:36, 12:36]).mean() < 4


@pytest.mark.extra("ffcv")
@pytest.mark.parametrize(
    ("options", "is_jpeg"),
    [
        ({"write_mode": "jpg", "jpeg_quality": 95}, {True}),
        ({"write_mode": "raw"}, {False}),
        ({"write_mode": "smart", "smart_threshold": 5000}, {True, False}),
        ({"write_mode": "proportion", "compress_probability": 0.5}, {True, False}),
    ],
)
def test_we_read_what_ffcv_writes(tmp_path: Path, options: dict[str, Any], is_jpeg: set[bool], capsys) -> None:
    from ffcv.fields import BytesField, FloatField, IntField, RGBImageField
    from ffcv.writer import DatasetWriter

    images = [noise(20 + 3 * i, 50 - i, i) for i in range(24)]
    samples = [(0.5, 7 * i - 20, np.zeros(i, np.uint8), image, i) for i, image in enumerate(images)]
    fields = {
        "weight": FloatField(),
        "category": IntField(),
        "note": BytesField(),
        "picture": RGBImageField(**options),
        "second": IntField(),
    }
    path = tmp_path / "x.beton"
    np.random.seed(0)  # noqa: NPY002 - FFCV draws the proportion from the global generator
    DatasetWriter(str(path), fields, num_workers=2, page_size=1 << 21).from_indexed_dataset(samples, chunksize=3)
    capsys.readouterr()
    with Beton(path) as beton:
        assert beton.labels.tolist() == [7 * i - 20 for i in range(24)]
        assert {beton.is_jpeg(i) for i in range(24)} == is_jpeg
        for index, image in enumerate(images):
            assert (beton.heights[index], beton.widths[index]) == image.shape[:2]
            difference = np.abs(reference(beton, index).astype(np.int16) - image)
            assert difference.max() == 0 if not beton.is_jpeg(index) else difference.mean() < 8
            if beton.is_jpeg(index):
                assert bytes(beton.jpeg(index)[-2:]) == b"\xff\xd9"


def dali_decode(files: list[memoryview], batch_size: int = 100) -> Iterator[np.ndarray]:
    """Decode JPEG files with DALI on the CPU."""
    from nvidia.dali import fn, pipeline_def

    batches = [files[start : start + batch_size] for start in range(0, len(files), batch_size)]
    source = ([np.frombuffer(file, np.uint8) for file in batch] for batch in batches)

    @pipeline_def(batch_size=batch_size, num_threads=1, device_id=None, prefetch_queue_depth=1)
    def decode() -> Any:
        data = fn.external_source(source=source, batch=True)
        return fn.decoders.image(data, device="cpu", adjust_orientation=False)

    pipeline = decode()
    pipeline.build()
    for batch in batches:
        (images,) = pipeline.run()
        yield from (np.array(images.at(place)) for place in range(len(batch)))


@pytest.mark.extra("dali")
def test_dali_reads_our_jpegs(tiny_beton: Path, squares: Path) -> None:
    for path in (tiny_beton, squares):
        with Beton(path) as beton:
            indices = [index for index in range(beton.num_images) if beton.is_jpeg(index)]
            decoded = dali_decode([beton.jpeg(index) for index in indices])
            for index, image in zip(indices, decoded, strict=True):
                assert image.shape == (beton.heights[index], beton.widths[index], 3)
                assert np.abs(image.astype(np.int16) - reference(beton, index)).mean() < 1


@pytest.fixture(scope="module")
def photographs(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the beton of the 500 real ImageNet JPEGs."""
    path = tmp_path_factory.mktemp("photographs") / "x.beton"
    convert(shared_data / "imagenet500", path, config=ConvertConfig())
    return path


@pytest.mark.realdata
@pytest.mark.extra("ffcv")
def test_ffcv_reads_every_real_photograph(photographs: Path) -> None:
    from ffcv.fields.decoders import RandomResizedCropRGBImageDecoder

    labels, images = epoch(ffcv_loader(photographs, {"random": RandomResizedCropRGBImageDecoder((32, 32))}))
    with Beton(photographs) as beton:
        assert sorted(labels.reshape(-1)) == beton.labels.tolist() == list(range(500))
    assert (images.std(axis=(1, 2, 3)) > 1).mean() > 0.99


@pytest.mark.realdata
@pytest.mark.extra("dali")
def test_dali_reads_every_real_photograph(photographs: Path) -> None:
    with Beton(photographs) as beton:
        indices = [index for index in range(beton.num_images) if beton.is_jpeg(index)]
        assert len(indices) == 500
        decoded = dali_decode([beton.jpeg(index) for index in indices])
        for index, image in zip(indices, decoded, strict=True):
            assert image.shape == (beton.heights[index], beton.widths[index], 3)
            assert image.std() > 1
