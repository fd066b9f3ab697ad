"""Encoders that TerraTorch has no builder for, under names that its factories know once `register` was called.

Each takes a normalised image (batch, bands, rows, cols), or (batch, bands, dates, rows, cols) where it knows dates, and
gives one feature map (batch, channels, rows / patch_size, cols / patch_size) for each of its blocks, the last one after
the final normalisation, as TerraTorch's Prithvi does. Attributes are named as in the published files, so that these
load key by key.
"""

from casbah.models import torchvision_cure

torchvision_cure.apply()  # before timm, which every encoder is built of, imports torchvision


def register() -> None:
    """Put the builders into TerraTorch's registry of backbones; a second call changes nothing."""
    from terratorch.registry import TERRATORCH_BACKBONE_REGISTRY

    from casbah.models.backbones import galileo, satmae, scalemae

    for builder in (
        satmae.satmae_vit_large,
        satmae.satmae_vit_tiny,
        scalemae.scalemae_vit_large,
        scalemae.scalemae_vit_tiny,
        galileo.galileo_nano,
    ):
        TERRATORCH_BACKBONE_REGISTRY.register(builder)
