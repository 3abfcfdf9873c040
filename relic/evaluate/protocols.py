"""All protocols on one frozen backbone: check the data sets, extract features once each, judge them."""

from __future__ import annotations

import dataclasses
import difflib
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pipelines.shards import AnyBeton, open_beton
from relic.console import Progress
from relic.distributed import Group
from relic.evaluate.config import Conditions, KnnConfig, LinearConfig, Protocol
from relic.evaluate.features import Features, center_share, extract
from relic.evaluate.health import health
from relic.evaluate.knn import check_k, knn
from relic.evaluate.linear import Head, accuracy, epochs_of, mode, split, train_augmented, train_cached
from relic.weights import LoadedBackbone

HEALTH_IMAGES = 2_048  # of the training set, evenly spaced: its SVD takes a second


@dataclass(frozen=True, kw_only=True)
class DataSet:
    """A labelled beton, looked at before anything is computed."""

    path: Path
    num_images: int
    labels: torch.Tensor
    """int64 [N], in the numbering of the training set."""
    is_training_set: bool
    """Whether it holds the same images as the training set."""


@dataclass(frozen=True, kw_only=True)
class DataSets:
    """Training and test sets that fit together."""

    train: DataSet
    tests: dict[str, DataSet]
    num_classes: int
    class_names: list[str] | None
    center_share: float
    """What `relic.evaluate.features.center_share` says of the training images."""


def open_data(train: Path, tests: dict[str, Path], protocols: Sequence[Protocol]) -> DataSets:
    """Look at all data sets and number the classes of the tests as the training set does.

    Classes are matched by name where both files know their names, so that a test set may lack some of them.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: images without labels, classes that do not match, or a linear test on the training images.
    """
    with open_beton(train) as beton:
        _check_labels(beton)
        names, fingerprint, share = beton.class_names, beton.fingerprint(), center_share(beton)
        training = DataSet(
            path=train,
            num_images=beton.num_images,
            labels=torch.from_numpy(np.asarray(beton.labels)),
            is_training_set=True,
        )
    num_classes = int(training.labels.max()) + 1
    opened = {}
    for name, path in tests.items():
        with open_beton(path) as beton:
            _check_labels(beton)
            opened[name] = DataSet(
                path=path,
                num_images=beton.num_images,
                labels=torch.from_numpy(_matched_labels(beton, names, num_classes, train)),
                is_training_set=beton.fingerprint() == fingerprint,
            )
        if opened[name].is_training_set and "linear" in protocols:
            raise ValueError(
                f"test set {path} holds the training images, on which a linear head says nothing: give another --test,"
                " or --protocols knn, which leaves each image out of its own neighbours"
            )
    return DataSets(train=training, tests=opened, num_classes=num_classes, class_names=names, center_share=share)


