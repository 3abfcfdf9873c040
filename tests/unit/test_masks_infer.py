"""`relic masks infer` on a beton and on shards: what is stored, continued, replaced and refused."""

from __future__ import annotations

import json
import os
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from sharded import in_shards

from pipelines import decode
from pipelines.beton import Beton
from pipelines.datasets.synthetic import render
from pipelines.prepare.engines import Engine
from pipelines.prepare.writer import write_beton
from pipelines.shards import open_beton
from relic.cli import main
from relic.masks import batches, pngs, stores
from saliency import network, priors
from saliency.infer import Maker, binary_mask, by_priors
from saliency.store import (
    DAMAGED,
    EMPTY,
    MaskStore,
    MaskStoreWriter,
    ShardedMaskStore,
    open_masks,
    partial_path,
)

NUM_IMAGES = 40  # more than a task, so that two workers share
QUICK = ("--priors", "mbd")


@pytest.fixture(scope="module")
def beton(tmp_path_factory) -> Path:
    """Return a beton of synthetic JPEGs; image 5 is cut short, image 7 one colour, image 9 stored raw."""
    images: list = []
    for index in range(NUM_IMAGES):
        image = render(index, split="train", seed=0)[0]
        images.append(cv2.imencode(".jpg", image[..., ::-1])[1].tobytes())
    images[5] = images[5][: len(images[5]) // 2]
    images[7] = np.full((50, 60, 3), 120, np.uint8)
    images[9] = render(9, split="train", seed=0)[0]
    path = tmp_path_factory.mktemp("beton") / "small.beton"
    write_beton(path, images, [index % 10 for index in range(NUM_IMAGES)])
    return path


@pytest.fixture(scope="module")
def whole(beton, tmp_path_factory) -> Path:
    """Return the masks of the beton, made at one go."""
    path = tmp_path_factory.mktemp("whole") / "small.masks"
    assert run(beton, "--out", path, "--workers", 1, *QUICK) == 0
    return path


def run(*arguments) -> int:
    return main(["masks", "infer", *map(str, arguments)])


def bright_is_salient(scene) -> np.ndarray:
    return scene.rgb[..., 0] / np.float32(255)


# ---- a beton ------------------------------------------------------------------------------------------------


def test_the_command_stores_the_mask_of_every_image(beton, tmp_path, capsys):
    out = tmp_path / "small.masks"
    assert run(beton, "--out", out, "--workers", 1, "--json") == 0
    summary = json.loads(capsys.readouterr().out)
    assert summary["images"] == NUM_IMAGES
    assert summary["masks"] == NUM_IMAGES - 2
    assert summary["rejected"] == {"does not decode": 1, "empty": 1}
    assert summary["maker"] == "priors rbd,mc,dsr,hs,mbd at 300"
    assert summary["prior"] == "rbd,mc,dsr,hs,mbd"
    assert summary["images_per_second"] > 0
    assert summary["resumed"] == 0
    method = by_priors(priors.DEFAULT)
    with Beton(beton) as images, MaskStore(out) as store:
        store.check(images.fingerprint(), NUM_IMAGES)
        assert store.maker == summary["maker"]
        assert np.flatnonzero(store.absent).tolist() == [5, 7]
        assert store.flags[[5, 7]].tolist() == [DAMAGED, EMPTY]
        for index in (0, 9, NUM_IMAGES - 1):
            expected = binary_mask(method([np.array(decode.fused(images, index))])[0])
            np.testing.assert_array_equal(store.mask(index), expected)
        kept = store.masks(np.flatnonzero(~store.absent)).mean(axis=(1, 2))
    quantiles = np.quantile(kept, [0.05, 0.25, 0.5, 0.75, 0.95])
    assert list(summary["coverage_quantiles"].values()) == pytest.approx(quantiles, abs=1e-12)


def test_bytes_are_the_same_for_any_number_of_workers(beton, whole, tmp_path, capsys):
    assert run(beton, "--out", tmp_path / "2.masks", "--workers", 2, *QUICK) == 0
    assert (tmp_path / "2.masks").read_bytes() == whole.read_bytes()
    shown = capsys.readouterr().out
    assert "38 of 40 images, by priors mbd at 300" in shown
    assert "2 (1 empty, 1 does not decode)" in shown


def test_the_default_name_stands_beside_the_beton_and_is_not_overwritten(beton, capsys, monkeypatch):
    monkeypatch.setitem(priors.PRIORS, "mbd", bright_is_salient)
    out = beton.with_suffix(".masks")
    assert run(beton, "--workers", 1, *QUICK) == 0
    first = out.read_bytes()
    monkeypatch.setitem(priors.PRIORS, "mbd", lambda scene: 1 - bright_is_salient(scene))
    assert run(beton, "--workers", 1, *QUICK) == 1
    assert "--overwrite" in capsys.readouterr().err
    assert out.read_bytes() == first
    assert run(beton, "--workers", 1, *QUICK, "--overwrite") == 0
    assert out.read_bytes() != first


def test_pngs_of_a_beton_are_its_maps(beton, whole, tmp_path):
    out, folder = tmp_path / "x.masks", tmp_path / "maps"
    assert run(beton, "--out", out, "--png", folder, "--workers", 2, *QUICK) == 0
    assert out.read_bytes() == whole.read_bytes()
    made = sorted(os.listdir(folder))
    assert made == [f"{index:06d}.png" for index in range(NUM_IMAGES) if index != 5]
    with Beton(beton) as images:
        image = np.array(decode.fused(images, 3))
    assert pngs.made_by(folder / "000003.png") == "priors mbd at 300"
    gray = pngs.read(folder / "000003.png")
    (saliency,) = by_priors(["mbd"])([image])
    full = cv2.resize(saliency, image.shape[1::-1], interpolation=cv2.INTER_LINEAR)
    assert gray.dtype == np.uint8
    np.testing.assert_array_equal(gray > 127, full * 255 > 127.5)
    np.testing.assert_allclose(gray, full * 255, atol=0.51)


def test_what_failed_is_continued(beton, whole, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(stores, "IMAGES_PER_TASK", 8)
    make_masks, calls = stores.make_masks, []

    def failing(task):
        calls.append(task.start)
        if task.start == 16 and calls.count(16) == 1:
            raise OSError("no memory")
        return make_masks(task)

    monkeypatch.setattr(stores, "make_masks", failing)
    out = tmp_path / "x.masks"
    arguments = (beton, "--out", out, "--workers", 1, *QUICK, "--json")
    assert run(*arguments) == 1
    assert "no memory" in capsys.readouterr().err
    assert os.listdir(tmp_path) == ["x.masks.partial"]
    monkeypatch.setattr(stores, "IMAGES_PER_TASK", 10)  # of a newer version: a task that is half done is made again
    assert run(*arguments) == 0
    summary = json.loads(capsys.readouterr().out)
    assert calls == [0, 8, 16, 10, 20, 30]
    assert summary["resumed"] == 10
    assert summary["rejected"] == {"does not decode": 1, "empty": 1}
    assert out.read_bytes() == whole.read_bytes()
    assert os.listdir(tmp_path) == ["x.masks"]


def test_another_maker_starts_over_and_says_so(beton, whole, tmp_path, capsys):
    out = tmp_path / "x.masks"
    with Beton(beton) as images:
        writer = MaskStoreWriter(out, NUM_IMAGES, images.fingerprint(), "priors mc at 300")
    writer.write(3, np.ones((128, 128), np.bool_))
    writer.close()
    assert run(beton, "--out", out, "--workers", 1, *QUICK) == 0
    assert "by another maker (priors mc at 300); starting over" in capsys.readouterr().err
    assert out.read_bytes() == whole.read_bytes()


def test_pngs_that_are_missing_are_made_when_a_run_is_continued(beton, whole, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(stores, "IMAGES_PER_TASK", 8)
    out, folder = tmp_path / "x.masks", tmp_path / "maps"
    with Beton(beton) as images, MaskStore(whole) as store:
        writer = MaskStoreWriter(out, NUM_IMAGES, images.fingerprint(), store.maker)
        writer.write_packed(0, np.packbits(store.masks(range(16)).reshape(16, -1), axis=1), store.flags[:16])
        writer.close()
    folder.mkdir()
    for index in (0, 1, 2, 3, 4, 6, 7):  # not 5, which does not decode
        (folder / f"{index:06d}.png").touch()
    assert run(beton, "--out", out, "--png", folder, "--workers", 1, *QUICK, "--json") == 0
    assert json.loads(capsys.readouterr().out)["resumed"] == 8
    assert (folder / "000002.png").stat().st_size == 0
    assert (folder / "000008.png").stat().st_size > 0
    assert out.read_bytes() == whole.read_bytes()


def test_a_network_makes_them_instead(beton, tmp_path, monkeypatch, capsys):
    sizes: list[int] = []

    def of_network(path):
        assert path.read_bytes() == b"weights"
        return lambda images: (sizes.append(len(images)), [np.full((20, 30), 0.5, np.float32) for _ in images])[1]

    monkeypatch.setattr("saliency.infer.by_network", of_network)
    monkeypatch.setattr(batches, "BATCH_IMAGES", 10)
    path, out = tmp_path / "net.pt", tmp_path / "x.masks"
    path.write_bytes(b"weights")
    assert run(beton, "--network", path, "--out", out, "--workers", 1, "--json") == 0
    summary = json.loads(capsys.readouterr().out)
    assert summary["maker"].startswith("network sha256:")
    assert len(summary["maker"]) == len("network sha256:") + 64
    assert summary["prior"] is None
    assert summary["rejected"] == {"over 90 %": 39, "does not decode": 1}
    assert sizes == [10, 10, 10, 1, 8]  # of tasks of 32 and 8, without the damaged one
    maker = Maker(priors=(), network=path, sha256="another")
    with pytest.raises(ValueError, match=r"net\.pt: is another file than when the masks were begun"):
        maker.method()


def test_masks_are_those_of_the_networks_maps(beton, tmp_path):
    torch.manual_seed(0)
    net = network.SaliencyNetwork(network.NetworkConfig(priors=("mbd",), width=0.125, decoder=8)).eval()
    with Beton(beton) as images:
        several = [np.array(decode.fused(images, index)) for index in (0, 9, 20)]
    middle = np.median(network.maps(network.ready(net), several))
    net.head.bias.data -= float(np.log(middle / (1 - middle)))  # half of the pixels are salient
    path, out = tmp_path / "net.safetensors", tmp_path / "x.masks"
    network.save(net, path, {})
    assert run(beton, "--network", path, "--out", out, "--workers", 1) == 0
    with MaskStore(out) as store:
        assert store.flags[[0, 9, 20]].tolist() == [0, 0, 0]
        expected = [binary_mask(saliency) for saliency in network.maps(network.ready(network.load(path)), several)]
        np.testing.assert_array_equal(store.masks([0, 9, 20]), expected)
        assert 0.2 < np.mean(expected) < 0.8


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--priors", "mdb"], "did you mean 'mbd'"),
        (["--priors", "mc,mc"], "give each once"),
        (["--workers", "0"], "workers 0"),
        (["--out", "{folder}/none/x.masks"], "there is no folder"),
        (["--png", "{folder}/none/maps"], "there is no folder"),
        (["--out", "{beton}", "--overwrite"], "has the ending of a beton"),
        (["--out", "{link}", "--overwrite"], "is the beton itself"),
        (["--network", "{folder}/net.pt"], "net.pt: no such network"),
        (["--network", "{folder}/net.pt", "--priors", "mc"], "give one of them"),
        (["--address", "head:6379"], "give --engine ray"),
    ],
)
def test_wrong_use_is_one_line_and_harms_nothing(beton, tmp_path, capsys, arguments, message):
    before, link = beton.read_bytes(), tmp_path / "link.masks"
    link.symlink_to(beton)
    assert run(beton, *[text.format(folder=tmp_path, beton=beton, link=link) for text in arguments]) == 1
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert beton.read_bytes() == before
    assert list(tmp_path.iterdir()) == [link]


def test_a_missing_beton_is_named(tmp_path, capsys):
    assert run(tmp_path / "none" / "x.beton") == 1
    assert "x.beton: no such file" in capsys.readouterr().err


def test_a_beton_that_changed_while_masks_were_made_is_refused(beton, tmp_path, monkeypatch, capsys):
    changed, tasks = tmp_path / "x.beton", stores._Job.tasks

    def tasks_then_change(job):
        write_beton(changed, [np.zeros((9, 9, 3), np.uint8)] * NUM_IMAGES, [0] * NUM_IMAGES)
        yield from tasks(job)

    changed.write_bytes(beton.read_bytes())
    monkeypatch.setattr(stores._Job, "tasks", tasks_then_change)
    assert run(changed, "--workers", 1, *QUICK) == 1
    assert "x.beton: has other images than when the masks were begun" in capsys.readouterr().err
    assert os.listdir(tmp_path) == ["x.beton"]


# ---- shards -------------------------------------------------------------------------------------------------

SIZES = (7, 0, 30, 3)


@pytest.fixture
def shards(beton, tmp_path) -> Path:
    return in_shards(beton, tmp_path / "shards", SIZES)


def stored(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir()) if "masks" in path.name}


