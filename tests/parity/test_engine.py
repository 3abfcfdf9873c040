"""The engine's builds among each other, at its edges, and its outputs beside uint8."""

from __future__ import annotations

import ctypes
import mmap
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from view_cases import BOXES, PICTURES, SHAPES, box, by_engine, draw_picture, table_row

from pipelines import engine, views
from pipelines.backends import reference
from pipelines.build import build_loader
from pipelines.config import BackgroundConfig, CropConfig, PhotometricConfig, ViewsConfig
from pipelines.engine.settings import ITEMS, settings_of
from pipelines.ops.normalize import normalize

ENGINES = engine.available()
VIEW_SIZES = (1, 2, 17, 20, 32, 33, 64, 96, 100, 224)

any_row = st.builds(
    dict,
    flip=st.booleans(),
    order=st.integers(0, 23),
    brightness=st.one_of(st.floats(-1, 1), st.sampled_from([-7, 0, 1, 7])),
    contrast=st.one_of(st.floats(0, 2), st.sampled_from([-6, 1, 2, 4, 8])),
    saturation=st.one_of(st.floats(0, 2), st.sampled_from([-6, 1, 1.001, 2, 4, 8])),
    hue=st.one_of(st.floats(-0.5, 0.5), st.sampled_from([-2, -0.5, 0, 0.5, 1])),
    gray=st.booleans(),
    blur_sigma=st.one_of(st.just(0), st.floats(1e-3, 2), st.sampled_from([0.1, 2.0, 30.0])),
    solarize=st.booleans(),
    background=st.sampled_from([views.KEEP, views.REMOVE, views.SWAP]),
    plate=st.integers(0, 2**32 - 1),
)


@pytest.mark.extra("engine")
def test_this_machine_has_an_engine_to_compare():
    assert ENGINES[-1] == "numba"
    assert "portable" in ENGINES


def render_all(name, image, rows, sizes, recipe, output, mask=None, plates=None) -> list[np.ndarray]:
    outputs = [np.zeros((size, size, 3), ITEMS[output]) for size in sizes]
    engine.render(name, image, rows, outputs, settings_of(recipe, output=output), mask, plates)
    return outputs


@settings(max_examples=60)
@given(data=st.data(), fields=st.lists(any_row, min_size=1, max_size=4), picture=st.sampled_from(sorted(PICTURES)))
def test_every_engine_gives_the_same_bytes(data, fields, picture):
    height, width = data.draw(st.integers(1, 300)), data.draw(st.integers(1, 300))
    rows = np.array([table_row(**field) for field in fields])
    for row in rows:
        row["height"], row["width"] = data.draw(st.integers(1, height)), data.draw(st.integers(1, width))
        row["top"] = data.draw(st.integers(0, height - int(row["height"])))
        row["left"] = data.draw(st.integers(0, width - int(row["width"])))
    sizes = [data.draw(st.sampled_from(VIEW_SIZES)) for _ in rows]
    recipe = ViewsConfig(
        interpolation=data.draw(st.sampled_from(["bicubic", "bilinear"])),
        photometric=PhotometricConfig(jitter=data.draw(st.sampled_from(["relicv2", "torchvision"]))),
    )
    mask = draw_picture("photograph", 128, 128)[..., 0] > 128 if data.draw(st.booleans()) else None
    plates = np.stack([draw_picture(name, 30, 41) for name in ("ramp", "noise", "flat")]) if mask is not None else None
    output = data.draw(st.sampled_from(sorted(ITEMS)))
    image = draw_picture(picture, height, width)
    truth = render_all(ENGINES[-1], image, rows, sizes, recipe, output, mask, plates)
    for name in ENGINES[:-1]:
        for ours, theirs in zip(render_all(name, image, rows, sizes, recipe, output, mask, plates), truth, strict=True):
            np.testing.assert_array_equal(ours, theirs, err_msg=name)


@pytest.mark.parametrize("shape", [*SHAPES, (9331, 20), (20, 9331)], ids=str)
def test_odd_images_with_everything_on(agreement, shape):
    """Boxes that touch every border, both ends of sigma, all augmentations: against the reference."""
    recipe = ViewsConfig()
    for picture in ("photograph", "grayscale"):
        image = draw_picture(picture, *shape)
        for number, place in enumerate(BOXES):
            row = box(
                *BOXES[place](*shape),
                flip=number % 2,
                order=number * 3,
                brightness=0.2,
                contrast=1.3,
                saturation=0.8,
                hue=-0.1,
                blur_sigma=(0.1, 2.0)[number % 2],
                solarize=number % 3 == 0,
            )
            ours = by_engine(image, row, 96)
            truth = reference.render_view(torch.from_numpy(image), row, 96, recipe).numpy()
            agreement.hold("odd images, everything on", ours, truth, (shape, place))


