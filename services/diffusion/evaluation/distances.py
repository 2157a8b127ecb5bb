"""How far two sets of pictures lie apart, as features: Fréchet distance, KID, and variety.

Features are the judge's, not Inception's, so the figures compare configurations judged by the same
judge, and nothing else. All is computed in f64, and by torch: numpy's threads ignore how many this
process may use, and took 35 s beside busy neighbours for what one thread does in 0.3.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

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
    rows, other_rows = _tensors(first, second)
    shift = rows.mean(0) - other_rows.mean(0)
    one, other = _covariance(rows), _covariance(other_rows)
    # tr sqrt(AB) is the sum of the roots of the eigenvalues of A^1/2 B A^1/2, which is symmetric.
    root = _square_root(one)
    shared = torch.linalg.eigvalsh(root @ other @ root).clamp(min=0).sqrt().sum()
    return (shift @ shift + one.trace() + other.trace() - 2 * shared).item()


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
    rows, other_rows = _tensors(first, second)
    between = _kernel(rows, other_rows).mean()
    return (_mean_of_pairs(rows) + _mean_of_pairs(other_rows) - 2 * between).item()


def mean_pairwise_distance(features: Features) -> float:
    """Returns the mean Euclidean distance between the rows of one set, [sample, feature].

    Raises:
        ValueError: it has fewer than two samples.
    """
    (rows,) = _tensors(features)
    return torch.pdist(rows).mean().item()


def _kernel(rows: Tensor, other_rows: Tensor) -> Tensor:
    return (rows @ other_rows.T / rows.shape[1] + 1) ** 3


def _mean_of_pairs(rows: Tensor) -> Tensor:
    """Returns the mean kernel between different rows: a row's own with itself is the bias."""
    kernel = _kernel(rows, rows)
    return (kernel.sum() - kernel.trace()) / (len(rows) * (len(rows) - 1))


def _covariance(rows: Tensor) -> Tensor:
    centred = rows - rows.mean(0)
    return centred.T @ centred / (len(rows) - 1)


def _square_root(matrix: Tensor) -> Tensor:
    values, vectors = torch.linalg.eigh(matrix)
    # Rounding makes eigenvalues that should be zero slightly negative.
    return (vectors * values.clamp(min=0).sqrt()) @ vectors.T


def _tensors(*sets: Features) -> tuple[Tensor, ...]:
    if min(map(len, sets)) < 2:
        raise ValueError(f"a distance needs two samples or more: {[s.shape for s in sets]}")
    return tuple(torch.from_numpy(one.astype(np.float64)) for one in sets)
