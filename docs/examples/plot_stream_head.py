"""
Train a head on streamed embeddings
===================================

If the matrix of embeddings does not fit into memory, :func:`~tlfeatures.streaming.fit_streaming` trains a linear head
on shuffled batches of stored rows. :meth:`EmbeddingStore.batches <tlfeatures.EmbeddingStore.batches>` reads these
batches.
"""

# %%
# In this example, 900 digits take the place of a data set that is larger than memory. Batches have 256 rows.

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from tlfeatures import CNNFeatures
from tlfeatures.streaming import fit_streaming

digits = load_digits()
X, y = digits.images[:900] / 16, digits.target[:900]
cnn = CNNFeatures("tiny", layer="block7_add", image_size=64)
result = fit_streaming(cnn, X, y, batch_size=256)
result.pipeline

# %%
# The loss on held-out images decides when training stops.

training = result.training
figure, axis = plt.subplots(figsize=(6.5, 3.4), layout="constrained")
axis.plot(np.arange(1, len(training.losses) + 1), training.losses)
axis.axvline(training.best + 1, linestyle="--", color="grey", label="the chosen epoch")
axis.set(xlabel="epoch", ylabel=f"log loss on {training.n_validation} held-out images", yscale="log")
axis.legend()
plt.show()

# %%
# On 300 other digits, the streamed head is about as accurate as the same model trained on the whole matrix in memory.

X_new, y_new = digits.images[900:1200] / 16, digits.target[900:1200]
in_memory = make_pipeline(cnn, StandardScaler(), LogisticRegression()).fit(X, y)
{"streamed": result.pipeline.score(X_new, y_new), "in memory": in_memory.score(X_new, y_new)}