@pytest.mark.parametrize("workers", [1, 2])
def test_shards_have_the_masks_of_the_one_file(shards, whole, capsys, workers):
    assert run(shards, "--workers", workers, *QUICK, "--json") == 0
    summary = json.loads(capsys.readouterr().out)
    assert (summary["images"], summary["masks"]) == (NUM_IMAGES, NUM_IMAGES - 2)
    out = shards.with_suffix(".masks")
    assert list(stored(out.parent)) == [*(f"small-{number:05d}.masks" for number in range(4)), "small.masks"]
    with open_beton(shards) as images, open_masks(out) as many, MaskStore(whole) as one:
        assert isinstance(many, ShardedMaskStore)
        many.check(images.fingerprint(), NUM_IMAGES)
        np.testing.assert_array_equal(np.asarray(many.absent), np.asarray(one.absent))
        np.testing.assert_array_equal(many.masks(range(NUM_IMAGES)), one.masks(range(NUM_IMAGES)))


def test_pngs_of_shards_are_numbered_through(shards, tmp_path):
    assert run(shards, "--png", tmp_path / "maps", "--workers", 1, *QUICK) == 0
    assert len(os.listdir(tmp_path / "maps")) == NUM_IMAGES - 1
    assert (tmp_path / "maps" / "000039.png").exists()