@pytest.mark.parametrize("name", ENGINES)
@pytest.mark.parametrize("size", [2304, 4096])
def test_the_mean_of_a_huge_view(name, size):
    """Sums of millions of bright pixels do not fit in 32 bits."""
    image = np.full((64, 64, 3), (250, 240, 230), np.uint8)
    view = by_engine(image, box(0, 0, 64, 64, contrast=0.5), size, name=name)
    assert np.abs(view.astype(int) - image[0, 0]).max() <= 1


@pytest.mark.parametrize("mode", ["relicv2", "torchvision"])
def test_extremes_of_every_strength(agreement, mode):
    """What a recipe with the largest strengths may draw, negative factors too."""
    recipe = ViewsConfig(photometric=PhotometricConfig(jitter=mode))
    off = float(mode == "torchvision")
    fields = [
        *({"contrast": value} for value in (-6, -0.5, 0, 4, 8)),
        *({"saturation": value} for value in (-6, -0.5, -0.05, 0, 1.5, 4, 8)),
        *({"brightness": value + off} for value in (-7, -1, 1, 7)),
        *({"hue": value} for value in (-1, -0.5, 0.5, 1)),
        *({"blur_sigma": value} for value in (1e-3, 0.1, 2.0, 5.0, 30.0)),
    ]
    for picture in ("photograph", "noise", "saturated"):
        image = draw_picture(picture, 96, 96)
        for field in fields:
            row = box(0, 0, 96, 96, **{"brightness": off, **field})
            truth = reference.render_view(torch.from_numpy(image), row, 96, recipe).numpy()
            ours = by_engine(image, row, 96, jitter=mode)
            agreement.hold(f"extremes, {mode}", ours, truth, (picture, field))
            assert np.abs(ours.astype(int) - truth).max() <= 1, (picture, field)


@pytest.mark.parametrize("size", [680, 1024])
def test_long_blurs_of_huge_views(agreement, size):
    image = draw_picture("photograph", 200, 200)
    row = box(0, 0, 200, 200, blur_sigma=20)
    truth = reference.render_view(torch.from_numpy(image), row, size, ViewsConfig()).numpy()
    agreement.hold("blur, sigma 20", by_engine(image, row, size), truth, size)


