"""Contact sheets: what a recipe makes of an image, every view with what was drawn for it."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, cast

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from pipelines import decode, sampler, views
from pipelines.build import Backend, build_loader, open_source
from pipelines.config import ViewsConfig
from pipelines.shards import open_beton

# Okabe and Ito's colours, which remain apart in all common colour vision deficiencies, without yellow and black.
_COLORS = ((0, 114, 178), (213, 94, 0), (0, 158, 115), (204, 121, 167), (86, 180, 233), (230, 159, 0))
_PAPER, _INK, _FAINT = (255, 255, 255), (28, 30, 34), (112, 117, 125)
_MARGIN, _GAP, _BLOCK_GAP = 28, 14, 34
_GUTTER = 22  # the backends' names, upright
_STORED_WIDTH = 380
_LINE = 16
_LARGE_VIEW_PIXELS = 200  # small recipes (CIFAR) are magnified by a whole number to about this side
_NARROWEST_CAPTION = 142  # "brightness +0.21 ›" fits
_SUPERSAMPLING = 4
OWN_VIEWS = ("ffcv", "synthetic")
"""Backends that do not render the table: FFCV draws its own random numbers, synthetic views are noise."""


@dataclass(frozen=True, kw_only=True)
class Example:
    """One image, its rows of the table, and the views that backends made of them."""

    title: str
    image: np.ndarray
    """uint8 [H, W, 3], as stored."""
    mask: np.ndarray | None
    """bool [h, w] over the whole image, 1 = salient."""
    rows: np.ndarray
    """`pipelines.views.ROW` [views], large views first."""
    views: dict[str, list[np.ndarray]]
    """By backend: one uint8 [size, size, 3] per row."""


def views_sheet(
    data: str | Path,
    recipe: ViewsConfig,
    *,
    masks: str | Path | None = None,
    plates: str | Path | None = None,
    num_images: int = 4,
    indices: Sequence[int] = (),
    seed: int = 0,
    epoch: int = 0,
    backends: Sequence[str] = ("fused",),
    heading: str = "",
) -> np.ndarray:
    """Draw the contact sheet of the first images of an epoch, or of those named, as training with this seed sees them.

    Returns:
        uint8 [H, W, 3].

    Raises:
        FileNotFoundError, ValueError: as `pipelines.build.build_loader`.
    """
    examples = render_examples(
        data,
        recipe,
        masks=masks,
        plates=plates,
        num_images=num_images,
        indices=indices,
        seed=seed,
        epoch=epoch,
        backends=backends,
    )
    note = f"seed {seed}, epoch {epoch}"
    if len(backends) > 1:
        note += f"; off by: mean absolute difference to {backends[0]} in grey levels"
    return contact_sheet(examples, recipe, heading=heading or Path(data).name, note=note)


def render_examples(
    data: str | Path,
    recipe: ViewsConfig,
    *,
    masks: str | Path | None = None,
    plates: str | Path | None = None,
    num_images: int = 4,
    indices: Sequence[int] = (),
    seed: int = 0,
    epoch: int = 0,
    backends: Sequence[str] = ("fused",),
) -> list[Example]:
    """Render images with each backend; arguments and errors as `views_sheet`."""
    if num_images < 1:
        raise ValueError(f"num_images={num_images} shows nothing: give 1 or more")
    if not backends:
        raise ValueError("no backend was named: give --backends fused")
    if backends[0] in OWN_VIEWS:
        raise ValueError(
            f"backend {backends[0]!r} does not render the views that boxes and captions show: name reference or"
            f" fused before it (--backends fused {backends[0]})"
        )
    source = open_source(data, recipe, masks=masks, plates=plates)
    beton = source.beton
    unknown = [index for index in indices if not 0 <= index < beton.num_images]
    if unknown:
        raise ValueError(f"{data} has images 0 to {beton.num_images - 1}, no image {unknown[0]}")
    settings: dict[str, Any] = {"masks": masks, "plates": plates, "seed": seed, "epoch": epoch}
    batches = {
        backend: _named_images(data, recipe, indices, backend=backend, **settings)
        if indices
        else _first_batch(data, recipe, batch_size=min(num_images, beton.num_images), backend=backend, **settings)
        for backend in backends
    }
    found = next(iter(batches.values()))[0]
    for backend, (order, _) in batches.items():
        if not np.array_equal(order, found):
            raise ValueError(f"backend {backend!r} reads the images in an order of its own: show it alone")
    rows = views.draw(
        recipe, seed=seed, epoch=epoch, indices=found, heights=beton.heights[found], widths=beton.widths[found]
    )
    examples = []
    for slot, index in enumerate(found):
        has_mask = source.masks is not None and not source.masks.absent[index]
        mask = source.masks.mask(index) if source.masks is not None and has_mask else None
        if mask is None:
            rows["background"][slot] = views.KEEP
        image = decode.reference(beton, int(index))
        examples.append(
            Example(
                title=_title(int(index), image, int(beton.labels[index]), beton.class_names, mask),
                image=image,
                mask=mask,
                rows=rows[slot],
                views={backend: [view[slot] for view in rendered] for backend, (_, rendered) in batches.items()},
            )
        )
    beton.close()
    if source.masks is not None:
        source.masks.close()
    return examples


def _first_batch(
    data: str | Path, recipe: ViewsConfig, *, epoch: int, backend: str, start: int = 0, **settings
) -> tuple[np.ndarray, list[np.ndarray]]:
    """Return int64 [N] indices and one uint8 [N, size, size, 3] per view, from a position in the epoch's order on."""
    known = cast(Backend, backend)  # build_loader refuses other names
    loader = build_loader(data, recipe, backend=known, num_threads=1, prefetch=1, drop_last=False, **settings)
    try:
        loader.load_state_dict({**loader.state_dict(), "epoch": epoch, "position": start})
        batch = next(iter(loader))
        return batch.index.numpy(), [view.numpy() for view in (*batch.large, *batch.small)]
    finally:
        loader.close()


