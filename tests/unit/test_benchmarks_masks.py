"""`python -m benchmarks masks`: which runs are done, how they go on, and what is made of them."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import cv2
import pytest

from benchmarks import masks, records, sweep
from benchmarks.sweep import Setting

CHANCES, SEEDS = (0.1, 0.4), (0, 1)
KNOWN = {"prior": "mbd", "coverage": 0.2, "absent": 3, "iou": 0.66, "max_f": 0.86, "plates": 900, "plate_side": 160}
# linear accuracy on `test_shifted` without masks, and what the chance adds
BASE, REMOVED, SWAPPED = {0: 20.0, 1: 22.0}, {0.1: 1.0, 0.4: 2.0}, {0.1: 3.0, 0.4: 5.0}


def judged(setting: Setting) -> dict:
    gains = {"none": {0.0: 0.0}, "remove": REMOVED, "swap": SWAPPED}[setting.mode]
    shifted = (BASE[setting.seed] + gains[setting.chance] + (setting.seed if setting.mode == "swap" else 0)) / 100
    return {
        "backbone": "resnet18x0.25",
        "images": {"train": 300, "test": 200, "test_shifted": 200},
        "tests": {"test": {"linear": 0.5, "knn@20": 0.4}, "test_shifted": {"linear": shifted, "knn@20": 0.2}},
    }


@pytest.fixture
def found() -> list[masks.Result]:
    return [(setting, judged(setting)) for setting in sweep.settings(("remove", "swap"), CHANCES, SEEDS)]


@pytest.fixture
def relic(monkeypatch) -> list[tuple[str, ...]]:
    """Stand in for the program: note the commands, write what they would write."""
    asked: list[tuple[str, ...]] = []
    lock = threading.Lock()

    def run(*arguments: object, log: Path, threads: int) -> str:
        words = tuple(map(str, arguments))
        with lock:
            asked.append(words)
        if words[:2] == ("data", "synthetic"):
            for split in ("train", "test", "test_shifted"):
                (Path(words[2]) / split).mkdir(parents=True)
        elif words[:2] == ("data", "convert"):
            Path(words[3]).write_bytes(b"beton")
        elif words[:2] == ("masks", "infer"):
            return json.dumps({"prior": "mbd"})
        elif words[:2] == ("masks", "score"):
            return json.dumps(
                {"maps": {"train": {"coverage": {"median": 0.2}, "absent": 3, "iou": 0.66, "max_f": 0.86}}}
            )
        elif words[:2] == ("masks", "backgrounds"):
            return json.dumps({"plates": 900, "side": 160})
        elif words[0] == "evaluate":
            directory = Path(words[1])
            mode, chance, seed = directory.name.split("-")
            directory.mkdir(parents=True)
            setting = Setting(mode=mode, chance=float(chance), seed=int(seed.removeprefix("seed")))
            (directory / "evaluation.json").write_text(json.dumps(judged(setting)))
        return ""

    monkeypatch.setattr(sweep, "relic", run)
    return asked


def call(folder: Path, **changes) -> int:
    given = {"chances": CHANCES, "seeds": SEEDS, "train": 300, "test": 200, "out": folder.parent / "plot.png"}
    return masks.masks(**{"folder": folder, **given, **changes})


def flag(words: tuple[str, ...], name: str) -> str | None:
    return words[words.index(name) + 1] if name in words else None


def test_every_mode_and_chance_is_run_for_every_seed(relic, tmp_path, capsys):
    assert call(tmp_path / "sweep") == 0
    runs = [words for words in relic if words[0] == "pretrain"]
    assert len(runs) == len({flag(words, "--name") for words in runs}) == 2 * (1 + 2 * 2)
    for words in runs:
        mode, chance, seed = (flag(words, "--name") or "").split("-")
        assert flag(words, "--views.background.chance") == str(float(chance))
        assert f"seed{flag(words, '--seed')}" == seed
        assert (flag(words, "--masks") is None) == (mode == "none")
        assert flag(words, "--views.background.mode") == (None if mode == "none" else mode)
        assert (flag(words, "--plates") is None) == (mode != "swap")
    first = {(flag(words, "--name") or "").rpartition("-")[2] for words in runs[:5]}
    assert first == {"seed0"}  # a stopped sweep has whole comparisons
    assert "| swap | 0.4 |" in capsys.readouterr().out


def test_what_is_done_is_not_done_again(relic, tmp_path):
    folder = tmp_path / "sweep"
    assert call(folder) == 0
    before = len(relic)
    assert call(folder) == 0
    assert relic[before:] == []
    (folder / "runs" / "swap-0.4-seed1" / "evaluation.json").unlink()
    (folder / "runs" / "swap-0.4-seed1").rmdir()
    assert call(folder, jobs=1) == 0
    assert [flag(words, "--name") for words in relic[before:] if words[0] == "pretrain"] == ["swap-0.4-seed1"]
    with pytest.raises(ValueError, match="was begun with train=300: give that again, or another --folder"):
        call(folder, train=400)


def test_an_unfinished_data_set_is_made_again(relic, tmp_path):
    (tmp_path / "sweep" / "data" / "train").mkdir(parents=True)
    assert call(tmp_path / "sweep") == 0
    assert relic[0][:2] == ("data", "synthetic")


def test_a_failed_run_stops_the_sweep_and_keeps_the_others(relic, tmp_path, monkeypatch):
    folder, works = tmp_path / "sweep", sweep.relic

    def failing(*arguments: object, log: Path, threads: int) -> str:
        if arguments[0] == "pretrain" and "remove-0.1-seed0" in map(str, arguments):
            raise OSError("relic pretrain failed")
        return works(*arguments, log=log, threads=threads)

    monkeypatch.setattr(sweep, "relic", failing)
    with pytest.raises(OSError, match="relic pretrain failed"):
        call(folder)
    assert [path.parent.name for path in folder.glob("runs/*/evaluation.json")] == ["none-0-seed0"]
    monkeypatch.setattr(sweep, "relic", works)
    assert call(folder) == 0


def test_a_failed_command_is_told_with_its_last_words_and_its_log(tmp_path):
    log = tmp_path / "logs" / "x.log"
    with pytest.raises(OSError, match=r"relic data failed \(exit code 1\): .*none.beton: no such file.*; see .*x\.log"):
        sweep.relic("data", "info", tmp_path / "none.beton", log=log, threads=1)
    assert log.read_text().startswith("$ relic data info")
    assert sweep.relic("--version", log=log, threads=1).startswith("relicv2 ")


def test_the_table_has_means_deviations_and_gains_seed_by_seed(found):
    lines = masks.table(found).splitlines()
    assert lines[0] == "| backgrounds | chance | test | test: gain | test_shifted | test_shifted: gain |"
    assert lines[2] == "| none | 0 | 50.0 ± 0.0 | – | 21.0 ± 1.4 | – |"
    assert lines[4] == "| remove | 0.4 | 50.0 ± 0.0 | 0.0 ± 0.0 | 23.0 ± 1.4 | 2.0 ± 0.0 |"
    assert lines[6] == "| swap | 0.4 | 50.0 ± 0.0 | 0.0 ± 0.0 | 26.5 ± 2.1 | 5.5 ± 0.7 |"
    assert len(lines) == 2 + 5


def test_a_single_seed_has_no_deviation(found):
    alone = [(setting, evaluation) for setting, evaluation in found if setting.seed == 0]
    assert masks.table(alone).splitlines()[-1] == "| swap | 0.4 | 50.0 | 0.0 | 25.0 | 5.0 |"


def test_a_loss_has_a_minus_sign():
    assert masks.spread([-1.0, -2.0]) == "−1.5 ± 0.7"


def test_records_keep_every_accuracy(found, tmp_path):
    shared = {"machine": {"cpu": "any"}, "commit": "abc", "date": "2026-11-29"}
    made = [masks.record(group, KNOWN, "demo", "10ep", shared) for group in masks.grouped(found)]
    records.write(made, str(tmp_path / "masks.json"))
    read = records.read(tmp_path / "masks.json")
    assert [record["provider"] for record in read] == ["none", "remove 0.1", "remove 0.4", "swap 0.1", "swap 0.4"]
    last = read[-1]
    assert (last["value"], last["low"], last["high"], last["repeats"]) == (
        pytest.approx(26.5),
        25,
        pytest.approx(28),
        2,
    )
    assert last["accuracies"]["test_shifted"] == {"linear": pytest.approx([25, 28]), "knn@20": [20, 20]}
    assert last["masks"]["iou"] == 0.66


def test_the_plot_is_drawn_in_both_colours(found, tmp_path):
    masks.draw(found, tmp_path / "plot.png", "conditions")
    picture = cv2.imread(str(tmp_path / "plot.png"))
    for color in masks.COLORS.values():
        bgr = [int(color[start : start + 2], 16) for start in (5, 3, 1)]
        assert (abs(picture.astype(int) - bgr).max(axis=2) < 8).sum() > 200


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"jobs": 0}, "--jobs 0"),
        ({"chances": (0.0,)}, r"the chances in \(0, 1\]"),
        ({"seeds": ()}, "at least one of --seeds"),
        ({"out": Path("plot.svg")}, r"give a \.png file"),
        ({"recipe": "demmo"}, "did you mean 'demo'"),
    ],
)
def test_wrong_use_starts_nothing(relic, tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        call(tmp_path / "sweep", **changes)
    assert relic == []
    assert not (tmp_path / "sweep").exists()