@pytest.mark.parametrize(
    ("height", "width", "size"), [(40, 65_500, 224), (65_500, 40, 96), (24_000, 30, 8), (3000, 2000, 1), (2100, 40, 8)]
)
def test_very_large_images(agreement, height, width, size):
    """Thousands of taps, whose fixed-point weights would vanish."""
    flat = np.full((height, width, 3), (250, 77, 3), np.uint8)
    row = box(0, 0, height, width)
    assert np.abs(by_engine(flat, row, size).astype(int) - flat[0, 0]).max() == 0
    image = np.add.outer(np.arange(height) * 200 // height, np.arange(width) * 50 // width)[..., None] * [1, 0, 1]
    image = (image + np.random.default_rng(0).integers(0, 6, image.shape)).astype(np.uint8)
    for chosen in (row, box(height // 7, width // 9, height // 2, width // 2, flip=True)):
        truth = reference.render_view(torch.from_numpy(image), chosen, size, ViewsConfig()).numpy()
        agreement.hold("very large images", by_engine(image, chosen, size), truth, (height, width, size))


@pytest.mark.parametrize("name", ENGINES)
def test_nothing_is_read_beyond_the_image(name):
    """The image ends where the memory does: one byte further is a page that must not be touched."""
    page = mmap.PAGESIZE
    for height, width in ((1, 1), (20, 30), (37, 1), (1, 700), (60, 67)):
        pages = -(-height * width * 3 // page)
        memory = mmap.mmap(-1, (pages + 1) * page)
        whole = np.frombuffer(memory, np.uint8)
        libc = ctypes.CDLL(None, use_errno=True)
        guard = ctypes.c_void_p(whole.ctypes.data + pages * page)
        assert libc.mprotect(guard, ctypes.c_size_t(page), mmap.PROT_READ & 0) == 0
        image = whole[pages * page - height * width * 3 : pages * page].reshape(height, width, 3)
        image[...] = draw_picture("noise", height, width)
        for place in BOXES:
            row = box(*BOXES[place](height, width))
            np.testing.assert_array_equal(
                by_engine(image, row, 33, name=name), by_engine(image.copy(), row, 33, name=name)
            )
        assert libc.mprotect(guard, ctypes.c_size_t(page), mmap.PROT_READ | mmap.PROT_WRITE) == 0


@pytest.mark.parametrize("size", [224, 96, 33])
def test_normalised_outputs_are_the_normalised_uint8_view(size):
    image, rows = draw_picture("photograph", 150, 211), np.array([box(0, 0, 150, 211, brightness=0.1, blur_sigma=1)])
    recipe = ViewsConfig()
    view = torch.from_numpy(render_all(engine.chosen(), image, rows, [size], recipe, "uint8")[0])
    exact = normalize(view[None])[0].permute(1, 2, 0)
    floats = torch.from_numpy(render_all(engine.chosen(), image, rows, [size], recipe, "float32")[0])
    torch.testing.assert_close(floats, exact, atol=1e-6, rtol=0)
    bits = render_all(engine.chosen(), image, rows, [size], recipe, "bfloat16")[0]
    halves = torch.from_numpy(bits.view(np.int16)).view(torch.bfloat16)
    assert torch.equal(halves, floats.to(torch.bfloat16))


def test_many_threads_share_an_engine():
    """Scratch memory is each thread's own."""
    image, recipe = draw_picture("photograph", 333, 500), ViewsConfig()
    rows = np.array([box(3 * i, 5 * i, 150, 200, hue=0.1, contrast=1.2, blur_sigma=1.5) for i in range(6)])
    sizes = [224] * 4 + [96] * 2
    truth = render_all(engine.chosen(), image, rows, sizes, recipe, "uint8")
    wrong: list[int] = []

    def work() -> None:
        for _ in range(20):
            outputs = render_all(engine.chosen(), image, rows, sizes, recipe, "uint8")
            wrong.extend(i for i in range(6) if not np.array_equal(outputs[i], truth[i]))

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


RECIPE = ViewsConfig(
    large=CropConfig(count=2, size=48),
    small=CropConfig(count=1, size=20, area=(0.05, 0.25)),
    background=BackgroundConfig(chance=0.5),
)


def batches(tiny_beton: Path, tiny_masks: Path, **choices) -> list[list[torch.Tensor]]:
    loader = build_loader(tiny_beton, RECIPE, batch_size=4, seed=5, masks=tiny_masks, **choices)
    try:
        return [[*batch.large, *batch.small] for batch in loader]
    finally:
        loader.close()


def test_threads_change_no_byte(tiny_beton: Path, tiny_masks: Path):
    one, two, eight = (batches(tiny_beton, tiny_masks, num_threads=number) for number in (1, 2, 8))
    for others in (two, eight):
        assert all(
            torch.equal(a, b)
            for ours, theirs in zip(one, others, strict=True)
            for a, b in zip(ours, theirs, strict=True)
        )


@pytest.mark.parametrize("output", ["bfloat16", "float32"])
def test_a_loader_delivers_normalised_views(tiny_beton: Path, tiny_masks: Path, output: str):
    dtype = getattr(torch, output)
    for grey, normal in zip(
        batches(tiny_beton, tiny_masks), batches(tiny_beton, tiny_masks, output=output), strict=True
    ):
        for view, ours in zip(grey, normal, strict=True):
            assert ours.dtype == dtype
            expected = normalize(view, dtype).float()
            torch.testing.assert_close(normalize(ours, dtype).float(), expected, atol=1e-6, rtol=2**-7)


def test_photometric_on_the_device_gives_the_views_of_the_host(agreement, tiny_beton: Path, tiny_masks: Path):
    host = batches(tiny_beton, tiny_masks)
    device = batches(tiny_beton, tiny_masks, photometric="device")
    truth = batches(tiny_beton, tiny_masks, backend="reference")
    for ours, by_torch, true in zip(host, device, truth, strict=True):
        for a, b, c in zip(ours, by_torch, true, strict=True):
            assert b.is_contiguous()
            for slot in range(len(c)):
                agreement.hold("photometric=device", b[slot].numpy(), c[slot].numpy())
                agreement.hold("photometric=host", a[slot].numpy(), c[slot].numpy())


IMAGE = np.zeros((20, 30, 3), np.uint8)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"image": IMAGE[..., :2].copy()}, "the image must be uint8"),
        ({"image": IMAGE.astype(np.int8)}, "the image must be uint8"),
        ({"image": IMAGE.astype(np.float32)}, "the image must be uint8"),
        ({"rows": np.array([box(0, 0, 21, 30)])}, "row 0: its box leaves the image of 20 x 30"),
        ({"rows": np.array([box(0, -1, 2, 3)])}, "row 0: its box leaves the image"),
        ({"rows": np.array([box(0, 0, 2, 0)])}, "row 0: its box leaves the image"),
        ({"rows": np.array([box(0, 0, 2, 3, order=24)])}, "order 24 is not one of 24"),
        ({"rows": np.array([box(0, 0, 2, 3)] * 2)}, "one for each of the 1 outputs"),
        ({"outputs": [np.zeros((8, 9, 3), np.uint8)]}, "output 0 must be"),
        ({"outputs": [np.zeros((8, 8, 3), np.float32)]}, "output 0 must be"),
        ({"outputs": [np.zeros((2, 8, 8, 3), np.uint8)], "slot": 2}, "output 0 has no slot 2"),
        ({"slot": 1}, "output 0 has no slot 1"),
        ({"slot": -1}, "output 0 has no slot -1"),
        ({"mask": np.zeros((4, 4, 3), np.uint8)}, "the mask must be uint8"),
        ({"plates": np.zeros((4, 4, 3), np.uint8)}, "plates must be uint8"),
        ({"plates": np.zeros((0, 4, 4, 3), np.uint8)}, "plates must be uint8"),
        ({"settings": np.zeros(3, np.uint8)}, "settings are not SETTINGS"),
    ],
)
@pytest.mark.parametrize("name", ENGINES)
def test_wrong_use_is_told_and_nothing_crashes(name, changes, message):
    arguments = {
        "image": IMAGE,
        "rows": np.array([box(0, 0, 20, 30)]),
        "outputs": [np.zeros((8, 8, 3), np.uint8)],
        "settings": settings_of(ViewsConfig()),
        **changes,
    }
    with pytest.raises(ValueError, match=message):
        engine.render(name, **arguments)


