"""`relic export RUN|CHECKPOINT --to TARGET`."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import tyro


def export(
    source: tyro.conf.Positional[Path],
    to: Literal["torchvision", "timm", "safetensors"],
    out: Path | None = None,
) -> None:
    """Write the online backbone for others, load the file as they would, and compare features.

    Args:
        source: Run directory, checkpoint or weights file.
        to: torchvision, timm: a state dict with the linear head of the run (zeros without one) for
            load_state_dict(strict=True). safetensors: the backbone alone, with what is needed to use it.
        out: File to write; RUN/export/NAME.TARGET by default.
    """
    from relic.export import classifier_of, default_path
    from relic.export import export as write
    from relic.weights import load_backbone

    loaded = load_backbone(source)
    classifier, origin = (None, "none: the backbone alone") if to == "safetensors" else classifier_of(loaded)
    exported = write(loaded, to, out or default_path(source, loaded, to), classifier=classifier)

    print(f"{exported.path}: {loaded.name}" + ("" if loaded.step is None else f" at step {loaded.step:,}"))
    print(f"  classifier: {origin}")
    if exported.difference is None:
        print(f"  not checked: {to} is not installed here (pip install {to})")
    else:
        print(f"  checked: loaded by {to}, features differ by at most {exported.difference:.1e}")
    print(f"  use: {exported.usage}")
