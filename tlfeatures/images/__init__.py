"""Whatever the user has -> uint8 RGB batches; bad images are named with their reason."""

from tlfeatures.images.accept import Images
from tlfeatures.images.batches import check_images, decode_batches
from tlfeatures.images.decode import Decoder

__all__ = ["Decoder", "Images", "check_images", "decode_batches"]
