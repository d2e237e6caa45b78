"""Owns `cap_images`: fewer training images, spread evenly over the flight."""

import dataclasses

import numpy as np

from nerfcore.data.records import Dataset


def evenly_spaced(dataset: Dataset, most: int | None) -> Dataset:
    """Return the dataset with at most so many training images; None = all of them."""
    count = len(dataset.train)
    if most is None or count <= most:
        return dataset
    chosen = np.linspace(0, count - 1, most).round().astype(np.int64)
    return dataclasses.replace(dataset, train=dataset.train.subset(chosen))