def _named_images(
    data: str | Path, recipe: ViewsConfig, indices: Sequence[int], *, seed: int, epoch: int, **settings
) -> tuple[np.ndarray, list[np.ndarray]]:
    """Return what `_first_batch` does, of the images that are named, each at its place in the order."""
    with open_beton(data) as beton:
        places = sampler.positions_of(np.asarray(indices), beton.num_images, seed=seed, epoch=epoch).tolist()
    single = [_first_batch(data, recipe, epoch=epoch, seed=seed, start=p, batch_size=1, **settings) for p in places]
    views_of = zip(*(rendered for _, rendered in single), strict=True)
    return np.concatenate([index for index, _ in single]), [np.concatenate(view) for view in views_of]


def _title(index: int, image: np.ndarray, label: int, class_names: list[str] | None, mask: np.ndarray | None) -> str:
    parts = [f"image {index}", f"{image.shape[1]}×{image.shape[0]}"]
    if label >= 0:
        parts.append(class_names[label] if class_names and label < len(class_names) else f"class {label}")
    if mask is not None:
        parts.append(f"mask covers {mask.mean():.0%}")
    return "   ".join(parts)


def describe(row: np.void, recipe: ViewsConfig) -> list[str]:
    """Say in words what a row does, in the order in which it is done; empty for a plain crop."""
    said = []
    if row["background"] != views.KEEP:
        said.append("background swapped" if row["background"] == views.SWAP else "background removed")
    if row["flip"]:
        said.append("flipped")
    official = recipe.photometric.jitter == "relicv2"
    brightness = f"brightness {row['brightness']:+.2f}" if official else f"brightness ×{row['brightness']:.2f}"
    changes = {
        views.BRIGHTNESS: (brightness, row["brightness"] != (0 if official else 1)),
        views.CONTRAST: (f"contrast ×{row['contrast']:.2f}", row["contrast"] != 1),
        views.SATURATION: (f"saturation ×{row['saturation']:.2f}", row["saturation"] != 1),
        views.HUE: (f"hue {360 * row['hue']:+.0f}°", row["hue"] != 0),
    }
    said += [
        changes[int(operation)][0] for operation in views.JITTER_ORDERS[row["order"]] if changes[int(operation)][1]
    ]
    if row["gray"]:
        said.append("gray")
    if row["blur_sigma"] > 0:
        said.append(f"blur σ {row['blur_sigma']:.2f}")
    if row["solarize"]:
        said.append("solarized")
    return [text.replace("-", "−") for text in said]


# -- drawing ----------------------------------------------------------------------------------------------------------


