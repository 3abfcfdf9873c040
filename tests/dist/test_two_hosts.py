"""Two hosts, made of network namespaces and a cable between them; needs root."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from launch import ENVIRONMENT, PYTHON, Running, outcome, pretrain, same_bits, write_data

from relic import checkpoint

TIMEOUT = 15
HOSTS = ("relic-a", "relic-b")


def ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True)


@pytest.fixture
def cable() -> Iterator[str]:
    """Make two hosts, 10.77.0.1 and 10.77.0.2, and yield the name of the first one's network device."""
    if os.geteuid() != 0 or shutil.which("ip") is None or shutil.which("unshare") is None:
        pytest.skip("network namespaces need root, ip and unshare")
    try:
        for host in HOSTS:
            ip("netns", "add", host)
    except subprocess.CalledProcessError as error:
        pytest.skip(f"no network namespaces here: {error.stderr.decode().strip()}")
    try:
        ip("link", "add", "cable-a", "netns", HOSTS[0], "type", "veth", "peer", "name", "cable-b", "netns", HOSTS[1])
        for number, (host, device) in enumerate(zip(HOSTS, ("cable-a", "cable-b"), strict=True), start=1):
            ip("-n", host, "addr", "add", f"10.77.0.{number}/24", "dev", device)
            ip("-n", host, "link", "set", "lo", "up")
            ip("-n", host, "link", "set", device, "up")
        yield "cable-a"
    finally:
        for host in HOSTS:
            subprocess.run(["ip", "netns", "del", host], check=False)


def node(number: int, arguments: list[str]) -> Running:
    """Start torchrun on one of the hosts, as README does."""
    launcher = ["-m", "torch.distributed.run", "--nnodes", "2", "--node-rank", str(number), "--nproc-per-node", "1"]
    launcher += ["--master-addr", "10.77.0.1", "--master-port", "29500", "--local-addr", f"10.77.0.{number + 1}"]
    inside = [
        "ip",
        "netns",
        "exec",
        HOSTS[number],
        "unshare",
        "--uts",
        "sh",
        "-c",
        f'hostname {HOSTS[number]}; exec "$@"',
    ]
    environment = {**ENVIRONMENT, "GLOO_SOCKET_IFNAME": f"cable-{'ab'[number]}"}
    return Running(*inside, "sh", PYTHON, *launcher, *arguments, environment=environment)


def test_a_cut_cable_is_a_clear_error_in_time_and_the_rerun_loses_nothing(cable, tmp_path):
    options = ("--duration", "40st", "--distributed.timeout-seconds", str(TIMEOUT), "--checkpoint.keep-last", "99")
    arguments = pretrain(write_data(tmp_path), tmp_path, "two", *options)
    with node(0, arguments) as first, node(1, arguments) as second:
        first.wait_for("step     17/40")
        ip("-n", HOSTS[0], "link", "set", cable, "down")
        cut = time.monotonic()
        ends = {}
        while len(ends) < 2 and time.monotonic() - cut < 90:
            for name, running in (("first", first), ("second", second)):
                if name not in ends and running.said("relic pretrain: error"):
                    ends[name] = time.monotonic() - cut
            if time.monotonic() - cut > 30:
                ip("-n", HOSTS[0], "link", "set", cable, "up")
            time.sleep(0.1)
        ip("-n", HOSTS[0], "link", "set", cable, "up")
        assert first.wait() != 0
        assert second.wait() != 0
    print({name: round(seconds, 1) for name, seconds in ends.items()})
    # gloo notices after the timeout, or the watch does; then the others are listened to for some seconds
    assert all(seconds < TIMEOUT + 15 for seconds in ends.values()), ends
    assert "rank 1 on relic-b" in first.said("relic pretrain: error")[0]
    assert any(
        word in second.said("relic pretrain: error")[0]
        for word in ("contact with the host of rank 0", "rank 0 on relic-a")
    )
    assert checkpoint.all_steps(tmp_path / "two") == [7, 14]

    with node(0, arguments) as first, node(1, arguments) as second:
        assert first.wait() == 0, "\n".join(first.lines)
        assert second.wait() == 0, "\n".join(second.lines)
    assert first.said("resumes at step 14")
    straight = pretrain(tmp_path / "small.beton", tmp_path, "straight", *options)
    with node(0, straight) as first, node(1, straight) as second:
        assert first.wait() == 0, "\n".join(first.lines)
        assert second.wait() == 0, "\n".join(second.lines)
    assert same_bits(outcome(tmp_path, "two", 40), outcome(tmp_path, "straight", 40))
