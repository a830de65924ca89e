"""
One bad image in the folder
===========================

A truncated download, a text file with the suffix ``.jpg``: one unreadable file need not end a cross-validation over
thousands of images. With ``on_error="nan"``, it becomes a row of NaN.
"""

# %%
# Write images of two textures into a folder, and damage two of the files.

import tempfile
import warnings
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from PIL import Image
from sklearn.model_selection import cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.svm import SVC

from tlfeatures import CNNFeatures, SkipUnreadable, check_images

folder = Path(tempfile.mkdtemp())
rng = np.random.default_rng(0)
paths, y = [], []
for i in range(40):
    label = "stripes" if i % 2 else "dots"
    pixels = rng.integers(0, 60, (64, 64, 3), dtype="uint8")
    pixels[:: 4 + i % 5, :: 1 if i % 2 else 6] += 150
    path = folder / f"{label}-{i:02}.jpg"
    Image.fromarray(pixels).save(path, quality=95)
    paths.append(str(path))
    y.append(label)

Path(paths[6]).write_bytes(Path(paths[6]).read_bytes()[:600])  # an interrupted download
Path(paths[15]).write_text("<html>404 Not Found</html>")  # the answer of a server, saved as an image

# %%
# :func:`~tlfeatures.check_images` decodes all files without a network, and says which of them are damaged and why.

problems = check_images(paths)
problems[["row", "problem", "reason"]]

# %%
# The embeddings of unreadable files are rows of NaN. The rows are in the order of the files.

warnings.simplefilter("ignore")  # the warning names the two files again
cnn = CNNFeatures("tiny", image_size=64, on_error="nan")
embeddings = cnn.fit_transform(paths)
np.flatnonzero(np.isnan(embeddings).any(axis=1))

# %%
# :class:`~tlfeatures.SkipUnreadable` fits on the other rows, and predicts a fixed label for the unreadable images. They
# count as errors in every score.

model = make_pipeline(cnn, SkipUnreadable(SVC(), unreadable_label="unreadable"))
predictions = cross_val_predict(model, paths, y, cv=4)

figure, axes = plt.subplots(2, 6, figsize=(8, 3.2), layout="constrained")
for axis, row in zip(axes.flat, range(5, 17), strict=True):
    axis.set_axis_off()
    axis.set_title(predictions[row], fontsize=9, color="black" if predictions[row] == y[row] else "crimson")
    if row in problems.row.values:
        axis.text(0.5, 0.5, "?", ha="center", va="center", fontsize=30, color="crimson")
    else:
        axis.imshow(Image.open(paths[row]))
plt.show()