def contact_sheet(examples: Sequence[Example], recipe: ViewsConfig, *, heading: str, note: str = "") -> np.ndarray:
    """Draw the examples one below the other: the stored image with its boxes, the views, what was drawn for them.

    Every example has one row per backend; from the second on, the mean absolute difference to the first stands beside.
    Boxes and captions are those of the table, which the backends of `OWN_VIEWS` do not follow.

    Args:
        examples: what to draw, all with the same backends.
        recipe: the views' sizes and the meaning of their rows.
        heading: what the sheet shows.
        note: small print beside the heading.

    Returns:
        uint8 [H, W, 3].
    """
    sizes = [recipe.large.size] * recipe.large.count + [recipe.small.size] * recipe.small.count
    magnify = max(round(_LARGE_VIEW_PIXELS / max(sizes)), 1)
    widths = [max(size * magnify, _NARROWEST_CAPTION) for size in sizes]
    lefts = [_MARGIN + _GUTTER + _STORED_WIDTH + 2 * _GAP + sum(widths[:i]) + _GAP * i for i in range(len(widths))]
    blocks = [_block(example, recipe, lefts, widths, magnify) for example in examples]
    width = lefts[-1] + widths[-1] + _MARGIN
    title_height = 2 * _MARGIN + 8
    height = title_height + sum(block.height for block in blocks) + _BLOCK_GAP * (len(blocks) - 1) + _MARGIN

    sheet = Image.new("RGB", (width, height), _PAPER)
    pen = ImageDraw.Draw(sheet)
    pen.text((_MARGIN, _MARGIN - 6), heading, _INK, _font(19, bold=True))
    offset = pen.textlength(heading, _font(19, bold=True)) + 14
    pen.text((_MARGIN + offset, _MARGIN), note, _FAINT, _font(13))
    top = title_height
    for block in blocks:
        sheet.paste(block, (0, top))
        top += block.height + _BLOCK_GAP
    return np.asarray(sheet)


def png(picture: np.ndarray) -> bytes:
    """Encode uint8 [H, W, 3] as PNG."""
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "PNG")
    return buffer.getvalue()


def _block(example: Example, recipe: ViewsConfig, lefts: list[int], widths: list[int], magnify: int) -> Image.Image:
    captions = [
        _wrap([f"crop {row['width']}×{row['height']}", *describe(row, recipe)], width)
        for row, width in zip(example.rows, widths, strict=True)
    ]
    cell = magnify * max(view.shape[0] for rendered in example.views.values() for view in rendered)
    head, step = 3 * _LINE + 12, cell + _GAP
    caption_height = _LINE * max(map(len, captions))
    views_height = head + step * len(example.views) + caption_height
    stored = _annotated(example, _STORED_WIDTH, max(views_height - head, cell))
    height = max(views_height, head + stored.height)

    block = Image.new("RGB", (lefts[-1] + widths[-1] + _MARGIN, height), _PAPER)
    pen = ImageDraw.Draw(block)
    pen.line((_MARGIN, 0, block.width - _MARGIN, 0), (222, 224, 228))
    pen.text((_MARGIN, 9), example.title, _INK, _font(13, bold=True))
    block.paste(stored, (_MARGIN, head))
    first = next(iter(example.views.values()))
    for number, (backend, rendered) in enumerate(example.views.items()):
        top = head + step * number
        label = backend
        if backend in OWN_VIEWS:
            label = f"{backend}: views of its own"
        elif number:
            label = f"{backend}, off by {_difference(first, rendered):.2f}"
        _write_upright(block, label, _MARGIN + _STORED_WIDTH + _GAP, top, cell)
        for view, left in zip(rendered, lefts, strict=True):
            picture = Image.fromarray(np.ascontiguousarray(view))
            side = view.shape[0] * magnify
            block.paste(picture.resize((side, side), Image.Resampling.NEAREST), (left, top))
    for number, (lines, left) in enumerate(zip(captions, lefts, strict=True)):
        kind = "large" if number < recipe.large.count else "small"
        pen.rectangle((left, head - 21, left + 10, head - 11), _color(number))
        pen.text((left + 17, head - 24), f"{number + 1} {kind}", _INK, _font(12, bold=True))
        for line, text in enumerate(lines):
            pen.text((left, head + step * len(example.views) + _LINE * line - 6), text, _FAINT, _font(12))
    return block


