"""Whatever the user has -> uint8 RGB batches; bad images are named with their reason."""

from tlfeatures.images._batches import check_images, decode_batches
from tlfeatures.images._decode import Decoder
from tlfeatures.images._images import Images, warn_of_notes
from tlfeatures.images._notes import Note, warn_of_low_contrast

__all__ = [
    "Decoder",
    "Images",
    "Note",
    "check_images",
    "decode_batches",
    "warn_of_low_contrast",
    "warn_of_notes",
]
