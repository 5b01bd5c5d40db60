"""Frechet distance between pictures and CIFAR-10's training images, by the features of the bundled classifier."""

from collections.abc import Iterable

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.numpy import load_file

from autotune.evaluators.feature_net import load_feature_net
from autotune.evaluators.presets import ZOO

Array = NDArray[np.float64]


def frechet_distance(batches: Iterable[torch.Tensor]) -> float:
    """Of pictures (n, 3, 32, 32) in [0, 1]: |m - m'|^2 + tr(C + C' - 2 (C C')^(1/2)) of means and covariances.

    It has a bias that falls with the number of pictures, so compare values of equal numbers.
    """
    net = load_feature_net()
    with torch.no_grad():
        features = torch.cat([net.features(images.clamp(0, 1).float().cpu() * 2 - 1) for images in batches])
    values = features.double().numpy()
    true = load_file(ZOO / "feature_stats_train.safetensors")
    mean, covariance = true["mean"].astype(np.float64), true["cov"].astype(np.float64)
    return distance_of_normals(values.mean(axis=0), np.cov(values.T), mean, covariance)


def distance_of_normals(mean: Array, covariance: Array, other_mean: Array, other_covariance: Array) -> float:
    """The squared 2-Wasserstein distance of two normal distributions (Dowson and Landau 1982)."""
    root = _root(covariance)
    shared = np.sqrt(np.maximum(np.linalg.eigvalsh(root @ other_covariance @ root), 0.0)).sum()
    apart = float(((mean - other_mean) ** 2).sum())
    return apart + float(np.trace(covariance) + np.trace(other_covariance) - 2.0 * shared)


def _root(matrix: Array) -> Array:
    values, vectors = np.linalg.eigh(matrix)
    root: Array = (vectors * np.sqrt(np.maximum(values, 0.0))) @ vectors.T
    return root