@pytest.mark.parametrize(
    ("recipe", "message"),
    [
        (ViewsConfig(photometric=PhotometricConfig(contrast=9)), "photometric.contrast=9 is not within 0 and 7"),
        (ViewsConfig(photometric=PhotometricConfig(saturation=-1)), "photometric.saturation=-1 is not within 0 and 7"),
        (ViewsConfig(photometric=PhotometricConfig(brightness=np.nan)), "photometric.brightness=nan is not within"),
        (ViewsConfig(photometric=PhotometricConfig(hue=2)), "photometric.hue=2 is not within 0 and 1"),
        (ViewsConfig(background=BackgroundConfig(fill=(0, 300, 0))), "background.fill=300 is not within 0 and 255"),
        (ViewsConfig(large=CropConfig(count=1, size=9000)), "large.size=9000 is not within 1 and 8192"),
        (ViewsConfig(large=CropConfig(count=65, size=9)), r"large.count \+ small.count=67 is not within 1 and 64"),
    ],
)
def test_what_the_engine_cannot_render_is_refused_when_a_loader_is_built(tiny_beton: Path, recipe, message):
    with pytest.raises(ValueError, match=message):
        build_loader(tiny_beton, recipe, batch_size=2)


def test_options_of_the_fused_backend_are_refused_elsewhere(tiny_beton: Path):
    with pytest.raises(ValueError, match="need backend=fused or dali, not reference"):
        build_loader(tiny_beton, RECIPE, batch_size=2, backend="reference", output="float32")


def test_the_engine_can_be_named(monkeypatch: pytest.MonkeyPatch):
    engine.chosen.cache_clear()
    monkeypatch.setenv("RELIC_ENGINE", "numba")
    assert engine.chosen() == "numba"
    engine.chosen.cache_clear()
    monkeypatch.setenv("RELIC_ENGINE", "sse9")
    with pytest.raises(ValueError, match="RELIC_ENGINE=sse9 is not an engine of this machine: take one of"):
        engine.chosen()
    monkeypatch.delenv("RELIC_ENGINE")
    engine.chosen.cache_clear()
    assert engine.chosen() == ENGINES[0]


def test_without_a_compiled_engine_numba_renders(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(engine, "native", None)
    engine.chosen.cache_clear()
    assert engine.available() == ["numba"]
    assert engine.chosen() == "numba"
    engine.chosen.cache_clear()
