"""`python -m benchmarks`: what is measured, what is written down, and what happens to providers that fail."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from making import encoded
from PIL import Image

from benchmarks import compare, harness, images, jpeg, loader, records, table
from benchmarks.__main__ import main
from benchmarks.harness import Measured, Plan
from benchmarks.providers.fused import prepare as prepare_fused
from benchmarks.work import Work, benchmark_recipe, draw_rows
from pipelines import decode
from pipelines.beton import Beton

SIZES = [(150, 211), (97, 141), (224, 224)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Return a folder with three JPEGs."""
    folder = tmp_path_factory.mktemp("jpegs")
    for seed, (height, width) in enumerate(SIZES):
        (folder / f"{seed}.jpg").write_bytes(encoded(height, width, seed))
    return folder


@pytest.fixture(scope="module")
def measured(folder, tmp_path_factory) -> tuple[list[dict], str]:
    """Return the records and the table of a small run of decode and fused."""
    file = tmp_path_factory.mktemp("records") / "views.json"
    run = subprocess.run(
        [sys.executable, "-m", "benchmarks", "views", "--images", str(folder), "--providers", "fused", "fused-bf16",
         "--repeats", "3", "--parity-images", "2", "--batch-size", "2", "--json", str(file)],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    return json.loads(file.read_text()), run.stdout


def work(*, count: int = 1) -> Work:
    recipe = benchmark_recipe("torchvision")
    jpegs = [encoded(height, width, seed) for seed, (height, width) in enumerate(SIZES[:count])]
    rows = draw_rows(recipe, 0, SIZES[:count])
    return Work(jpegs=jpegs, recipe=recipe, rows=rows, seed=0, threads=1, output="float32", batch_size=2)


# ---- what is measured -------------------------------------------------------------------------------------


def test_a_record_has_every_condition(measured):
    made, _ = measured
    assert [record["provider"] for record in made] == ["decode", "fused", "fused-bf16"]
    for record in made:
        assert set(records.FIELDS) <= record.keys()
        assert record["repeats"] == 3
        assert 0 < record["low"] <= record["value"] <= record["high"]
        assert record["images"]["count"] == len(SIZES)
        assert record["images"]["mean_height"] == 157
        assert record["versions"].keys() >= {"numpy", "simplejpeg"}
        assert record["cold_start_seconds"] > 0
        assert record["machine"]["cores_allowed"] >= 1
    assert made[1]["recipe"]["photometric"]["jitter"] == "relicv2"


def test_views_are_slower_than_their_decoding_and_true(measured):
    (bare, fused, halves), _ = measured
    assert bare["ratio_to_decode"]["value"] == 1
    assert fused["ratio_to_decode"]["value"] < 1
    assert bare["parity"] is None
    assert fused["parity"]["mean_abs_error"] < 0.5
    assert halves["parity"]["mean_abs_error"] < 0.5
    assert fused["parity"]["psnr"] > 40
    assert fused["parity"]["images"] == 2
    assert 0 < fused["stages"]["decode"] < 1 / fused["low"]


def test_the_table_tells_speed_and_parity(measured):
    made, shown = measured
    line = next(line for line in shown.splitlines() if line.startswith("fused "))
    assert f"{made[1]['value']:.1f}" in line
    assert f"{made[1]['parity']['mean_abs_error']:.2f}" in line
    assert "3 images of jpegs0, mean 157×192 px" in shown
    assert "fused: table" in shown  # stages


def test_json_on_standard_output_is_json_only(folder, capfd):
    assert main(["decode", "--images", str(folder), "--limit", "2", "--repeats", "1", "--json", "-"]) == 0
    out, err = capfd.readouterr()
    (record,) = json.loads(out)
    assert (record["benchmark"], record["images"]["count"], record["output"]) == ("decode", 2, None)
    assert "round 1 of 1, images/s: decode" in err


def test_the_unit_decodes_as_the_fused_backend_does(tiny_beton):
    with Beton(tiny_beton) as beton:
        for index in filter(beton.is_jpeg, range(len(beton))):
            ours = jpeg.decode(bytes(beton.jpeg(index)), 1 << 20).copy()
            np.testing.assert_array_equal(ours, decode.fused(beton, index))


def test_threads_over_images_fill_the_same_batch():
    batches = []
    for threads in (1, 3):
        provider = prepare_fused(replace(work(count=3), threads=threads, output="uint8", batch_size=3))
        assert provider.run(range(3)).keys() >= {"decode", "blur", "write"}
        batches.append(provider._buffers)
    assert batches[0][0].any()
    for one, three in zip(*batches, strict=True):
        np.testing.assert_array_equal(one, three)


def test_images_are_evenly_spaced_and_common(tmp_path):
    for number in range(10):
        (tmp_path / f"{number}.jpg").write_bytes(encoded(20, 20 + number))
    chosen = images.read_jpegs(tmp_path, 5, on_note=pytest.fail)
    assert [jpeg.size_of(data)[1] for data in chosen] == [20, 22, 24, 26, 28]

    Image.new("CMYK", (30, 30)).save(tmp_path / "a.jpg")
    (tmp_path / "b.jpg").write_bytes(encoded(40, 40)[:-200])
    notes = []
    assert len(images.read_jpegs(tmp_path, 500, on_note=notes.append)) == 10
    assert notes == ["2 files are left out: damaged, no JPEG, or CMYK"]


# ---- arithmetic -------------------------------------------------------------------------------------------


def test_ratios_are_taken_within_a_round():
    quick = Measured(name="a", images=10, cold_start_seconds=0, note="", rounds={0: 1.0, 1: 2.0, 2: 1.0, 3: 9.0})
    slow = Measured(name="b", images=10, cold_start_seconds=0, note="", rounds={0: 4.0, 1: 6.0, 2: 5.0})
    assert quick.times_faster_than(slow) == (4.0, 3.0, 5.0)
    assert slow.times_faster_than(quick) == (0.25, 0.2, pytest.approx(1 / 3))
    assert slow.images_per_second() == (2.0, pytest.approx(10 / 6), 2.5)
    never = Measured(name="c", images=10, cold_start_seconds=0, note="", rounds={5: 1.0})
    assert quick.times_faster_than(never) is None


def test_stages_are_medians_per_image():
    passes = [{"decode": 1.0, "views": 4.0}, {"decode": 3.0, "views": 2.0}, {"decode": 2.0, "views": 9.0}]
    result = Measured(name="a", images=10, cold_start_seconds=0, note="", stages=passes)
    assert result.seconds_per_image() == {"decode": 0.2, "views": 0.4}


def test_slow_providers_take_part_from_the_first_to_the_last_round():
    assert harness.slow_rounds(Plan(repeats=7, slow_repeats=3)) == {0, 3, 6}
    assert harness.slow_rounds(Plan(repeats=2, slow_repeats=3)) == {0, 1}
    assert harness.slow_rounds(Plan(repeats=7, slow_repeats=1)) == {0}


def test_slow_providers_run_fewer_rounds(monkeypatch):
    monkeypatch.setattr(harness, "SLOW_SECONDS", 0.0)
    plan = Plan(repeats=5, slow_repeats=2, parity_images=0)
    assert set(harness.measure({"decode": work()}, plan, on_note=str)["decode"].rounds) == {0, 4}


# ---- providers that fail ----------------------------------------------------------------------------------

FAILURES = {
    "missing": (
        "print('hello'); raise ImportError('no such luck')",
        "does not import (no such luck); pip install lightly",
    ),
    "dying": (
        "import os, sys; print('out of luck', file=sys.stderr, flush=True); os._exit(3)",
        "exit code 3; out of luck",
    ),
    "hanging": ("import time; time.sleep(60)", "no answer within 2 s (--timeout)"),
    "raising": (  # and it has what it was given: one core, one thread
        "import os; raise RuntimeError((len(os.sched_getaffinity(0)), os.environ['OMP_NUM_THREADS']))",
        "RuntimeError: (1, '1')",
    ),
}


@pytest.mark.parametrize("failure", FAILURES)
def test_a_provider_that_fails_is_named_and_left_out(failure, tmp_path, monkeypatch):
    code, reason = FAILURES[failure]
    (tmp_path / "lightly").mkdir()
    (tmp_path / "lightly" / "__init__.py").write_text(code)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    notes = []
    plan = Plan(repeats=1, limit=2 if failure == "hanging" else 60, parity_images=0)
    results = harness.measure({"decode": work(), "lightly": work()}, plan, on_note=notes.append)
    assert list(results) == ["decode"]
    assert results["decode"].rounds[0] > 0
    assert len(notes) == 2
    assert notes[0].startswith("lightly is left out: ")
    assert notes[0].endswith(reason)


# ---- compare ----------------------------------------------------------------------------------------------


def stored(path: Path, **changes) -> str:
    record = dict.fromkeys(records.FIELDS, "same")
    record |= {
        "unit": "images/s",
        "provider": "fused",
        "value": 100.0,
        "low": 95.0,
        "high": 105.0,
        "machine": {"cpu": "A"},
        **changes,
    }
    path.write_text(json.dumps([record]))
    return str(path)


@pytest.mark.parametrize(
    ("value", "low", "high", "code", "shown"),
    [
        (100.0, 95.0, 105.0, 0, "overlap"),
        (92.0, 91.0, 94.0, 0, "apart"),  # within 5 % of the lowest
        (88.0, 86.0, 90.0, 1, "slower"),
        (88.0, 86.0, 96.0, 0, "overlap"),  # one round was as fast
        (150.0, 140.0, 160.0, 0, "apart"),
    ],
)
def test_compare_fails_where_a_provider_lost(tmp_path, capsys, value, low, high, code, shown):
    old, new = stored(tmp_path / "old"), stored(tmp_path / "new", value=value, low=low, high=high)
    assert main(["compare", old, new]) == code
    assert shown in capsys.readouterr().out


def test_compare_has_a_tolerance(tmp_path):
    old, new = stored(tmp_path / "old"), stored(tmp_path / "new", value=88.0, low=86.0, high=90.0)
    assert main(["compare", old, new, "--tolerance", "0.1"]) == 0
    assert compare.compare(Path(new), Path(old)) == 0


def test_compare_refuses_other_conditions(tmp_path, capsys):
    old = stored(tmp_path / "old")
    assert main(["compare", old, stored(tmp_path / "new", threads=2)]) == 1
    assert "measured with other threads" in capsys.readouterr().err
    assert main(["compare", old, stored(tmp_path / "new", batch_size=8)]) == 1
    assert "measured with other batch_size" in capsys.readouterr().err
    assert main(["compare", old, stored(tmp_path / "new", unit="ms per megapixel")]) == 1
    assert "compare takes records in images/s" in capsys.readouterr().err
    assert main(["compare", old, stored(tmp_path / "new", provider="ffcv")]) == 1
    assert "no provider in common" in capsys.readouterr().err
    (tmp_path / "new").write_text("[{}]")
    assert main(["compare", old, str(tmp_path / "new")]) == 1
    assert "no file of records" in capsys.readouterr().err


# ---- the other commands -----------------------------------------------------------------------------------


def test_loader_reports_speed_memory_and_first_batch(tiny_beton, capfd):
    arguments = ["--batches", "7", "--batch-size", "4", "--backend", "fused", "--json", "-"]
    assert main(["loader", "--data", str(tiny_beton), *arguments]) == 0
    out, err = capfd.readouterr()
    (record,) = json.loads(out)
    assert set(records.FIELDS) <= record.keys()
    assert record["images"]["count"] == 12
    assert record["repeats"] == 5
    assert record["stages"].keys() >= {"decode", "render"}
    assert 0 < record["first_batch_seconds"] < 60
    assert record["rss_megabytes"]["after"] > 10
    assert 0 <= record["occupancy"] <= 1
    assert f"{record['value']:.1f} images/s" in err


def test_the_loader_is_timed_from_its_first_batch_on(tiny_beton):
    options = {"batch_size": 4, "num_threads": 1, "drop_last": False}
    served = loader._serve(tiny_beton, benchmark_recipe("relicv2"), 6, options)
    assert served.counted == [4] * 5
    assert len(served.moments) == 6
    assert served.stats["batches"] == 5
    assert served.first_batch_seconds > 0


def test_plot_draws_a_bar_per_provider(measured, tmp_path, capsys):
    file = tmp_path / "records.json"
    file.write_text(json.dumps(measured[0]))
    assert main(["plot", str(file), "--out", str(tmp_path / "small.png")]) == 0
    file.write_text(json.dumps(measured[0] * 3))
    assert main(["plot", str(file), "--out", str(tmp_path / "large.png")]) == 0
    small, large = (Image.open(tmp_path / name).convert("RGB") for name in ("small.png", "large.png"))
    assert large.height > small.height
    assert (27, 108, 168) in {color for _, color in small.getcolors(1 << 24)}  # our bars


def test_mistakes_take_one_line(folder, capsys):
    for arguments, code, said in (
        (["vews"], 2, "did you mean 'views'?"),
        (["views"], 2, "--images"),
        (["views", "--images", str(folder), "--providers", "fussed"], 1, "did you mean 'fused'?"),
        (["views", "--images", str(folder), "--threads", "4096"], 1, "threads 4096"),
        (["views", "--images", str(folder), "--json", "/no/such/x.json"], 1, "mkdir -p"),
        (["decode", "--images", str(folder / "no")], 1, "no such folder"),
        (["loader"], 1, "give --data"),
        (["plot", str(folder / "no.json")], 1, "no such file"),
    ):
        assert main(arguments) == code
        err = capsys.readouterr().err
        assert said in err
        assert err.count("\n") == 1


def test_help_imports_nothing_heavy():
    code = (
        "import sys; from benchmarks.__main__ import COMMANDS, main\n"
        "for name in COMMANDS: assert main([name, '--help']) == 0\n"
        "assert not {'numpy', 'torch', 'cv2'} & sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def test_columns_are_aligned():
    shown = table.text_table(("name", "value"), [("a", "1.0"), ("longer", "100.0")])
    assert shown.splitlines() == ["name    value", "------  -----", "a         1.0", "longer  100.0"]
