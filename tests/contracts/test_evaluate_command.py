"""`relic evaluate`: what it prints and writes, and what it refuses."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from stored_runs import colour_beton, stored_run

from pipelines.beton import Beton
from pipelines.prepare.writer import write_beton
from relic.cli import main
from relic.commands.evaluate import json_text, named_files
from relic.evaluate.linear import accuracy, load_head
from relic.evaluate.protocols import open_data

FAST = ["--linear.epochs", "3", "--knn.k", "1", "5", "--num-threads", "2", "--device", "cpu"]


@pytest.fixture(scope="module")
def colours(tmp_path_factory):
    """Return a folder with train.beton (60 images), test.beton (24) and some.beton (blue and green only)."""
    folder = tmp_path_factory.mktemp("colours")
    colour_beton(folder / "train.beton", per_class=20)
    colour_beton(folder / "test.beton", per_class=8, seed=1)
    colour_beton(folder / "some.beton", per_class=6, names=("blue", "green"), seed=2)
    return folder


@pytest.fixture
def run(tmp_path, colours):
    stored_run(tmp_path / "run", data=str(colours / "train.beton"))
    return tmp_path / "run"


def test_a_run_is_evaluated_on_several_sets(run, colours, capsys):
    tests = ["--test", str(colours / "test.beton"), "--test", f"shifted={colours / 'some.beton'}"]
    assert main(["evaluate", str(run), *tests, *FAST]) == 0
    printed = capsys.readouterr().out
    record = json.loads((run / "evaluation.json").read_text())
    assert list(record["tests"]) == ["test", "shifted"]
    for results in record["tests"].values():
        metrics = ["knn@1", "knn@1_top5", "knn@5", "knn@5_top5", "linear", "linear_top5", "linear_per_class"]
        assert list(results) == metrics
        assert all(0 <= value <= 1 for value in results.values())
    assert (record["backbone"], record["step"], record["view_size"]) == ("resnet18x0.125", 7, 24)
    assert record["train"] == str(colours / "train.beton")
    assert record["images"] == {"train": 60, "test": 24, "shifted": 12}
    assert record["conditions"]["center_share"] == 1.0  # no side above 64
    assert record["conditions"]["precision"] == "float32"
    assert record["knn"] == {"k": [1, 5], "vote": "weighted", "temperature": 0.07, "leave_one_out": []}
    assert record["linear"]["features"] == "cached"
    assert set(record["health"]) == {"feature_std", "rankme", "uniformity"}
    # The table says the same, in percent.
    row = next(line for line in printed.splitlines() if line.startswith("shifted "))
    assert row.split()[1:3] == ["12", f"{100 * record['tests']['shifted']['knn@1']:.2f}"]
    assert f"written: {run / 'evaluation.json'}" in printed


def test_the_head_is_left_for_export(run, colours):
    assert main(["evaluate", str(run), "--test", str(colours / "test.beton"), *FAST]) == 0
    head, metadata = load_head(run / "linear_head.safetensors")
    assert head.weight.shape == (3, 64)
    assert metadata["step"] == "7"
    from relic.evaluate.features import extract
    from relic.weights import load_backbone

    test = extract(load_backbone(run).backbone, colours / "test.beton", view_size=24, share=1.0)
    record = json.loads((run / "evaluation.json").read_text())
    assert accuracy(head, test)["linear"] == record["tests"]["test"]["linear"]


def test_twice_gives_the_same_numbers(run, colours, capsys):
    outputs = []
    for _ in range(2):
        assert main(["evaluate", str(run), "--test", str(colours / "test.beton"), *FAST, "--json", "-"]) == 0
        outputs.append(json.loads(capsys.readouterr().out))  # nothing else on stdout
    assert outputs[0]["tests"] == outputs[1]["tests"]
    assert outputs[0]["health"] == outputs[1]["health"]


def test_weights_are_evaluated_without_a_run(run, colours, tmp_path, capsys):
    from relic.weights import load_backbone

    weights = tmp_path / "w.safetensors"
    save_file(load_backbone(run).backbone.state_dict(), weights, {"backbone": "resnet18x0.125", "view_size": "24"})
    where = tmp_path / "out" / "results.json"
    test = ["--test", str(colours / "test.beton"), "--protocols", "knn", *FAST]
    assert main(["evaluate", str(weights), *test]) == 1
    assert "does not say what it was trained on: give --train FILE.beton" in capsys.readouterr().err
    train = ["--train", str(colours / "train.beton")]
    assert main(["evaluate", str(weights), *train, *test, "--json", str(where)]) == 0
    assert main(["evaluate", str(run), *test]) == 0
    from_weights = json.loads(where.read_text())
    from_run = json.loads((run / "evaluation.json").read_text())
    assert from_weights["tests"] == from_run["tests"]
    assert "linear" not in from_weights
    assert from_weights["step"] is None


def test_the_training_set_is_tested_leaving_each_image_out(run, colours, tmp_path, capsys):
    copy = tmp_path / "copy.beton"  # the same images under another name
    copy.write_bytes((colours / "train.beton").read_bytes())
    assert main(["evaluate", str(run), "--test", str(copy), *FAST]) == 1
    assert "holds the training images, on which a linear head says nothing" in capsys.readouterr().err
    assert main(["evaluate", str(run), "--test", str(copy), "--protocols", "knn", *FAST]) == 0
    assert "leave-one-out" in capsys.readouterr().out
    record = json.loads((run / "evaluation.json").read_text())
    assert record["knn"]["leave_one_out"] == ["copy"]
    noise, labels = np.random.default_rng(0).integers(0, 256, (40, 8, 8, 3), np.uint8), [0, 1] * 20
    write_beton(tmp_path / "noise.beton", list(noise), labels)
    twice = ["--train", str(tmp_path / "noise.beton"), "--test", str(tmp_path / "noise.beton")]
    assert main(["evaluate", str(run), *twice, "--protocols", "knn", *FAST]) == 0
    # The nearest image of each is itself: without leaving it out this would be 1.
    assert json.loads((run / "evaluation.json").read_text())["tests"]["noise"]["knn@1"] < 0.8
    assert main(["evaluate", str(run), "--test", str(copy), "--protocols", "knn", "--knn.k", "60"]) == 1
    assert "knn.k=60 is more neighbours than the 59 training images" in capsys.readouterr().err


def test_classes_are_matched_by_name(colours):
    data = open_data(colours / "train.beton", {"some": colours / "some.beton"}, ["knn"])
    # Stored as blue = 0, green = 1; the training set has red, green, blue.
    assert data.tests["some"].labels.tolist() == [2] * 6 + [1] * 6
    assert data.num_classes == 3


def test_matched_classes_count_in_the_results(run, colours, tmp_path):
    with Beton(colours / "some.beton") as beton:
        images = [np.array(beton.pixels(index)) for index in range(len(beton))]
    write_beton(tmp_path / "numbered.beton", images, [2] * 6 + [1] * 6)  # as the training set numbers them
    tests = ["--test", str(colours / "some.beton"), "--test", str(tmp_path / "numbered.beton")]
    assert main(["evaluate", str(run), *tests, *FAST]) == 0
    results = json.loads((run / "evaluation.json").read_text())["tests"]
    assert results["some"] == results["numbered"]
    assert results["some"]["knn@1"] > 0.5


def test_classes_without_names_keep_their_numbers(colours, tmp_path):
    images = [np.zeros((4, 4, 3), np.uint8)] * 3
    write_beton(tmp_path / "numbers.beton", images, [2, 0, 1])
    data = open_data(colours / "train.beton", {"numbers": tmp_path / "numbers.beton"}, ["knn"])
    assert data.tests["numbers"].labels.tolist() == [2, 0, 1]
    write_beton(tmp_path / "numbers.beton", images, [2, 0, 3])
    with pytest.raises(ValueError, match=r"has a class 3, .*train\.beton only 0 to 2"):
        open_data(colours / "train.beton", {"numbers": tmp_path / "numbers.beton"}, ["knn"])


def test_view_size_and_center_share_can_be_set(run, colours):
    test = ["--test", str(colours / "test.beton"), "--protocols", "knn", *FAST]
    seen = []
    for flags in ([], ["--view-size", "16"], ["--center-share", "0.5"]):
        assert main(["evaluate", str(run), *test, *flags]) == 0
        seen.append(json.loads((run / "evaluation.json").read_text()))
    assert [each["view_size"] for each in seen] == [24, 16, 24]
    assert [each["conditions"]["center_share"] for each in seen] == [1.0, 1.0, 0.5]
    assert len({each["health"]["rankme"] for each in seen}) == 3


def test_mistakes_get_one_line(run, colours, tmp_path, capsys):
    test = str(colours / "test.beton")
    images = [np.zeros((4, 4, 3), np.uint8)] * 2
    write_beton(tmp_path / "unlabeled.beton", images, [0, -1])
    write_beton(tmp_path / "other.beton", images, [0, 1], class_names=["red", "geen"])
    stored_run(tmp_path / "empty", steps=())
    unlabeled, other = str(tmp_path / "unlabeled.beton"), str(tmp_path / "other.beton")
    for arguments, said in (
        ([str(run)], "no test set: give --test FILE.beton"),
        ([str(run), "--test", "nowhere.beton"], "nowhere.beton: no such file"),
        ([str(run), "--test", unlabeled], "has 1 of 2 images without a label: convert a folder"),
        ([str(run), "--test", test, "--train", unlabeled], "has 1 of 2 images without a label"),
        ([str(run), "--test", other], "has 1 classes that"),
        ([str(run), "--test", other], "the first 'geen' (nearest: 'green')"),
        ([str(run), "--test", test, "--test", test], "two test sets are called 'test'"),
        ([str(run), "--test", "=x"], "'=x' is neither FILE nor NAME=FILE"),
        ([str(run), "--test", test, "--center-share", "1.5"], "center_share=1.5 is not in (0, 1]"),
        ([str(run), "--test", test, "--view-size", "0"], "view_size=0"),
        ([str(run), "--test", test, "--protocols"], "no protocol was asked for"),
        ([str(run), "--test", test, "--linear.learning-rates"], "the linear sweep is empty"),
        ([str(run), "--test", test, "--linear.epochs", "0"], "linear.epochs=0 must be 1 or more"),
        ([str(run), "--test", test, "--knn.k", "61"], "knn.k=61 is more neighbours than the 60 training images"),
        ([str(tmp_path / "nowhere"), "--test", test], "is missing: give a run directory"),
        ([str(tmp_path / "empty"), "--test", test], "has no checkpoints/step-*.pt"),
    ):
        assert main(["evaluate", *arguments]) == 1, arguments
        error = capsys.readouterr().err
        assert said in error
        assert len(error.splitlines()) == 1  # no line of progress either: nothing was computed in vain
    assert not (run / "evaluation.json").exists()


def test_names_may_hold_what_file_names_hold(tmp_path):
    odd = tmp_path / "a=b.beton"
    odd.touch()
    assert named_files((str(odd), "c=d.beton")) == {"a=b": odd, "c": named_files(("c=d.beton",))["c"]}
    assert str(named_files(("c=d=e.beton",))["c"]) == "d=e.beton"


def test_json_knows_no_nan():
    text = json_text({"health": {"rankme": float("nan"), "k": (1, 2)}, "x": [float("inf")]})
    assert json.loads(text) == {"health": {"rankme": "nan", "k": [1, 2]}, "x": ["inf"]}


def test_the_number_of_threads_is_left_alone(run, colours):
    """Small heads train on one thread; what runs afterwards must not."""
    threads = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        assert main(["evaluate", str(run), "--test", str(colours / "test.beton"), *FAST]) == 0
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(threads)
