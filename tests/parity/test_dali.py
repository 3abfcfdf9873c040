"""The DALI backend against the reference, on photographs; what it shares with other backends is in tests/contracts."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from pipelines.build import build_loader
from pipelines.config import NO_PHOTOMETRIC, BackgroundConfig, PhotometricConfig, ViewsConfig
from pipelines.contract import Batch
from pipelines.prepare.writer import write_beton
from pipelines.shards import open_beton
from pipelines.views import KEEP, REMOVE, SWAP
from saliency.store import MaskStoreWriter

pytestmark = pytest.mark.extra("dali")
BATCH_SIZE = 20
GEOMETRY = ViewsConfig(photometric=NO_PHOTOMETRIC, background=BackgroundConfig(chance=0.0))
MIRRORED = ViewsConfig(photometric=PhotometricConfig(jitter_chance=0), background=BackgroundConfig(chance=0.0))
WHOLE = ViewsConfig(background=BackgroundConfig(chance=0.4, mode="swap"))


@pytest.fixture(scope="module")
def photographs_beton(imagenet_files, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a beton of 200 photographs, with masks (an ellipse each) and plates beside it."""
    path = tmp_path_factory.mktemp("photographs") / "photographs.beton"
    write_beton(path, [file.read_bytes() for file in imagenet_files[::2][:200]], [0] * 200)
    y, x = (np.mgrid[:128, :128] + 0.5) / 128
    with open_beton(path) as beton:
        writer = MaskStoreWriter(path.with_suffix(".masks"), len(beton), beton.fingerprint())
    with writer:
        for index in range(200):
            writer.write(index, ((y - 0.3 - 0.002 * index) / 0.3) ** 2 + ((x - 0.5) / 0.2) ** 2 < 1)
    plates = np.random.default_rng(0).integers(0, 256, (7, 8, 8, 3)).astype(np.uint8)
    np.save(path.with_suffix(".npy"), plates.repeat(12, axis=1).repeat(12, axis=2))
    return path


def pairs(path: Path, recipe: ViewsConfig, **options) -> Iterator[tuple[Batch, Batch]]:
    ours, truth = (
        build_loader(path, recipe, batch_size=BATCH_SIZE, backend=backend, shuffle=False, **options)
        for backend in ("dali", "reference")
    )
    try:
        yield from zip(ours, truth, strict=True)
    finally:
        ours.close()
        truth.close()


def hold(agreement, operation: str, ours: Batch, truth: Batch, **bars: float) -> None:
    assert torch.equal(ours.index, truth.index)
    for one, other in zip((*ours.large, *ours.small), (*truth.large, *truth.small), strict=True):
        for slot in range(len(one)):
            agreement.hold(operation, one[slot].numpy(), other[slot].numpy(), **bars)


@pytest.mark.realdata
def test_geometry_of_200_photographs(agreement, photographs_beton: Path):
    """The bar is 2 grey levels; decoder and filter are apart from the reference by 0.02 at most, so 0.2 is held."""
    for ours, truth in pairs(photographs_beton, GEOMETRY):
        hold(agreement, "dali geometry", ours, truth, mean_error=0.2)
    agreement.hold_bias("dali geometry")


@pytest.mark.realdata
def test_flips_are_exact(photographs_beton: Path):
    """A view that is not mirrored, or mirrored twice, is nearer to the mirrored truth than to the truth."""
    for ours, truth in pairs(photographs_beton, MIRRORED):
        for one, other in zip(ours.large, truth.large, strict=True):
            for slot in range(len(one)):
                view, right = one[slot].float(), other[slot].float()
                assert (view - right).abs().mean() < (view - right.flip(1)).abs().mean()
        break


@pytest.mark.realdata
def test_whole_views_of_200_photographs(agreement, photographs_beton: Path):
    masks, plates = photographs_beton.with_suffix(".masks"), photographs_beton.with_suffix(".npy")
    for ours, truth in pairs(photographs_beton, WHOLE, masks=masks, plates=plates):
        hold(agreement, "dali, whole views", ours, truth)


