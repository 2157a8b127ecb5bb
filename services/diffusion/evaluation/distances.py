"""How far two sets of pictures lie apart, as features: Fréchet distance, KID, and variety.

Features are the judge's, not Inception's, so the figures compare configurations judged by the same
judge, and nothing else. All is computed in f64.
"""

import numpy as np
from numpy.typing import NDArray

Features = NDArray[np.float64]


def frechet_distance(first: Features, second: Features) -> float:
    """Returns the squared Fréchet distance of the Gaussians fitted to two sets.

    Heusel et al. 2017. It is biased: with fewer samples it comes out larger, so compare it only at
    equal counts.

    Args:
        first: [sample, feature].
        second: [sample, feature].

    Raises:
        ValueError: a set has fewer than two samples.
    """
    _check(first, second)
    shift = first.mean(0) - second.mean(0)
    one, other = _covariance(first), _covariance(second)
    # tr sqrt(AB) is the sum of the roots of the eigenvalues of A^1/2 B A^1/2, which is symmetric.
    root = _square_root(one)
    shared = np.sqrt(np.linalg.eigvalsh(root @ other @ root).clip(0)).sum()
    return float(shift @ shift + np.trace(one) + np.trace(other) - 2 * shared)


def kernel_distance(first: Features, second: Features) -> float:
    """Returns the unbiased squared MMD with KID's cubic kernel (Binkowski et al. 2018).

    Its mean does not depend on the sample counts. For two sets from one distribution it is zero on
    average, so it may be negative.

    Args:
        first: [sample, feature].
        second: [sample, feature].

    Raises:
        ValueError: a set has fewer than two samples.
    """
    _check(first, second)
    count, other_count = len(first), len(second)
    within = _kernel(first, first)
    other_within = _kernel(second, second)
    return float(
        (within.sum() - np.trace(within)) / (count * (count - 1))
        + (other_within.sum() - np.trace(other_within)) / (other_count * (other_count - 1))
        - 2 * _kernel(first, second).mean()
    )


def mean_pairwise_distance(features: Features) -> float:
    """Returns the mean Euclidean distance between the rows of one set, [sample, feature].

    Raises:
        ValueError: it has fewer than two samples.
    """
    _check(features, features)
    rows, columns = np.triu_indices(len(features), k=1)
    return float(np.linalg.norm(features[rows] - features[columns], axis=1).mean())


def _kernel(first: Features, second: Features) -> NDArray[np.float64]:
    return (first @ second.T / first.shape[1] + 1) ** 3


def _covariance(features: Features) -> NDArray[np.float64]:
    return np.atleast_2d(np.cov(features, rowvar=False))


def _square_root(matrix: NDArray[np.float64]) -> NDArray[np.float64]:
    values, vectors = np.linalg.eigh(matrix)
    # Rounding makes eigenvalues that should be zero slightly negative.
    return (vectors * np.sqrt(values.clip(0))) @ vectors.T


def _check(first: Features, second: Features) -> None:
    if min(len(first), len(second)) < 2:
        raise ValueError(f"a distance needs two samples or more: {first.shape}, {second.shape}")
