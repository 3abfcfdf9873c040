"""Autocast and loss scaling by name."""

from __future__ import annotations

import torch

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def autocast(precision: str, device: torch.device) -> torch.autocast:
    """Return the autocast context of a precision; only the half ones switch it on."""
    dtype = DTYPES[precision]
    return torch.autocast(device.type, dtype=dtype, enabled=dtype.itemsize < 4)


def gradient_scaler(precision: str, device: torch.device) -> torch.amp.GradScaler:
    """Return the loss scaler: active for float16, whose gradients would underflow; elsewhere it passes through."""
    return torch.amp.GradScaler(device.type, enabled=precision == "float16")
