"""Images to export with: labels follow the names of the network's classes."""

from __future__ import annotations

import numpy as np

from nas.data import ImageData
from nas.export.images import RealImages


def test_labels_follow_the_names_of_the_classes() -> None:
    pixels = np.zeros((4, 3, 1, 1), np.uint8)
    data = ImageData(pixels, np.array([0, 1, 2, 0]), ("cat", "dog", "ox"), 0, "pets", "f")
    real = RealImages(calibration=data, evaluated=data)
    assert real.labelled_by(("cat", "dog", "ox")) is real
    turned = real.labelled_by(("ox", "cat", "dog")).evaluated
    assert turned.labels.tolist() == [1, 2, 0, 1] and turned.labels.dtype == np.int64
    assert [turned.classes[label] for label in turned.labels] == ["cat", "dog", "ox", "cat"]
