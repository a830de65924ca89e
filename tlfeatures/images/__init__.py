"""Decoding of images in any accepted form to uint8 RGB batches, with the reason for each unreadable image."""

from tlfeatures.images._batches import check_images, decode_batches
from tlfeatures.images._decode import Decoder
from tlfeatures.images._formats import depends_on_machine
from tlfeatures.images._images import Images, warn_of_notes
from tlfeatures.images._notes import Note, warn_of_low_contrast
from tlfeatures.images._probe import decoder_recipe, probe_pixels
from tlfeatures.images._quality import ImageProperties, describe_images, find_faults
from tlfeatures.images._views import list_views

__all__ = [
    "Decoder",
    "ImageProperties",
    "Images",
    "Note",
    "check_images",
    "decode_batches",
    "decoder_recipe",
    "depends_on_machine",
    "describe_images",
    "find_faults",
    "list_views",
    "probe_pixels",
    "warn_of_low_contrast",
    "warn_of_notes",
]