def evaluate(
    loaded: LoadedBackbone,
    data: DataSets,
    conditions: Conditions,
    *,
    protocols: Sequence[Protocol],
    knn_config: KnnConfig,
    linear_config: LinearConfig,
    group: Group | None = None,
) -> tuple[dict[str, Any], Head | None] | None:
    """Extract the features of every data set once and run the protocols on them.

    Args:
        loaded: moved to `conditions.device`.
        data: from `open_data`.
        conditions: how images become features.
        protocols: which.
        knn_config, linear_config: their settings.
        group: processes that share the work of the backbone; rank 0 does the rest. None for one process.

    Returns:
        None on processes other than rank 0; else what `evaluation.json` holds, without where it came from: `tests`
        {name: {metric: share from 0 to 1}} and the conditions of every number; and the linear head, if one was trained.

    Raises:
        ValueError: an image does not decode, or a setting does not fit the data.
    """
    start = time.perf_counter()
    # Settings first: on ImageNet the features take half an hour.
    if "knn" in protocols:
        check_k(knn_config.k, data.train.num_images - any(each.is_training_set for each in data.tests.values()))
    if "linear" in protocols:
        split(data.train.num_images, linear_config)
    backbone = loaded.backbone.to(conditions.device)
    linear_mode = mode(linear_config, data.train.num_images) if "linear" in protocols else None

    is_main = group is None or group.world.is_main

    def features_of(name: str, data_set: DataSet, flipped: bool) -> Features | None:
        with Progress(f"features of {name}", data_set.num_images, quiet=not is_main) as progress:
            found = extract(
                backbone,
                data_set.path,
                view_size=conditions.view_size,
                share=conditions.center_share,
                flipped=flipped,
                batch_size=conditions.batch_size,
                num_threads=conditions.num_threads,
                device=conditions.device,
                precision=conditions.precision,
                backend=conditions.backend,
                group=group,
                on_progress=progress.advance,
            )
        return None if found is None else dataclasses.replace(found, labels=data_set.labels)

    train = features_of("the training set", data.train, linear_mode == "cached")
    test_features = {
        name: train if each.is_training_set else features_of(name, each, False) for name, each in data.tests.items()
    }
    if train is None:
        return None
    spread = np.linspace(0, len(train.labels) - 1, min(HEALTH_IMAGES, len(train.labels))).astype(np.int64)
    head = None
    if linear_mode is not None:
        head = _train_head(linear_mode, backbone, data.train.path, train, linear_config, conditions)

    tests: dict[str, dict[str, float]] = {}
    for name, data_set in data.tests.items():
        test = test_features[name]
        assert test is not None
        tests[name] = {}
        if "knn" in protocols:
            tests[name] |= knn(
                train, test, knn_config, leave_one_out=data_set.is_training_set, device=conditions.device
            )
        if head is not None:
            tests[name] |= accuracy(head, test, device=conditions.device)

    record: dict[str, Any] = {
        "tests": tests,
        "images": {"train": data.train.num_images, **{name: each.num_images for name, each in data.tests.items()}},
        "files": {name: str(each.path) for name, each in data.tests.items()},
        "classes": data.num_classes,
        "conditions": dataclasses.asdict(conditions),
        "health": dataclasses.asdict(health(train.features[spread])) if len(spread) > 1 else None,
    }
    if "knn" in protocols:
        record["knn"] = dataclasses.asdict(knn_config) | {
            "leave_one_out": [name for name, each in data.tests.items() if each.is_training_set]
        }
    if head is not None:
        record["linear"] = dataclasses.asdict(linear_config) | {
            "features": linear_mode,
            "chosen_learning_rate": head.learning_rate,
            "chosen_weight_decay": head.weight_decay,
            "held_out_accuracy": head.held_out_accuracy,
        }
    record["seconds"] = round(time.perf_counter() - start, 2)
    return record, head


def _train_head(
    linear_mode: str,
    backbone: torch.nn.Module,
    path: Path,
    train: Features,
    config: LinearConfig,
    conditions: Conditions,
) -> Head:
    with Progress("linear head", epochs_of(config, linear_mode), "epochs") as progress:
        if linear_mode == "cached":
            return train_cached(train, config, device=conditions.device, on_progress=progress.advance)
        return train_augmented(
            backbone,
            path,
            train,
            config,
            view_size=conditions.view_size,
            num_threads=conditions.num_threads,
            device=conditions.device,
            precision=conditions.precision,
            backend=conditions.backend,
            on_progress=progress.advance,
        )


def _check_labels(beton: AnyBeton) -> None:
    unlabeled = int((beton.labels < 0).sum())
    if unlabeled or not beton.num_images:
        what = f"{unlabeled:,} of {beton.num_images:,} images without a label" if unlabeled else "no images"
        raise ValueError(f"{beton.path} has {what}: convert a folder with one sub-folder per class")


def _matched_labels(beton: AnyBeton, names: list[str] | None, num_classes: int, train: Path) -> np.ndarray:
    """Return the labels of a test beton in the training set's numbering."""
    if beton.class_names is None or names is None:
        if beton.labels.max() >= num_classes:
            raise ValueError(
                f"{beton.path} has a class {beton.labels.max()}, {train} only 0 to {num_classes - 1}: are these"
                " the same classes?"
            )
        return np.asarray(beton.labels)
    position = {name: number for number, name in enumerate(names)}
    labels = np.asarray(beton.labels)
    used = np.unique(labels)
    unknown = [beton.class_names[number] for number in used if beton.class_names[number] not in position]
    if unknown:
        nearest = difflib.get_close_matches(unknown[0], names, 1)
        hint = f" (nearest: {nearest[0]!r})" if nearest else ""
        raise ValueError(
            f"{beton.path} has {len(unknown)} classes that {train} has not, the first {unknown[0]!r}{hint}: both need"
            " the same class folders"
        )
    numbering = np.zeros(int(used.max()) + 1, np.int64)
    numbering[used] = [position[beton.class_names[number]] for number in used]
    return numbering[labels]
