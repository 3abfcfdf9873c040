"""The multi-tensor kernels: their arithmetic in Triton's interpreter, and when they are chosen."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from relic.kernels import availability, multi_tensor
from relic.kernels.layout import in_layout_of, is_dense, same_layout
from relic.models.twin import Network, Twin
from relic.optim import Lars

CASES = Path(__file__).with_name("multi_tensor_cases.py")


@pytest.mark.extra("triton")
def test_the_kernels_equal_the_references() -> None:
    """In a process of its own: Triton reads the variable when it is imported."""
    finished = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(CASES)],
        env=os.environ | {"TRITON_INTERPRET": "1"},
        capture_output=True,
        text=True,
    )
    assert finished.returncode == 0, finished.stdout
    assert " passed" in finished.stdout


def test_cuda_parameters_take_the_kernels_without_reading_a_value(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    monkeypatch.setattr("relic.optim.lars.has_triton", lambda: True)
    monkeypatch.setattr("relic.models.twin.has_triton", lambda: True)
    monkeypatch.setattr(multi_tensor, "lars_", lambda *lists, **settings: calls.append((lists, settings)))
    monkeypatch.setattr(multi_tensor, "lerp_", lambda *given: calls.append(given))
    with FakeTensorMode(), torch.device("cuda"):
        twin = Twin.__new__(Twin)  # its constructor copies, which fake tensors cannot
        nn.Module.__init__(twin)
        twin.online = Network(nn.Linear(3, 2), nn.Linear(2, 2), nn.Linear(2, 2))
        twin.target = Network(nn.Linear(3, 2), nn.Linear(2, 2), None).requires_grad_(False)
        weight, strided = nn.Parameter(torch.ones(3, 2)), nn.Parameter(torch.ones(6, 6)[:, ::2])
        weight.grad, strided.grad = torch.ones(3, 2), torch.ones(6, 3)
        rate, decay = torch.tensor(0.1), torch.tensor(0.996)
        Lars([{"params": [weight]}, {"params": [strided]}], lr=rate).step()
        twin.update_target(decay)
    ((lists, settings), (target, online, _)) = calls  # the strided parameter, which has gaps, took torch's operations
    assert lists[0] == [weight]
    assert settings["lr"] is rate
    assert len(target) == len(online) == len(list(twin.target.parameters()))


def test_parameters_on_the_cpu_do_not() -> None:
    assert not multi_tensor.fits([torch.ones(2)])


def test_tables_are_made_again_only_where_memory_moved(monkeypatch: pytest.MonkeyPatch) -> None:
    sent = []
    monkeypatch.setattr(multi_tensor, "_sent", lambda table, device: sent.append(table) or table)
    multi_tensor._address_table.cache_clear()
    multi_tensor._chunk_tables.cache_clear()
    tensors = [torch.ones(3), torch.ones(multi_tensor.CHUNK + 1)]
    for _ in range(3):
        addresses = multi_tensor._addresses(tensors)
        chunks, first = multi_tensor._chunks(tensors)
    assert len(sent) == 3
    assert addresses.tolist() == [tensor.data_ptr() for tensor in tensors]
    assert chunks.tolist() == [[0, 0, 3], [1, 0, multi_tensor.CHUNK], [1, multi_tensor.CHUNK, 1]]
    assert first.tolist() == [0, 1, 3]
    multi_tensor._addresses([tensors[0], tensors[1].clone()])
    multi_tensor._chunks([tensors[0], tensors[1].clone()])
    assert len(sent) == 4
    multi_tensor._address_table.cache_clear()
    multi_tensor._chunk_tables.cache_clear()


def test_memory_that_moved_before_a_graph_was_captured_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
    with pytest.raises(RuntimeError, match="keep gradients in place"):
        multi_tensor._sent(torch.tensor([1]), torch.device("cuda"))


def test_a_missing_triton_is_said_once(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setitem(sys.modules, "triton", None)
    availability.has_triton.cache_clear()
    try:
        assert not availability.has_triton()
        assert not availability.has_triton()
    finally:
        availability.has_triton.cache_clear()
    assert capsys.readouterr().err.count("Triton is missing") == 1


def test_layouts() -> None:
    last = torch.ones(4, 3, 2, 2).to(memory_format=torch.channels_last)
    first = torch.ones(4, 3, 2, 2)
    thin = torch.ones(4, 3, 1, 1)
    assert is_dense(last)
    assert is_dense(first.permute(3, 1, 0, 2))
    assert not is_dense(first[:, ::2])
    assert not is_dense(torch.ones(1, 3).expand(2, 3))
    assert not same_layout(last, first)
    assert same_layout(thin, thin.to(memory_format=torch.channels_last).clone())
    assert not same_layout(thin, torch.ones(3, 4, 1, 1))
    assert in_layout_of(last, last) is last
    assert in_layout_of(first, last).stride() == last.stride()
    assert torch.equal(in_layout_of(torch.arange(48.0).view(4, 3, 2, 2), last), torch.arange(48.0).view(4, 3, 2, 2))