def test_shards_stay_whole_until_the_new_ones_are_all_there(shards, monkeypatch, capsys):
    assert run(shards, "--workers", 1, *QUICK) == 0
    before = stored(shards.parent)
    monkeypatch.setitem(priors.PRIORS, "mc", bright_is_salient)
    again = (shards, "--workers", 1, "--priors", "mc", "--overwrite", "--json")

    make_masks = stores.make_masks

    def failing(task):
        if task.part == 3:
            raise OSError("pulled the plug")
        return make_masks(task)

    with monkeypatch.context() as patch:
        patch.setattr(stores, "make_masks", failing)
        assert run(*again) == 1
    now = stored(shards.parent)
    assert {name: now[name] for name in before} == before
    assert set(now) - set(before) == {"small-00000.masks.partial", "small-00002.masks.partial"}
    capsys.readouterr()
    assert run(*again) == 0
    assert json.loads(capsys.readouterr().out)["resumed"] == 37
    now = stored(shards.parent)
    assert now.keys() == before.keys()
    assert now["small-00002.masks"] != before["small-00002.masks"]


def test_overwriting_makes_all_again(shards, monkeypatch, capsys):
    assert run(shards, "--workers", 1, *QUICK) == 0
    before = stored(shards.parent)
    monkeypatch.setitem(priors.PRIORS, "mbd", bright_is_salient)  # another version of the same maker
    assert run(shards, "--workers", 1, *QUICK) == 1
    assert "small.masks exists: give --overwrite" in capsys.readouterr().err
    assert stored(shards.parent) == before
    assert run(shards, "--workers", 1, *QUICK, "--overwrite") == 0
    now = stored(shards.parent)
    assert [name for name in before if now[name] == before[name]] == ["small-00001.masks", "small.masks"]  # no images


