"""Jobs: what to compute, in any process."""

from __future__ import annotations

import copy
import os
import platform
from dataclasses import dataclass, field, replace
from typing import Any

from tlfeatures.distributed._units import WorkUnit, absolute_name
from tlfeatures.errors import RecipeMismatchError
from tlfeatures.extract import FeatureBlock, FeatureSpec, find_recipe_changes
from tlfeatures.extract._network import BatchNetwork
from tlfeatures.images import Images, decoder_recipe

__all__ = ["Job"]


@dataclass(frozen=True)
class Job:
    """Images and the specification of their embeddings; can be pickled and computed in any process.

    Parameters
    ----------
    images : Images
        Either all files and bytes, or all pixels.
    spec : FeatureSpec
        Names the network; it is loaded by the process that runs it.
    outputs : tuple of FeatureBlock
        The blocks of columns that are computed and stored: those of ``spec``, then the averages and maximums of the
        same layers, which cost almost nothing.
    recipes : tuple of dict
        The recipe of each block in the store, with that of the image decoder.
    batch_size : int
    n_threads : int or None
        Number of decoding threads.
    """

    images: Images
    spec: FeatureSpec
    outputs: tuple[FeatureBlock, ...]
    recipes: tuple[dict[str, Any], ...] = field(hash=False)
    batch_size: int = 32
    n_threads: int | None = None

    @classmethod
    def make(cls, images: Any, spec: FeatureSpec, batch_size: int = 32, n_threads: int | None = None) -> Job:
        """Make the job of images of one kind: all files and bytes, or all pixels.

        Parameters
        ----------
        images : images
            All images of the input.
        spec : FeatureSpec
            What is computed.
        batch_size : int, default=32
            Number of images in a batch of the network.
        n_threads : int, optional
            Number of threads that decode images.

        Raises
        ------
        ValueError
            If there are images of both kinds, or the specification has views.
        """
        images = Images.of(images)
        encoded = images.encoded()
        if encoded.any() != encoded.all():
            raise ValueError(
                "A job must have either files and bytes, or pixels; got both: make one job for each."
            )
        if spec.views is not None:
            raise ValueError("A job computes one view: make one job for each of spec.by_view().")
        spec = replace(spec, backbone=_with_absolute_paths(spec.backbone))
        outputs = tuple(spec.add_free_poolings(spec.columns))
        decoder = decoder_recipe() if encoded.any() else {}
        recipes = tuple({**block.recipe, **decoder} for block in outputs)
        batch_size = min(int(batch_size), 1 << (len(images) - 1).bit_length())
        return cls(images, spec, outputs, recipes, batch_size, n_threads)

    def take(self, unit: WorkUnit) -> Job:
        """Return the job with only the images of a unit, in the order of ``unit.todo()``; small when pickled.

        Parameters
        ----------
        unit : WorkUnit
            A unit of this job.

        Returns
        -------
        Job
            The smaller job.
        """
        return replace(self, images=self.images.take(unit.todo()).detach(absolute_name))

    def without_images(self) -> Job:
        """Return the job without its images, for processes that get those of each unit.

        Returns
        -------
        Job
            The job with an empty list of images.
        """
        return replace(self, images=self.images.take([]))

    def prepare(self) -> None:
        """Load the network, and check that it computes the same embeddings as the process that made the job.

        Raises
        ------
        RecipeMismatchError
            If the weights, the architecture or the image decoder differ from those of the process that made the job.
        """
        layers = list(dict.fromkeys(block.tap.layer for block in self.outputs))
        description = self.spec.backbone.describe(layers)
        spec = replace(self.spec, description=description)
        taps = {tap.layer: tap for tap in description.taps}
        blocks = [spec.column(taps[block.tap.layer], block.part) for block in self.outputs]
        decoder = decoder_recipe() if "pixel_probe" in self.recipes[0] else {}
        changes = find_recipe_changes(list(self.recipes), [{**block.recipe, **decoder} for block in blocks])
        if changes:
            raise RecipeMismatchError(
                f"{platform.node()!r} would compute embeddings that differ from those of the machine that started the "
                f"job: {'; '.join(changes[:4])}. Use the same weights files and the same versions of tlfeatures, Keras "
                "and Pillow on all machines."
            )
        BatchNetwork(self.spec, self.outputs, self.batch_size).load()


def _with_absolute_paths(backbone: Any) -> Any:
    """Return a network whose files are found from any folder."""
    backbone = copy.copy(backbone)
    if backbone.path is not None:
        backbone.path = os.path.abspath(backbone.path)
    if os.path.isdir(getattr(backbone, "preset", "")):
        backbone.preset = os.path.abspath(backbone.preset)
    if backbone.weights not in (None, "imagenet"):
        backbone.weights = os.path.abspath(backbone.weights)
    return backbone
