"""Fréchet distance against Gaussians worked out by hand, KID against the definition's loops."""

import numpy as np
import pytest

from sangsang.services.diffusion.evaluation.distances import (
    frechet_distance,
    kernel_distance,
    mean_pairwise_distance,
)


def cross(first: float, second: float, middle=(0.0, 0.0)):
    """Four points with this mean and the covariance diag(first, second)."""
    arms = np.sqrt(1.5 * np.array([first, second]))
    return np.array([[arms[0], 0], [-arms[0], 0], [0, arms[1]], [0, -arms[1]]]) + middle


def test_frechet_distance_of_two_lines_worked_out_by_hand():
    # Means 0 and 2, variances 2 and 8: 2**2 + 2 + 8 - 2 * sqrt(2 * 8).
    assert frechet_distance(np.array([[-1.0], [1]]), np.array([[0.0], [4]])) == pytest.approx(6)


def test_frechet_distance_of_two_planes_worked_out_by_hand():
    # |(3, 4)|**2 + (1 + 1) + (4 + 9) - 2 * (2 + 3).
    distance = frechet_distance(cross(1, 1), cross(4, 9, middle=(3, 4)))
    assert distance == pytest.approx(30)


def test_frechet_distance_where_the_covariances_do_not_commute():
    turn = np.array([[np.cos(0.7), -np.sin(0.7)], [np.sin(0.7), np.cos(0.7)]])
    first, second = cross(1, 5), cross(3, 0.5) @ turn.T
    one, other = np.diag([1.0, 5.0]), turn @ np.diag([3.0, 0.5]) @ turn.T
    # In two dimensions tr sqrt(M) = sqrt(tr M + 2 sqrt(det M)).
    product = one @ other
    shared = np.sqrt(np.trace(product) + 2 * np.sqrt(np.linalg.det(product)))
    assert frechet_distance(first, second) == pytest.approx(6 + 3.5 - 2 * shared)


def test_frechet_distance_to_itself_is_zero_with_fewer_samples_than_features():
    features = np.random.default_rng(0).normal(size=(5, 40))
    assert frechet_distance(features, features) == pytest.approx(0, abs=1e-4)


def test_frechet_distance_grows_where_samples_are_few():
    rng = np.random.default_rng(1)
    reference = rng.normal(size=(4000, 8))
    few, many = rng.normal(size=(30, 8)), rng.normal(size=(3000, 8))
    assert frechet_distance(few, reference) > 5 * frechet_distance(many, reference)


def test_kernel_distance_is_the_double_loop():
    rng = np.random.default_rng(2)
    first, second = rng.normal(size=(7, 3)), rng.normal(0.5, size=(5, 3))

    def kernel(x, y):
        return (x @ y / 3 + 1) ** 3

    def within(rows):
        pairs = [(i, j) for i in range(len(rows)) for j in range(len(rows)) if i != j]
        return np.mean([kernel(rows[i], rows[j]) for i, j in pairs])

    between = np.mean([kernel(a, b) for a in first for b in second])
    assert kernel_distance(first, second) == pytest.approx(
        within(first) + within(second) - 2 * between
    )


def test_kernel_distance_has_no_bias():
    rng = np.random.default_rng(3)
    sets = rng.normal(size=(400, 2, 10, 4))
    distances = [kernel_distance(one, other) for one, other in sets]
    assert min(distances) < 0
    assert abs(np.mean(distances)) < 4 * np.std(distances) / np.sqrt(len(distances))


def test_mean_pairwise_distance():
    corners = np.array([[0.0, 0], [3, 0], [0, 4]])
    assert mean_pairwise_distance(corners) == pytest.approx((3 + 4 + 5) / 3)


@pytest.mark.parametrize("measure", [frechet_distance, kernel_distance])
def test_one_sample_is_too_few(measure):
    with pytest.raises(ValueError, match="two samples"):
        measure(np.ones((1, 3)), np.ones((4, 3)))
