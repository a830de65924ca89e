"""Small presets of KerasHub with random weights, and the outputs of their layers by plain calls of the layers."""

from __future__ import annotations

from pathlib import Path

import numpy as np

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
SIZE = 32  # pixels of all presets
N_PREFIX = {"dinov2": 4, "vit": 1, "clip": 1, "siglip": 0}


def _build(name):
    import keras_hub

    models, shape = keras_hub.models, (SIZE, SIZE, 3)
    if name == "dinov2":
        return models.DINOV2Backbone(
            patch_size=8, num_layers=4, hidden_dim=12, num_heads=2, intermediate_dim=24, num_register_tokens=3,
            image_shape=shape, position_embedding_shape=shape,
        )  # fmt: skip
    if name == "vit":
        return models.ViTBackbone(
            image_shape=shape, patch_size=8, num_layers=3, num_heads=2, hidden_dim=12, mlp_dim=24
        )
    if name == "resnet":
        return models.ResNetBackbone(
            input_conv_filters=[64], input_conv_kernel_sizes=[3], stackwise_num_filters=[64, 64],
            stackwise_num_blocks=[1, 1], stackwise_num_strides=[1, 2], block_type="basic_block",
        )  # fmt: skip
    if name == "clip":
        vision = models.CLIPVisionEncoder(8, 12, 3, 2, 24, image_shape=shape)
        text = models.CLIPTextEncoder(50, 12, 12, 2, 2, 24)
        return models.CLIPBackbone(vision, text, projection_dim=10)
    vision = models.SigLIPVisionEncoder(8, 12, 3, 2, 24, image_shape=shape)
    text = models.SigLIPTextEncoder(50, 12, 12, 2, 2, 24, projection_dim=12)
    return models.SigLIPBackbone(vision, text)


def make_preset(name, folder: Path, seed=0) -> str:
    """Save a preset with random weights, none of which is constant, and return its path."""
    import keras_hub

    backbone, rng = _build(name), np.random.default_rng(seed)
    for variable in backbone.trainable_variables:
        value = np.asarray(variable.value)
        scale = 0.3 if value.ndim > 1 or variable.path.endswith(("bias", "beta")) else 0.1
        center = 1.0 if variable.path.endswith(("gamma", "lambda1")) else 0.0
        if "logit" not in variable.path:
            variable.assign(rng.normal(center, scale, value.shape))
    if (
        name == "dinov2"
    ):  # the trained position embeddings, from which those of an image size are interpolated
        embeddings = backbone.embeddings
        embeddings.position_embeddings.assign(embeddings.interpolated_position_embeddings)
    tower = getattr(backbone, "vision_encoder", backbone)
    if hasattr(getattr(tower, "embedding", None), "position_ids"):  # pretrained presets contain them
        tower.embedding.position_ids.assign(np.arange(tower.embedding.num_positions)[None])
    backbone.save_to_preset(str(folder))
    kind = {"dinov2": "DINOV2", "vit": "ViT", "clip": "CLIP", "siglip": "SigLIP", "resnet": "ResNet"}[name]
    scale, offset = [1 / 255 / s for s in STD], [-m / s for m, s in zip(MEAN, STD, strict=True)]
    converter = getattr(keras_hub.layers, f"{kind}ImageConverter")(
        image_size=(SIZE, SIZE), scale=scale, offset=offset
    )
    converter.save_to_preset(str(folder))
    return str(folder)


def compute_layers(name, folder, X, **settings) -> dict[str, np.ndarray]:
    """Return the output of each layer for uint8 images, by calls of KerasHub's layers one after the other."""
    import keras
    import keras_hub

    backbone = keras_hub.models.Backbone.from_preset(str(folder), **settings)
    x = keras.ops.convert_to_tensor(((X / 255 - MEAN) / STD).astype("float32"))
    tower = getattr(backbone, "vision_encoder", backbone)
    if name == "dinov2":
        first, blocks, norm = tower.embeddings, tower.encoder.layers, tower.layernorm
    elif name == "vit":
        encoder = tower.get_layer("vit_encoder")
        first, blocks = tower.get_layer("vit_patching_and_embedding"), encoder.encoder_layers
        norm = encoder.layer_norm
    else:
        first, blocks = tower.embedding, tower.encoder_layers
        norm = tower.layer_norm if name == "clip" else tower.post_layer_norm
    outputs = {"embedding": first(x)}
    x = outputs["embedding"]
    if name == "clip":
        x = outputs["pre_norm"] = tower.pre_layer_norm(x)
    for i, block in enumerate(blocks, start=1):
        x = outputs[f"block_{i}"] = block(x, training=False)
    x = outputs["norm"] = norm(x)
    if name == "clip":
        outputs["projection"] = backbone.vision_projection(x[:, 0])
    if name == "siglip":
        outputs["head"] = tower.head(x)
    return {layer: keras.ops.convert_to_numpy(y) for layer, y in outputs.items()}
