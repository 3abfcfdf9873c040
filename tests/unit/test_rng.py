"""Philox against its published answers, and the independence of what is drawn from how it is drawn."""

from __future__ import annotations

import numpy as np
import pytest

from pipelines import rng

# Random123 1.14.0, tests/kat_vectors: philox4x32 with 10 rounds.
KNOWN_ANSWERS = [
    ("00000000 00000000 00000000 00000000", "00000000 00000000", "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
    ("ffffffff ffffffff ffffffff ffffffff", "ffffffff ffffffff", "408f276d 41c83b0e a20bc7c6 6d5451fd"),
    ("243f6a88 85a308d3 13198a2e 03707344", "a4093822 299f31d0", "d16cfe09 94fdcceb 5001e420 24126ea1"),
]


def words(text: str) -> list[int]:
    return [int(word, 16) for word in text.split()]


@pytest.mark.parametrize(("counter", "key", "answer"), KNOWN_ANSWERS)
def test_philox_gives_the_known_answers(counter: str, key: str, answer: str):
    first, second = words(key)
    encrypted = rng.philox4x32(np.array(words(counter), np.uint32), (first, second))
    assert encrypted.dtype == np.uint32
    assert encrypted.tolist() == words(answer)


def test_philox_encrypts_many_counters_as_it_does_one():
    counters = np.array([words(counter) for counter, _, _ in KNOWN_ANSWERS], np.uint32).reshape(3, 1, 4)
    together = rng.philox4x32(counters, (7, 9))
    assert together.shape == (3, 1, 4)
    for counter, encrypted in zip(counters, together, strict=True):
        np.testing.assert_array_equal(rng.philox4x32(counter, (7, 9)), encrypted)


def drawn(**changes: int) -> np.ndarray:
    where = {"seed": 1, "epoch": 2, "index": 3, "view": 4, "field": 5, **changes}
    field = where.pop("field")
    return rng.bits(**where, blocks={field: 2})[field]


@pytest.mark.parametrize(
    "change",
    [
        {"seed": 2},
        {"seed": 1 + 2**32},  # the seed's upper half counts
        {"epoch": 3},
        {"index": 4},
        {"index": 3 + 2**32},
        {"view": 5},
        {"view": 4 + 2**8},
        {"field": 6},
    ],
    ids=str,
)
def test_every_part_of_the_place_changes_every_word(change: dict[str, int]):
    assert (drawn() != drawn(**change)).all()


def test_places_never_share_a_block():
    """Neighbouring fields, views and blocks pack into one counter word: none may run into the next."""
    fields = rng.bits(
        seed=0, epoch=0, index=np.arange(3)[:, None], view=np.arange(4), blocks=dict.fromkeys((0, 1, 255), 256)
    )
    blocks = np.concatenate([words.reshape(-1, 4) for words in fields.values()])
    assert len(np.unique(blocks, axis=0)) == 3 * 3 * 4 * 256


def test_a_field_is_the_same_whatever_else_is_drawn():
    where = {"seed": 3, "epoch": 1, "index": np.arange(5), "view": np.array(0)}
    alone = rng.bits(**where, blocks={2: 1})[2]
    together = rng.bits(**where, blocks={7: 2, 2: 3, 1: 1})
    assert {field: words.shape for field, words in together.items()} == {7: (5, 8), 2: (5, 12), 1: (5, 4)}
    np.testing.assert_array_equal(together[2][:, :4], alone)  # and fewer blocks are a prefix


def test_uniform_is_the_bits_as_fractions():
    where = {
        "seed": 2**64 - 1,
        "epoch": 2**32 - 1,
        "index": np.arange(20_000),
        "view": np.array(2**16 - 1),
        "blocks": {9: 1},
    }
    numbers = rng.uniform(**where)[9]
    np.testing.assert_array_equal(numbers * 2.0**32, rng.bits(**where)[9])
    assert numbers.min() >= 0
    assert numbers.max() < 1
    # Each quartile is a binomial of n = 80,000: four standard deviations are 490.
    counts, _ = np.histogram(numbers, bins=4, range=(0, 1))
    np.testing.assert_allclose(counts, numbers.size / 4, atol=490)
    assert abs(np.corrcoef(numbers, rowvar=False) - np.eye(4)).max() < 4 / np.sqrt(20_000)
