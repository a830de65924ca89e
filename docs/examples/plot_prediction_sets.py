"""
Prediction sets
===============

A classifier always predicts a class, even if it can only guess. :class:`~tlfeatures.ConformalClassifier` predicts
sets of classes that contain the true class in a stated share of cases: one class if the image is clear, several if it
is not.
"""

# %%
# Use an early layer of the network and few training images, so that some digits are hard to classify.

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from sklearn.pipeline import make_pipeline

from tlfeatures import CNNFeatures, ConformalClassifier
from tlfeatures.heads import make_head

digits = load_digits()
X, y = digits.images[:700] / 16, digits.target[:700]
X, X_new, y, y_new = train_test_split(X, y, train_size=200, stratify=y, random_state=0)
pipeline = make_pipeline(CNNFeatures("tiny", layer="block3_pw_relu", image_size=32), make_head("logreg"))
conformal = ConformalClassifier(pipeline, error_rate=0.05).fit(X, y)

# %%
# The error rate can be changed after ``fit``. Smaller error rates need larger sets.

rates = [0.01, 0.02, 0.05, 0.1, 0.2]
coverage, size = [], []
for rate in rates:
    sets = conformal.set_params(error_rate=rate).predict_set(X_new)
    coverage.append(sets[np.arange(len(y_new)), y_new].mean())
    size.append(sets.sum(axis=1).mean())

figure, (left, right) = plt.subplots(1, 2, figsize=(8, 3.2), layout="constrained")
left.plot(rates, coverage, "o-", label="measured on 500 images")
left.plot(rates, [1 - rate for rate in rates], "--", color="grey", label="stated")
left.set(xlabel="error rate", ylabel="sets that contain the class")
left.legend()
right.plot(rates, size, "o-")
right.set(xlabel="error rate", ylabel="classes in a set")
plt.show()

# %%
# Show the images with the largest sets, which a person should look at.

sets = conformal.set_params(error_rate=0.05).predict_set(X_new)
order = np.argsort(-sets.sum(axis=1), kind="stable")[:8]
figure, axes = plt.subplots(1, 8, figsize=(8, 1.6), layout="constrained")
for axis, row in zip(axes, order, strict=True):
    axis.imshow(X_new[row], cmap="gray_r")
    axis.set_title(", ".join(map(str, conformal.classes_[sets[row]])), fontsize=9)
    axis.set_axis_off()
plt.show()

# %%
# An image unlike the training images is reported, whatever the set is.

noise = np.random.default_rng(0).random((5, 8, 8))
conformal.is_unusual(noise)
