"""
What to label next
==================

Labelling takes time. :func:`~tlfeatures.suggest` chooses images about which a classifier is uncertain and which are
unlike each other, without duplicates.
"""

# %%
# Compute the embeddings of 800 digits. In practice, most of them would have no label.

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_digits

from tlfeatures import CNNFeatures, suggest
from tlfeatures.heads import make_head

digits = load_digits()
truth = digits.target[:800]
X = CNNFeatures("tiny", layer="block7_add", image_size=64).fit_transform(digits.images[:800] / 16)
pool, test = np.arange(600), np.arange(600, 800)

# %%
# Start with 20 labels chosen at random. In each round, 20 more are labelled: those that ``suggest`` chooses, or
# others at random.


def measure(rows):
    """Return the accuracy on the test images of a head that is fitted on some rows."""
    return make_head("svm").fit(X[rows], truth[rows]).score(X[test], truth[test])


def label_more(choose, seed):
    """Return the accuracies with 20, 40, ... labels."""
    rows = np.random.default_rng(seed).choice(pool, 20, replace=False)
    scores = [measure(rows)]
    for _ in range(5):
        rows = np.concatenate([rows, choose(rows, seed)])
        scores.append(measure(rows))
    return scores


def choose_suggested(rows, seed):
    """Choose 20 rows by ``suggest``."""
    y = np.full(len(pool), None)
    y[rows] = truth[rows]
    return suggest(X[pool], y, n=20, estimator=make_head("svm"), random_state=seed).rows


def choose_randomly(rows, seed):
    """Choose 20 rows at random."""
    return np.random.default_rng([seed, len(rows)]).choice(np.setdiff1d(pool, rows), 20, replace=False)


labels = np.arange(20, 140, 20)
figure, axis = plt.subplots(figsize=(6.5, 3.6), layout="constrained")
for name, choose in (("suggest", choose_suggested), ("random", choose_randomly)):
    axis.plot(labels, np.mean([label_more(choose, seed) for seed in range(3)], axis=0), "o-", label=name)
axis.set(
    xlabel="number of labels", ylabel="accuracy on 200 other images", title="Means of three random starts"
)
axis.legend()
plt.show()

# %%
# Show the images that should be labelled next after 60 random labels, with their two most probable classes.

rows = np.random.default_rng(5).choice(pool, 60, replace=False)
y = np.full(len(pool), None)
y[rows] = truth[rows]
suggestions = suggest(X[pool], y, n=8, estimator=make_head("svm"))
figure, axes = plt.subplots(1, 8, figsize=(8, 1.6), layout="constrained")
for i, axis in enumerate(axes):
    axis.imshow(digits.images[suggestions.rows[i]], cmap="gray_r")
    axis.set_title(f"{suggestions.predictions[i]} or {suggestions.alternatives[i]}?", fontsize=9)
    axis.set_axis_off()
plt.show()