def _annotated(example: Example, wide: int, high: int) -> Image.Image:
    """Draw the stored image into wide x high pixels: background dimmed, the views' boxes numbered."""
    rows, image = example.rows, example.image
    scale = min(wide / image.shape[1], high / image.shape[0])
    size = (max(round(image.shape[1] * scale), 1), max(round(image.shape[0] * scale), 1))
    filter_ = Image.Resampling.NEAREST if scale >= 3 else Image.Resampling.LANCZOS
    picture = Image.fromarray(image).resize(size, filter_)
    if example.mask is not None:
        cover = Image.fromarray(example.mask.astype(np.uint8) * 255).resize(size, Image.Resampling.BILINEAR)
        faded = Image.blend(picture.convert("L").convert("RGB"), Image.new("RGB", size, _PAPER), 0.6)
        picture = Image.composite(picture, faded, cover)

    # Lines are drawn large and shrunk, since Pillow does not antialias them.
    fine = _SUPERSAMPLING
    lines = Image.new("RGBA", (size[0] * fine, size[1] * fine), (0, 0, 0, 0))
    pen = ImageDraw.Draw(lines)
    for number, row in reversed(list(enumerate(rows))):
        left, top, right, bottom = (round(scale * fine * corner) for corner in _corners(row))
        pen.rectangle((left, top, right - 1, bottom - 1), outline=(*_PAPER, 150), width=4 * fine)
        if min(right - left, bottom - top) > 4 * fine:
            inner = (left + fine, top + fine, right - 1 - fine, bottom - 1 - fine)
            pen.rectangle(inner, outline=(*_color(number), 255), width=2 * fine)
    shrunk = lines.resize(size, Image.Resampling.BOX)
    picture.paste(shrunk, (0, 0), shrunk)
    _number_boxes(picture, rows, scale)
    return picture


def _number_boxes(picture: Image.Image, rows: np.ndarray, scale: float) -> None:
    pen = ImageDraw.Draw(picture)
    taken: list[tuple[int, int]] = []
    for number, row in enumerate(rows):
        left, top, _, _ = (round(scale * value) for value in _corners(row))
        left, top = min(left, picture.width - 17), min(top, picture.height - 17)
        while any(abs(left - x) < 17 and abs(top - y) < 17 for x, y in taken) and left + 34 <= picture.width:
            left += 17
        taken.append((left, top))
        pen.rectangle((left, top, left + 16, top + 16), _color(number))
        pen.text((left + 8, top + 8), str(number + 1), _PAPER, _font(11, bold=True), anchor="mm")


def _corners(row: np.void) -> tuple[int, int, int, int]:
    left, top = int(row["left"]), int(row["top"])
    return left, top, left + int(row["width"]), top + int(row["height"])


def _write_upright(block: Image.Image, text: str, left: int, top: int, height: int) -> None:
    font = _font(12)
    while font.getlength(text) > height and len(text) > 4:
        text = text[:-2].rstrip(", ") + "…"
    strip = Image.new("RGB", (height, _LINE), _PAPER)
    ImageDraw.Draw(strip).text((height / 2, _LINE / 2), text, _FAINT, font, anchor="mm")
    block.paste(strip.transpose(Image.Transpose.ROTATE_90), (left, top))


def _difference(first: list[np.ndarray], other: list[np.ndarray]) -> float:
    """Return the mean absolute difference of all views' values in grey levels."""
    return float(np.mean([np.abs(a.astype(np.int16) - b).mean() for a, b in zip(first, other, strict=True)]))


def _wrap(said: list[str], width: int) -> list[str]:
    """Fill lines of `width` pixels with phrases, never breaking one."""
    lines = [said[0]]
    for phrase in said[1:]:
        longer = f"{lines[-1]} › {phrase}"
        if _font(12).getlength(longer) <= width:
            lines[-1] = longer
        else:
            lines.append(f"› {phrase}")
    return lines


def _color(number: int) -> tuple[int, int, int]:
    return _COLORS[number % len(_COLORS)]


@lru_cache(maxsize=16)
def _font(size: int, *, bold: bool = False) -> ImageFont.FreeTypeFont:
    import matplotlib  # for DejaVu, which it ships: Pillow's own font has no σ, × or −

    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    return ImageFont.truetype(str(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / name), size)
