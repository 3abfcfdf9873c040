"""A sample that does not decode is named or replaced, never shown as other pixels."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from loaders import DECODING_BACKENDS, SKIPPING_BACKENDS, Make, views_by_image

from pipelines.beton import Beton


@pytest.fixture
def corrupt_beton(tiny_beton: Path, tmp_path: Path) -> Path:
    """Return the tiny beton with images 0 and 1 overwritten by zeros."""
    path = Path(shutil.copy(tiny_beton, tmp_path / "corrupt.beton"))
    content = bytearray(path.read_bytes())
    with Beton(tiny_beton) as beton:
        for index in (0, 1):
            payload = bytes(beton.jpeg(index))
            start = content.index(payload)
            content[start : start + len(payload)] = bytes(len(payload))
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("backend", DECODING_BACKENDS)
def test_an_image_that_does_not_decode_is_named(make: Make, backend: str, corrupt_beton: Path):
    loader = make(backend, data=corrupt_beton, shuffle=False, batch_size=4)
    with pytest.raises(ValueError, match=r"image 0 of .*corrupt\.beton does not decode") as raised:
        list(loader)
    assert "\n" not in str(raised.value)
    assert loader.state_dict()["position"] == 0


@pytest.mark.parametrize("backend", SKIPPING_BACKENDS)
def test_an_image_that_does_not_decode_is_replaced_if_so_asked(
    make: Make, backend: str, corrupt_beton: Path, capsys: pytest.CaptureFixture
):
    skipping = make(backend, data=corrupt_beton, shuffle=False, on_corrupt="skip")
    batch = next(iter(skipping))
    assert batch.index.tolist() == [2, 2]
    assert batch.label.tolist() == [int(Beton(corrupt_beton).labels[2])] * 2
    intact = views_by_image(make(backend, shuffle=False))[2]
    for slot in (0, 1):
        assert [view[slot].numpy().tobytes() for view in (*batch.large, *batch.small)] == intact
    warnings = capsys.readouterr().err.splitlines()
    assert len(warnings) == 2
    assert all("warning: image" in line and line.endswith("image 2 takes its place") for line in warnings)


@pytest.mark.parametrize("backend", DECODING_BACKENDS)
def test_an_image_of_another_size_than_listed_is_corrupt(make: Make, backend: str, tiny_beton: Path, tmp_path: Path):
    """Boxes are drawn for the listed size: a smaller image would be read beyond its end, a larger one cut."""
    path = Path(shutil.copy(tiny_beton, tmp_path / "mixed.beton"))
    content = bytearray(path.read_bytes())
    with Beton(tiny_beton) as beton:
        small, large = bytes(beton.jpeg(3)), bytes(beton.jpeg(1))  # 20 x 30 in the place of 150 x 211
        start = content.index(large)
        content[start : start + len(large)] = small + bytes(len(large) - len(small))
    path.write_bytes(content)
    loader = make(backend, data=path, shuffle=False, masks=None)
    with pytest.raises(ValueError, match=r"image 1 of .*mixed.beton does not decode .*20 x 30 .*listed as 150 x 211"):
        next(iter(loader))
    if backend in SKIPPING_BACKENDS:
        skipping = make(backend, data=path, shuffle=False, masks=None, on_corrupt="skip")
        assert next(iter(skipping)).index.tolist() == [0, 2]


@pytest.mark.parametrize("backend", SKIPPING_BACKENDS)
def test_where_no_image_decodes_the_first_is_named(
    make: Make, backend: str, corrupt_beton: Path, monkeypatch: pytest.MonkeyPatch
):
    loader = make(backend, data=corrupt_beton, shuffle=False, on_corrupt="skip")

    def render(source, index, rows, outputs, slot):
        raise ValueError(f"image {index} does not decode")

    loader.render = render
    with pytest.raises(ValueError, match="image 0 does not decode"):
        next(iter(loader))