@pytest.mark.realdata
@pytest.mark.parametrize("mode", ["remove", "swap"])
def test_masks_and_plates_lie_where_the_reference_puts_them(photographs_beton: Path, mode):
    """On black photographs all that is seen is the background, which no decoder or filter touches: equal to the bit."""
    with open_beton(photographs_beton) as beton:
        sides = list(zip(beton.heights[:40].tolist(), beton.widths[:40].tolist(), strict=True))
    black = photographs_beton.with_name(f"black-{mode}.beton")
    write_beton(black, [np.zeros((height, width, 3), np.uint8) for height, width in sides], [0] * len(sides))
    y, x = np.mgrid[:128, :128]
    with open_beton(black) as beton:
        writer = MaskStoreWriter(black.with_suffix(".masks"), len(beton), beton.fingerprint())
    with writer:
        for index in range(len(sides)):
            writer.write(index, (x // 9 + y // 13 + index) % 3 > 0)
    recipe = ViewsConfig(
        photometric=PhotometricConfig(jitter_chance=0), background=BackgroundConfig(chance=0.8, mode=mode)
    )
    options = {"masks": black.with_suffix(".masks"), "plates": photographs_beton.with_suffix(".npy")}
    seen = 0
    for ours, truth in pairs(black, recipe, **options):
        for one, other in zip(ours.large, truth.large, strict=True):
            assert (one.int() - other.int()).abs().max() <= 1  # a value half-way between two levels
            assert (one != other).float().mean() < 1e-3
            seen += int((other.flatten(1).max(dim=1).values > 0).sum())
    assert seen > 80


@pytest.mark.realdata
@pytest.mark.parametrize("world_size", [1, 2, 8])
def test_order_rows_and_resume_are_those_of_fused(photographs_beton: Path, world_size: int, monkeypatch):
    """The table's rows, and so boxes, flips, plates and strengths, are compared exactly, at every place of resume."""
    from pipelines import loader as loaders
    from pipelines.backends import dali

    drawn: dict[str, list[np.ndarray]] = {"fused": [], "dali": []}
    real = loaders.drawn_rows

    def noting(name):
        return lambda *given: drawn[name].append(real(*given)) or drawn[name][-1]

    monkeypatch.setattr(loaders, "drawn_rows", noting("fused"))
    monkeypatch.setattr(dali, "drawn_rows", noting("dali"))
    masks, plates = photographs_beton.with_suffix(".masks"), photographs_beton.with_suffix(".npy")
    for rank in {0, world_size - 1}:
        options = {"rank": rank, "world_size": world_size, "masks": masks, "plates": plates, "seed": 5}
        fused, ours = (
            build_loader(photographs_beton, WHOLE, batch_size=5, backend=backend, **options)
            for backend in ("fused", "dali")
        )
        for loader in (fused, ours):
            loader.set_epoch(3)
        for taken, (expected, batch) in enumerate(zip(fused, ours, strict=True)):
            assert torch.equal(batch.index, expected.index)
            assert torch.equal(batch.label, expected.label)
            assert ours.state_dict() == fused.state_dict()
            if taken == 1:
                break
        ours.load_state_dict(fused.state_dict())
        rest = [batch.index for batch in ours]
        assert torch.equal(torch.cat(rest), torch.cat([batch.index for batch in fused]))
        for loader in (fused, ours):
            loader.close()
    rows = {name: {row.tobytes() for rows in made for row in rows} for name, made in drawn.items()}
    assert rows["dali"] == rows["fused"]
    backgrounds = {int(each) for rows in drawn["dali"] for each in rows["background"].ravel()}
    assert backgrounds == {KEEP, SWAP} != {KEEP, REMOVE}


def test_a_jpeg_that_is_cut_short_is_named(tiny_beton: Path, tmp_path: Path):
    with open_beton(tiny_beton) as beton:
        whole = bytes(beton.jpeg(0))
    short = tmp_path / "short.beton"
    write_beton(short, [whole, whole[: len(whole) // 3]], [0, 0])
    loader = build_loader(short, GEOMETRY, batch_size=2, backend="dali", shuffle=False)
    with pytest.raises(ValueError, match=r"image 1 of .*short\.beton does not decode"):
        list(loader)
    loader.close()


def test_dali_takes_the_graph_for_a_gpu():
    """It cannot be built without one, but operators, devices and arguments are checked when it is written down."""
    from nvidia.dali import pipeline_def

    from pipelines.backends.dali import graph

    def operators(device: str) -> list[str]:
        described = pipeline_def(graph)(
            lambda: None, [224, 96], "bicubic", device, batch_size=2, num_threads=1, device_id=None, exec_dynamic=True
        )
        text = described.serialize().decode("latin-1")
        return [word for word in ("mixed", "gpu", "hw_decoder_load", "jpeg_fancy_upsampling") if word in text]

    assert operators("gpu") == ["mixed", "gpu", "hw_decoder_load", "jpeg_fancy_upsampling"]
    assert operators("cpu") == []
