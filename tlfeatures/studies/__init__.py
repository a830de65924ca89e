"""Code shared by the studies in ``pipelines/`` and ``notebooks/``: options, table of results, figures, plain Keras."""

from __future__ import annotations

from tlfeatures.studies._clips import write_wakeword_stand_in
from tlfeatures.studies._domains import draw_textures, scramble_tiles
from tlfeatures.studies._faces import draw_faces
from tlfeatures.studies._figures import (
    draw_bars,
    draw_confusion,
    draw_histories,
    draw_layer_intervals,
    draw_layer_scores,
    draw_regression,
)
from tlfeatures.studies._image_figures import draw_images, draw_predictions
from tlfeatures.studies._networks import describe_network, has_weights, load_keras_network, load_pixels
from tlfeatures.studies._radiographs import write_radiology_stand_in
from tlfeatures.studies._splits import split_images
from tlfeatures.studies._stl10 import write_stl10_stand_in
from tlfeatures.studies._study import Study
from tlfeatures.studies._table import ResultTable

__all__ = [
    "ResultTable",
    "Study",
    "describe_network",
    "draw_bars",
    "draw_confusion",
    "draw_faces",
    "draw_histories",
    "draw_images",
    "draw_layer_intervals",
    "draw_layer_scores",
    "draw_predictions",
    "draw_regression",
    "draw_textures",
    "has_weights",
    "load_keras_network",
    "load_pixels",
    "scramble_tiles",
    "split_images",
    "write_radiology_stand_in",
    "write_stl10_stand_in",
    "write_wakeword_stand_in",
]
