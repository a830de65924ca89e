"""
Choose a layer
==============

The last layer of a network is not always the best one for images that differ from ImageNet.
:class:`~tlfeatures.FeatureSearchCV` compares layers, poolings and heads by cross-validation. The network runs over the
images once; all candidates read the same stored embeddings.
"""

# %%
# scikit-learn contains images of handwritten digits; 400 of them are enough for this example.

import matplotlib.pyplot as plt
from sklearn.datasets import load_digits

from tlfeatures import FeatureSearchCV

digits = load_digits()
X, y = digits.images[:400] / 16, digits.target[:400]

# %%
# Search five layers over the depth of the network, two poolings, and a logistic regression with two penalties. Some
# images may be duplicates, such as equal digits; ``dedupe_groups`` keeps these in one fold.

layers = ["block3_pw_relu", "block5_pw_relu", "block7_add", "block9_add", "block10_pw_relu"]
search = FeatureSearchCV(
    "tiny",
    layers=layers,
    image_sizes=[64],
    poolings=["avg", "max"],
    heads={"logreg": {"C": [0.1, 10]}},
    cv=4,
    dedupe_groups=True,
    learning_curve=False,
).fit(X, y)
table = search.table()
table[["layer", "pooling", "settings", "score", "ci_low", "ci_high"]].head()

# %%
# The accuracy increases with the depth and is highest before the last layer. The confidence intervals show which
# differences may be due to chance.

best = table.sort_values("score").groupby(["pooling", "layer"]).last()
figure, axis = plt.subplots(figsize=(7, 3.8), layout="constrained")
for shift, pooling in enumerate(["avg", "max"]):
    rows = best.loc[pooling].loc[layers]
    x = [i + 0.08 * (2 * shift - 1) for i in range(len(layers))]
    errors = [rows.score - rows.ci_low, rows.ci_high - rows.score]
    axis.errorbar(x, rows.score, errors, fmt="o-", capsize=3, label=f'pooling="{pooling}"')
axis.set_xticks(range(len(layers)), layers, rotation=20)
axis.set(ylabel="accuracy, 4 folds", title="Digits, network tiny at 64 pixels")
axis.legend()
plt.show()

# %%
# The best pipeline is fitted on all images and predicts new ones.

search.predict(digits.images[400:410] / 16)
