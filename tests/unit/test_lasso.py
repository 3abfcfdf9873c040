"""The lasso against iterative shrinkage, run until it converges."""

from __future__ import annotations

import numpy as np
import pytest

from saliency.priors.lasso import lasso_errors


def _shrunk(signals, dictionary, penalty, steps=20000):
    """FISTA (Beck and Teboulle 2009) for all signals at once, with restarts: their squared errors."""
    lipschitz = 2 * np.linalg.norm(dictionary, 2) ** 2
    weights = ahead = np.zeros((len(signals), len(dictionary)))
    pace = 1.0
    for _ in range(steps):
        moved = ahead - 2 * (ahead @ dictionary - signals) @ dictionary.T / lipschitz
        new = np.sign(moved) * np.maximum(np.abs(moved) - penalty / lipschitz, 0)
        if np.vdot(ahead - new, new - weights) > 0:
            pace = 1.0
        next_pace = (1 + np.sqrt(1 + 4 * pace**2)) / 2
        weights, ahead, pace = new, new + (pace - 1) / next_pace * (new - weights), next_pace
    return ((signals - weights @ dictionary) ** 2).sum(axis=1)


@pytest.mark.parametrize("spread", [1.0, 0.15])  # independent atoms; nearly parallel ones, as of one background
@pytest.mark.parametrize(("atoms", "penalty"), [(2, 0.02), (5, 0.02), (8, 0.02), (30, 0.02), (30, 0.3)])
def test_errors_against_iterative_shrinkage(atoms, penalty, spread):
    rng = np.random.default_rng(atoms)
    points = rng.normal(size=8) + spread * rng.normal(size=(atoms + 20, 8))
    points /= np.linalg.norm(points, axis=1, keepdims=True)
    dictionary, signals = points[:atoms], points[atoms - 3 :]
    errors = lasso_errors(signals, dictionary, penalty)
    np.testing.assert_allclose(errors, _shrunk(signals, dictionary, penalty), rtol=1e-3, atol=1e-7)
    assert errors.max() > 1e-4


def test_one_atom_by_hand():
    # |x - a|² + .5 |a| is least at a = x - .25
    np.testing.assert_allclose(
        lasso_errors(np.array([[1.0], [-1.0], [0.2]]), np.array([[1.0]]), 0.5), [0.0625, 0.0625, 0.04]
    )


def test_a_penalty_of_nothing_leaves_the_distance_to_the_plane():
    rng = np.random.default_rng(4)
    dictionary, signals = rng.normal(size=(5, 8)), rng.normal(size=(6, 8))
    basis = np.linalg.qr(dictionary.T)[0]
    expected = ((signals - signals @ basis @ basis.T) ** 2).sum(axis=1)
    np.testing.assert_allclose(lasso_errors(signals, dictionary, 0.0), expected, rtol=1e-9)


def test_atoms_that_are_the_same_or_opposite_do_no_harm():
    rng = np.random.default_rng(5)
    atoms, signals = rng.normal(size=(4, 8)), rng.normal(size=(9, 8))
    doubled = np.concatenate([atoms, atoms, -atoms])
    np.testing.assert_allclose(lasso_errors(signals, doubled, 0.3), lasso_errors(signals, atoms, 0.3), rtol=1e-9)


def test_signals_too_weak_for_the_penalty_are_all_error():
    np.testing.assert_allclose(lasso_errors(np.array([[0.3, 0.4]]), np.eye(2), 0.8), [0.25])
    np.testing.assert_allclose(lasso_errors(np.array([[0.3, 0.4]]), np.empty((0, 2)), 0.1), [0.25])
