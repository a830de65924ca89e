"""A process that embeds images with a function of the pixels in place of a network, for tests that kill it.

    python tests/embed_process.py OPTIONS     (JSON: paths, store, unit_size, shard, out, log, pause)

It appends one line with the number of images to the file ``log`` for each batch that it computes, and prints it. Every
batch is published at once, so that what is computed again after a kill can be counted.
"""

from __future__ import annotations

import json
import sys
import time

import numpy as np

from tlfeatures import CNNFeatures
from tlfeatures.distributed import EmbeddingRun, Shard, embed_images
from tlfeatures.extract._network import BatchNetwork
from tlfeatures.store import _writer


def main(options: dict) -> None:
    """Embed the images, or one shard of them, and write the embeddings to the file ``out``."""
    replace_network(options["log"], options.get("pause", 0))
    cnn = CNNFeatures("tiny", image_size=32, batch_size=4, cache=options["store"], on_error="nan", n_jobs=2)
    if shard := options.get("shard"):
        EmbeddingRun(
            options["paths"], cnn, unit_size=options["unit_size"], shard=Shard.parse(shard)
        ).execute()
        return
    result = embed_images(options["paths"], cnn, unit_size=options["unit_size"])
    np.savez(options["out"], features=result.features, keys=result.keys, errors=list(result.errors))


def replace_network(log: str, pause: float = 0) -> None:
    """Replace the network by a function that needs no Keras, and publish every batch."""

    def load(network):
        def function(batch):
            report(log, int(batch.any(axis=(1, 2, 3)).sum()))
            time.sleep(pause)
            sums = batch.reshape(len(batch), -1).sum(1, dtype=np.float32)
            return [
                np.multiply.outer(sums, np.arange(1, b.width + 1, dtype=np.float32)) for b in network.outputs
            ]

        return function

    BatchNetwork.load = load  # type: ignore[method-assign]
    _writer.COMMIT_BYTES = 1


def report(log: str, n_images: int) -> None:
    """Append a line to the log, and print it."""
    with open(log, "a") as file:
        file.write(f"{n_images}\n")
    print(n_images, flush=True)


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
