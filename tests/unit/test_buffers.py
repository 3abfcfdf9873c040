"""Memory returns when the last view on it is gone, and not before."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pipelines.buffers import Buffers


@pytest.mark.parametrize("dtype", [torch.uint8, torch.bfloat16, torch.float32])
def test_memory_is_used_again_once_nobody_holds_it(dtype):
    buffers = Buffers(keep=4)
    first = buffers.take((4, 8, 8, 3), dtype)
    assert first.shape == (4, 8, 8, 3)
    assert first.dtype == dtype
    address = first.data_ptr()
    second = buffers.take((4, 8, 8, 3), dtype)
    assert second.data_ptr() != address
    del first
    assert buffers.take((4, 8, 8, 3), dtype).data_ptr() == address


@pytest.mark.parametrize(
    "hold",
    [
        lambda tensor: tensor,
        lambda tensor: tensor[2],
        lambda tensor: tensor.permute(0, 3, 1, 2),
        lambda tensor: tensor.numpy(),
        lambda tensor: tensor.numpy()[1, 2:, ::-1],
        lambda tensor: memoryview(tensor.numpy()),
        lambda tensor: np.asarray(tensor[0]),
        lambda tensor: tensor.untyped_storage(),
        lambda tensor: torch.utils.data.default_convert(tensor).view(torch.int8),
    ],
)
def test_memory_that_is_still_seen_is_not_used_again(hold):
    buffers = Buffers(keep=4)
    tensor = buffers.take((4, 8, 8, 3), torch.uint8)
    address, held = tensor.data_ptr(), hold(tensor)
    del tensor
    assert buffers.take((4, 8, 8, 3), torch.uint8).data_ptr() != address
    del held
    assert buffers.take((4, 8, 8, 3), torch.uint8).data_ptr() == address


def test_an_empty_batch_has_a_tensor_too():
    assert Buffers(keep=4).take((0, 8, 8, 3), torch.float32).shape == (0, 8, 8, 3)


def test_pieces_beyond_the_limit_are_not_watched():
    """A consumer that keeps thousands of batches must not slow every take down, nor keep their memory for ever."""
    buffers = Buffers(keep=4)
    held = [buffers.take((8, 8, 3), torch.uint8) for _ in range(100)]
    assert len({tensor.data_ptr() for tensor in held}) == 100
    assert [len(owners) for owners in buffers._owners.values()] == [4]
    newest = {tensor.data_ptr() for tensor in held[-4:]}
    held.clear()
    again = [buffers.take((8, 8, 3), torch.uint8) for _ in range(4)]
    assert {tensor.data_ptr() for tensor in again} == newest
