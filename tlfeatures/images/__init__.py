"""Whatever the user has -> uint8 RGB batches; bad images are named with their reason."""

from tlfeatures.images._batches import check_images, decode_batches
from tlfeatures.images._decode import Decoder
from tlfeatures.images._images import Images

__all__ = ["Decoder", "Images", "check_images", "decode_batches"]
