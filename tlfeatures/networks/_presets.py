"""The table of KerasHub's presets of vision transformers, and the folders of presets on this machine."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tlfeatures.errors import WeightsError

__all__ = [
    "PRESETS", "PresetSpec", "canonical_name", "find_folder", "find_preset", "is_preset", "list_files", "plain_name",
    "read_preset", "read_spec",
]  # fmt: skip

_SCHEMES = ("hf://", "kaggle://")


@dataclass(frozen=True)
class PresetSpec:
    """A row of the table of presets, or the same facts of another preset.

    Parameters
    ----------
    name : str
        Name of the preset, its handle, or its folder.
    depth : int
        Number of transformer blocks.
    width : int
        Number of features of a token.
    image_size : int
        Side of the images in pixels.
    licence : str or None
        Licence of the pretrained weights; None if unknown.
    handle : str
        Where KerasHub downloads the preset from.
    parameters : int
        Number of parameters, including those of a text encoder.
    taps : tuple of str
        Standard taps: three blocks spread over the depth, and the output of the last block after the final
        normalization.
    """

    name: str
    depth: int = 0
    width: int = 0
    image_size: int = 224
    licence: str | None = None
    handle: str = ""
    parameters: int = 0
    taps: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.taps:
            blocks = dict.fromkeys(-(-self.depth * quarter // 4) for quarter in (1, 2, 3))
            taps = (*(f"block_{i}" for i in blocks if i < self.depth), "norm")
            object.__setattr__(self, "taps", taps)


_SIZES = {"tiny": (12, 192), "small": (12, 384), "base": (12, 768), "large": (24, 1024), "huge": (32, 1280)}
_PARAMETERS = {
    "dinov2": {
        "small": 22_582_656, "base": 87_632_640, "large": 305_771_520, "giant": 1_138_585_088,
        "with_registers_small": 22_584_192, "with_registers_base": 87_635_712,
        "with_registers_large": 305_775_616, "with_registers_giant": 1_138_591_232,
    },
    "clip": {
        "vit_base_patch16": 149_620_934, "vit_base_patch32": 151_277_363, "vit_large_patch14": 427_616_770,
        "vit_large_patch14_336": 427_944_770, "vit_b_32_laion2b_s34b_b79k": 151_277_363,
        "vit_h_14_laion2b_s32b_b79k": 986_109_698, "vit_g_14_laion2b_s12b_b42k": 1_366_678_530,
        "vit_bigg_14_laion2b_39b_b160k": 2_539_567_362,
    },
    "siglip": {
        "base_patch16_224": 203_156_230, "base_patch16_256": 203_202_370, "base_patch16_384": 203_448_450,
        "base_patch16_512": 203_792_962, "large_patch16_256": 652_151_106, "large_patch16_384": 652_479_106,
        "so400m_patch14_224": 877_360_578, "so400m_patch14_384": 877_961_291,
        "base_patch16_256_multilingual": 370_626_370,
    },
    "siglip2": {
        "base_patch16_224": 375_188_230, "base_patch16_256": 375_234_370, "base_patch16_384": 376_856_194,
        "large_patch16_256": 881_527_106, "large_patch16_384": 881_855_106, "large_patch16_512": 882_314_306,
        "so400m_patch14_224": 1_135_463_922, "so400m_patch14_384": 1_136_009_291,
        "so400m_patch16_256": 1_135_671_282, "so400m_patch16_384": 1_136_040_242,
        "so400m_patch16_512": 1_136_555_698,
    },
    "vit": {
        "base_patch16_224_imagenet": 85_798_656, "base_patch16_384_imagenet": 86_090_496,
        "base_patch32_384_imagenet": 87_528_192, "base_patch16_224_imagenet21k": 85_798_656,
        "base_patch32_224_imagenet21k": 87_455_232, "large_patch16_224_imagenet": 303_301_632,
        "large_patch16_384_imagenet": 303_690_752, "large_patch32_384_imagenet": 305_607_680,
        "large_patch16_224_imagenet21k": 303_301_632, "large_patch32_224_imagenet21k": 305_510_400,
        "huge_patch14_224_imagenet21k": 630_764_800,
    },
}  # fmt: skip
_VERSIONS = {"dinov2": 1, "clip": 3, "siglip": 1, "siglip2": 1, "vit": 3}  # on Kaggle
_VIT_VERSION_4 = r"vit_(base|large)_patch16_(224|384)_imagenet"
# those whose size is not in their name
_CLIP_TOWERS = {"vit_b_": (12, 768), "vit_h_": (32, 1280), "vit_g_": (40, 1408), "vit_bigg_": (48, 1664)}


def _list_presets() -> Iterator[PresetSpec]:
    for family, variants in _PARAMETERS.items():
        for variant, parameters in variants.items():
            name = f"{family}_{variant}"
            version = 4 if re.fullmatch(_VIT_VERSION_4, name) else _VERSIONS[family]
            folder = "siglip" if family == "siglip2" else family
            yield PresetSpec(
                name,
                *_depth_and_width(family, variant),
                _image_size(family, variant),
                "MIT" if family == "clip" else "Apache-2.0",
                f"kaggle://keras/{folder}/keras/{name}/{version}",
                parameters,
            )


def _depth_and_width(family: str, variant: str) -> tuple[int, int]:
    if "so400m" in variant:
        return 27, 1152
    if "giant" in variant:
        return 40, 1536
    for prefix, size in _CLIP_TOWERS.items():
        if family == "clip" and variant.startswith(prefix):
            return size
    return next(size for word, size in _SIZES.items() if word in variant.split("_"))


def _image_size(family: str, variant: str) -> int:
    if family == "dinov2":
        return 518
    sizes = [int(n) for n in re.findall(r"_(\d{3})(?:_|$)", variant)]
    return sizes[0] if sizes else 224


PRESETS: dict[str, PresetSpec] = {spec.name: spec for spec in _list_presets()}


def plain_name(name: str) -> str:
    """Return a name without the characters in which spellings differ.

    >>> plain_name("MobileNetV2") == plain_name("mobilenet_v2")
    True
    """
    return re.sub(r"[\s_.-]", "", name.lower())


_SPELLINGS = {plain_name(name): spec for name, spec in PRESETS.items()}


def find_preset(name: str) -> PresetSpec | None:
    """Return the row of a preset by its name in any spelling; None if there is no such row.

    >>> find_preset("DINOv2-small").image_size
    518
    """
    return _SPELLINGS.get(plain_name(name))


def is_preset(model: Any) -> bool:
    """Whether ``model`` is the name of a preset, a handle, or a folder; networks of the same name have priority.

    A path that does not exist is a folder too, unless it ends with ".keras".
    """
    if isinstance(model, os.PathLike):
        path = os.fspath(model)
        return os.path.isdir(path) or not (os.path.exists(path) or path.endswith(".keras"))
    if not isinstance(model, str):
        return False
    if model.startswith(_SCHEMES) or find_preset(model) is not None or os.path.isdir(model):
        return True
    return _is_path(model) and not model.endswith(".keras")


def _is_path(name: str) -> bool:
    return name.startswith("~") or any(separator in name for separator in (os.sep, os.altsep) if separator)


def canonical_name(model: str | os.PathLike[str]) -> str:
    """Return the name in the table of presets, the handle, or the absolute path of a folder.

    Only folders have absolute paths, so that KerasHub cannot take a folder for one of its names.

    >>> canonical_name("DINOv2-small")
    'dinov2_small'
    """
    if isinstance(model, str):
        if model.startswith(_SCHEMES):
            return model
        if (spec := find_preset(model)) is not None:
            return spec.name
    return os.path.abspath(os.path.expanduser(model))


# --- folders ---------------------------------------------------------------------------------------


def read_preset(preset: str, read: Callable[[str], Any], file: str) -> Any:
    """Return ``read(preset)``; if the preset cannot be downloaded, read its folder in the cache.

    KerasHub downloads each file of a preset when it is first read, so the folder in the cache may lack some.

    Parameters
    ----------
    preset : str
        Canonical name.
    read : callable
        Function of a name, handle or folder.
    file : str
        File in the folder that ``read`` needs.

    Raises
    ------
    WeightsError
        When ``read`` raises it, and the file is not in the cache.
    """
    try:
        return read(preset)
    except WeightsError:
        folder = None if os.path.isabs(preset) else find_folder(preset)
        if folder is None or not (folder / file).is_file():
            raise
    return read(str(folder))


def find_folder(preset: str) -> Path | None:
    """Return the folder of a preset on this machine: itself, or in the cache of Kaggle or Hugging Face.

    None if it is absent, or has no configuration or no weights. A folder in the cache may lack the image converter or
    the tokenizer. ``preset`` is a canonical name.
    """
    if os.path.isabs(preset):
        return Path(preset) if os.path.isdir(preset) else None
    handle = PRESETS[preset].handle if preset in PRESETS else preset
    folder = _kaggle_folder(handle) if handle.startswith("kaggle://") else _hugging_face_folder(handle)
    if folder is None or not list_files(folder):
        return None
    return folder


def list_files(folder: Path) -> list[Path]:
    """Return the files of a preset that determine its embeddings; empty if it has no configuration or no weights."""
    weights = [file for pattern in ("*.weights.h5", "*.safetensors") for file in sorted(folder.glob(pattern))]
    configs = sorted(folder.glob("*.json"))
    has_config = any(file.name == "config.json" for file in configs)
    return [*configs, *weights] if weights and has_config else []


def _kaggle_folder(handle: str) -> Path | None:
    cache = os.environ.get("KAGGLEHUB_CACHE") or Path.home() / ".cache" / "kagglehub"
    folder = Path(cache, "models", *handle.removeprefix("kaggle://").split("/"))
    if len(handle.removeprefix("kaggle://").split("/")) == 5:
        return folder
    versions = [child for child in folder.glob("*") if child.name.isdigit()]
    return max(versions, key=lambda child: int(child.name), default=None)


def _hugging_face_folder(handle: str) -> Path | None:
    home = Path(os.environ.get("HF_HOME") or Path.home() / ".cache" / "huggingface")
    cache = Path(os.environ.get("HF_HUB_CACHE") or home / "hub")
    folder = cache / ("models--" + handle.removeprefix("hf://").replace("/", "--"))
    try:
        return folder / "snapshots" / (folder / "refs" / "main").read_text("utf-8").strip()
    except OSError:
        return None


_ENCODERS = ("DINOV2Backbone", "ViTBackbone", "CLIPVisionEncoder", "SigLIPVisionEncoder")


def read_spec(preset: str, folder: Path) -> PresetSpec | None:
    """Read the facts of a vision transformer from the configuration in its folder; None for other networks."""
    try:
        config = json.loads((folder / "config.json").read_text("utf-8"))
        encoder = config["config"].get("vision_encoder", config)
        settings = encoder["config"]
        if encoder["class_name"] not in _ENCODERS:
            return None
        size = settings["image_shape"][0]
        licence = PRESETS[preset].licence if preset in PRESETS else None
        return PresetSpec(preset, settings["num_layers"], settings["hidden_dim"], size, licence)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