def test_stores_that_are_in_their_place_are_not_made_again(shards, monkeypatch, capsys):
    assert run(shards, "--workers", 1, *QUICK) == 0
    before = stored(shards.parent)
    shards.with_suffix(".masks").unlink()  # as if the run had been interrupted before its last step
    (shards.parent / "small-00003.masks").rename(shards.parent / "small-00003.masks.partial")
    capsys.readouterr()
    monkeypatch.setattr(stores, "make_masks", None)
    assert run(shards, "--workers", 1, *QUICK, "--json") == 0
    assert json.loads(capsys.readouterr().out)["resumed"] == NUM_IMAGES
    assert stored(shards.parent) == before


def test_another_makers_store_in_the_place_of_a_shard_is_not_replaced_unasked(shards, capsys):
    MaskStoreWriter(shards.parent / "small-00002.masks", 30, "ab" * 32).finish()
    before = stored(shards.parent)
    assert run(shards, "--workers", 1, *QUICK) == 1
    assert "small-00002.masks exists: give --overwrite" in capsys.readouterr().err
    assert stored(shards.parent) == before
    assert run(shards, "--workers", 1, *QUICK, "--overwrite") == 0
    assert stored(shards.parent)["small-00002.masks"] != before["small-00002.masks"]


def test_one_store_in_the_place_of_shards(beton, shards, whole):
    out = shards.with_suffix(".masks")
    assert run(shards, "--workers", 1, *QUICK) == 0
    assert run(beton, "--out", out, "--workers", 1, *QUICK, "--overwrite") == 0
    assert stored(out.parent) == {"small.masks": whole.read_bytes()}


def test_two_runs_to_the_same_place(shards, capsys):
    with MaskStoreWriter(shards.with_suffix(".masks"), 1, "ab" * 32):
        assert run(shards, "--workers", 1, *QUICK, "--overwrite") == 1
        assert "small.masks.partial: another process is writing it" in capsys.readouterr().err
    assert list(stored(shards.parent)) == ["small.masks"]


def test_only_the_shards_at_work_are_open(shards, monkeypatch):
    monkeypatch.setattr(stores, "IMAGES_PER_TASK", 2)
    most, take = [], stores._Job.take
    monkeypatch.setattr(stores._Job, "take", lambda job, made: (take(job, made), most.append(len(job._writers)))[0])
    silent = {name: lambda *_: None for name in ("on_start", "on_progress", "on_note")}
    maker, out = Maker(priors=("mbd",)), shards.with_suffix(".masks")
    stores.make_stores(shards, out, maker, engine=Engine(workers=1), **silent)
    assert max(most) == 1
    assert not partial_path(out).exists()
