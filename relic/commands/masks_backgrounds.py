"""`relic masks backgrounds`: background plates of a beton's images, for `background.mode=swap`."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

if TYPE_CHECKING:
    import numpy as np


def backgrounds(
    beton: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="SRC.beton")],
    masks: Path | None = None,
    out: Path | None = None,
    count: int = 1024,
    side: int = 160,
    margin: float = 0.04,
    largest_share: float = 0.3,
    seed: int = 0,
    overwrite: bool = False,
    json: bool = False,
) -> None:
    """Make background plates: photographs whose salient object is filled in from around it, small, in one .npy file.

    `relic pretrain ... --plates FILE.npy --views.background.mode swap` puts them behind other images' objects. The
    same arguments give the same bytes.

    Args:
        beton: Images, a .beton file.
        masks: Its mask store; by default the beton's name ending in .masks.
        out: File to write, uint8 [P, side, side, 3]; by default the beton's name ending in .plates.npy.
        count: Most plates, from images that lie evenly over the beton.
        side: Height and width of a plate in pixels; 1,024 of 160 are 79 MB of memory.
        margin: Width around the mask that is filled too, as a share of the image's side.
        largest_share: Largest share of an image that may be filled; others give no plate.
        seed: Seed of the choice.
        overwrite: Replace a file that is there already.
        json: Print the summary as JSON.
    """
    from json import dumps

    from pipelines import decode
    from pipelines.shards import open_beton
    from relic.console import Progress
    from saliency.backgrounds import PlatesConfig, make_plates
    from saliency.store import open_masks

    masks = beton.with_suffix(".masks") if masks is None else masks
    out = beton.with_suffix(".plates.npy") if out is None else out
    config = PlatesConfig(count=count, side=side, margin=margin, largest_share=largest_share, seed=seed)
    _check_out(out, overwrite)
    with open_beton(beton) as images, open_masks(masks) as store:
        store.check(images.fingerprint(), images.num_images, beton)
        with Progress("plates", min(count, images.num_images), "plates") as progress:
            plates, donors = make_plates(store, lambda index: decode.fused(images, index), config, progress.advance)
        absent = int(store.absent.sum())
        num_images = images.num_images
    _write(plates, out)
    summary = {
        "plates_file": str(out),
        "plates": len(plates),
        "asked": count,
        "side": side,
        "bytes": out.stat().st_size,
        "images": num_images,
        "without_mask": absent,
        "donors": donors.tolist(),
    }
    if json:
        print(dumps(summary))
        return
    print(f"{out}: {len(plates):,} plates of {side}×{side} pixels, {summary['bytes']:,} bytes")
    if len(plates) < count:
        print(
            f"fewer than the {count:,} asked for: of {num_images:,} images {absent:,} have no mask, and objects that"
            f" with their margin cover more than {largest_share:.0%} leave too little"
        )


def _check_out(out: Path, overwrite: bool) -> None:
    if out.suffix.lower() != ".npy":
        raise ValueError(f"--out {out} is no .npy file: give it that ending")
    if not out.absolute().parent.is_dir():
        raise FileNotFoundError(f"--out {out}: there is no folder {out.parent}; make it first")
    if out.exists() and not overwrite:
        raise FileExistsError(f"{out} exists: give --overwrite to replace it or --out for another name")


def _write(plates: np.ndarray, out: Path) -> None:
    """Write the file complete or not at all, readable as any other file of the user's."""
    import numpy as np

    handle, name = tempfile.mkstemp(prefix=f".{out.name}.", suffix=".partial", dir=out.parent)
    temporary = Path(name)
    try:
        with os.fdopen(handle, "wb") as file:
            np.save(file, plates)
            umask = os.umask(0)
            os.umask(umask)
            os.fchmod(file.fileno(), 0o666 & ~umask)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, out)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
