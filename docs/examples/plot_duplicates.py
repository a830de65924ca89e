"""
Groups of duplicates
====================

Images that were saved again, resized, mirrored or cropped a little leak from the training into the test part of a
split. :func:`~tlfeatures.audit` lists them, together with labels that are probably wrong.
"""

# %%
# The images are crops of the two photographs that scikit-learn contains. Ten of the crops also have an altered copy,
# and one of the copies has the wrong label.

import matplotlib.pyplot as plt
import numpy as np
from PIL import Image
from sklearn.datasets import load_sample_images

from tlfeatures import CNNFeatures, audit

photographs = dict(zip(["temple", "flower"], load_sample_images().images, strict=True))
rng = np.random.default_rng(0)
images, y = [], []
for i in range(24):
    label = ["temple", "flower"][i % 2]
    side = int(rng.integers(110, 200))
    top, left = int(rng.integers(427 - side)), int(rng.integers(640 - side))
    crop = photographs[label][top : top + side, left : left + side]
    images.append(Image.fromarray(crop).resize((96, 96)))
    y.append(label)
for i in range(10):
    smaller, mirrored = images[i].resize((70, 70)), images[i].transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    images.append(smaller.resize((96, 96)) if i % 2 else mirrored)
    y.append(y[i])
y[28] = "flower"

# %%
# The audit uses the embeddings of the images. Its tables begin with the most important rows: a group whose images have
# different labels comes first.

result = audit(images, y, features=CNNFeatures("tiny"))
result.duplicates[["group", "row", "label", "kind", "cosine", "across_classes"]].head(6)

# %%
# Show the first groups, with the row and the label of each image.

groups = list(result.duplicates.groupby("group", sort=False))[:5]
figure, axes = plt.subplots(2, 5, figsize=(8, 3.6), layout="constrained")
for column, (number, rows) in enumerate(groups):
    for axis, row in zip(axes[:, column], rows.row, strict=False):
        axis.imshow(images[row])
        axis.set_title(f"group {number}: row {row}\n{y[row]}", fontsize=8)
for axis in axes.flat:
    axis.set_axis_off()
plt.show()

# %%
# The wrong label is among the suspected labels.

result.suspected[["row", "label", "suggestion", "score"]].head()
