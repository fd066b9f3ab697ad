"""Published files in their own layouts load whole into the backbones that they were made for, or not at all."""

import argparse
import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from builders import make_tiles
from safetensors.torch import save_file
from torch import Tensor, nn

from casbah import weights
from casbah.bands import BAND_NAMES
from casbah.errors import InputError
from casbah.models import network, published, torchvision_cure
from casbah.models.published import load
from casbah.models.published_file import read_state
from casbah.models.published_layouts import described, recognised
from casbah.models.widening import widen

torchvision_cure.apply()
with network.quiet():
    import segmentation_models_pytorch as smp
    import terratorch.models  # noqa: F401 - fills the registries
    from terratorch.models.backbones import prithvi_vit
    from terratorch.models.backbones.prithvi_mae import PrithviMAE
    from terratorch.models.backbones.terramind.model import terramind_register
    from terratorch.models.backbones.terramind.model.terramind_vit import TerraMindViT
    from terratorch.registry import TERRATORCH_BACKBONE_REGISTRY

SMALL = {"embed_dim": 32, "depth": 2, "num_heads": 2}
HLS = ["BLUE", "GREEN", "RED", "NIR_NARROW", "SWIR_1", "SWIR_2"]


def scrambled(module: nn.Module) -> nn.Module:
    """Random numbers everywhere, so that a tensor left as it started shows."""
    with torch.no_grad():
        for name, value in module.state_dict().items():
            if value.is_floating_point():
                value.copy_(torch.rand_like(value) + 0.5 if "running_var" in name else torch.randn_like(value) * 0.1)
    return module


class Stand(nn.Module):
    """A module with tensors of these names and shapes, in the place of an encoder."""

    def __init__(self, shapes: Mapping[str, tuple[int, ...]]) -> None:
        super().__init__()
        for name, shape in shapes.items():
            place: nn.Module = self
            *folders, leaf = name.split(".")
            for folder in folders:
                if folder not in dict(place.named_children()):
                    place.add_module(folder, nn.Module())
                place = getattr(place, folder)
            place.register_parameter(leaf, nn.Parameter(torch.randn(shape)))


def state_of(module: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in module.state_dict().items()}


def same(module: nn.Module, state: Mapping[str, Tensor], *but: str) -> bool:
    """Whether a module holds these tensors."""
    return all(torch.equal(value, state[name]) for name, value in module.state_dict().items() if name not in but)


# --- Prithvi ----------------------------------------------------------------------------------------------------------


def prithvi_file(
    folder: Path, frames: int = 4, depth: int = 2, prefixed: bool = True
) -> tuple[Path, dict[str, Tensor]]:
    """A file as Prithvi publishes it: the whole autoencoder, of another number of frames than ours."""
    settings = prithvi_vit.prithvi_cfgs["prithvi_eo_v2_tiny_tl"] | SMALL | {"depth": depth, "num_frames": frames}
    state = state_of(scrambled(PrithviMAE(**settings | {"decoder_embed_dim": 32, "decoder_depth": 1})))
    if not prefixed:
        state = {name.removeprefix("encoder.").removeprefix("decoder."): value for name, value in state.items()}
    torch.save(state, folder / "Prithvi_EO_V2_tiny_TL.pt")
    return folder / "Prithvi_EO_V2_tiny_TL.pt", {name.removeprefix("encoder."): value for name, value in state.items()}


def prithvi(bands: list[str], frames: int = 2, **more: Any) -> Any:
    return prithvi_vit._create_prithvi("prithvi_eo_v2_tiny_tl", model_bands=bands, num_frames=frames, **SMALL | more)


@pytest.mark.parametrize("prefixed", [True, False])
def test_prithvis_encoder_is_taken_and_its_decoder_left_out(tmp_path: Path, prefixed: bool) -> None:
    file, state = prithvi_file(tmp_path, prefixed=prefixed)
    module = prithvi(HLS)
    own = module.pos_embed.clone()
    match = load(module, "prithvi_eo_v2_tiny_tl", file)
    assert match.matched == match.expected == len(module.state_dict()) - 1
    assert same(module, state, "pos_embed")
    assert torch.equal(module.pos_embed, own), "the table of two frames, not that of the file's four"
    assert any("mask_token" in name for name in match.dropped)
    assert all("dec" in name or "mask_token" in name for name in match.dropped)
    assert f"{match.expected} of {match.expected} keys matched" in str(match)


def test_prithvis_kernels_follow_the_bands_and_one_that_it_lacks_is_said(tmp_path: Path) -> None:
    file, state = prithvi_file(tmp_path)
    module = prithvi(["RED", "RED_EDGE_1", "BLUE"])
    match = load(module, "prithvi_eo_v2_tiny_tl", file)
    kernel, theirs = module.patch_embed.proj.weight, state["patch_embed.proj.weight"]
    assert torch.equal(kernel[:, 0], theirs[:, HLS.index("RED")])
    assert torch.equal(kernel[:, 2], theirs[:, HLS.index("BLUE")])
    assert not any(torch.equal(kernel[:, 1], theirs[:, band]) for band in range(6))
    assert "RED_EDGE_1, which the file has not got, start at random" in str(match)


def test_prithvi_without_coordinates_leaves_their_scales_out(tmp_path: Path) -> None:
    file, _ = prithvi_file(tmp_path)
    match = load(prithvi(HLS, coords_encoding=[]), "prithvi_eo_v2_tiny_tl", file)
    assert {"encoder.temporal_embed_enc.scale", "encoder.location_embed_enc.scale"} <= set(match.dropped)


@pytest.mark.parametrize(
    ("depth", "change", "words"),
    [
        (1, {}, r"19 of 31 keys match; blocks\.1\.norm1\.weight is lacking.*Nothing was loaded"),
        (3, {}, r"12 keys of its encoder have no place in the network, as blocks\.2\."),
        (
            2,
            {"embed_dim": 48, "num_heads": 3},
            r"Prithvi of 2 blocks, 32 wide\) does not fit .* keys match; cls_token is",
        ),
        (
            2,
            {"patch_size": [1, 8, 8]},
            r"patch_embed\.proj\.weight is \(32, 6, 1, 16, 16\) in place of \(32, 6, 1, 8, 8\)",
        ),
    ],
)
def test_a_prithvi_of_another_size_is_refused(tmp_path: Path, depth: int, change: dict[str, Any], words: str) -> None:
    file, _ = prithvi_file(tmp_path, depth=depth)
    module = prithvi(HLS, **change)
    before = state_of(module)
    with pytest.raises(InputError, match=words):
        load(module, "prithvi_eo_v2_tiny_tl", file)
    assert same(module, before)


# --- TerraMind --------------------------------------------------------------------------------------------------------

TERRAMIND = {"dim": 32, "encoder_depth": 2, "num_heads": 2}
L2A = terramind_register.PRETRAINED_BANDS["untok_sen2l2a@224"]


def terramind_file(folder: Path) -> tuple[Path, dict[str, Tensor]]:
    """A file as TerraMind publishes it: embeddings of all modalities, encoder and decoder."""
    whole = TerraMindViT(modalities=["S2L1C", "S2L2A", "S1GRD", "S1RTC", "DEM", "RGB"], **TERRAMIND)
    state = state_of(scrambled(whole))
    state["encoder_embeddings.tok_lulc@224.token_emb.weight"] = torch.randn(9, 32)
    state["decoder.0.norm1.weight"] = state["mask_token"] = torch.randn(32)
    torch.save(state, folder / "TerraMind_v1_tiny.pt")
    return folder / "TerraMind_v1_tiny.pt", state


def terramind(bands: list[str] | None, **more: Any) -> Any:
    return terramind_register.build_terrammind_vit(
        modalities=["S2L2A"],
        bands={"S2L2A": bands} if bands else None,
        pretrained_bands=terramind_register.PRETRAINED_BANDS,
        **TERRAMIND | more,
    )


def test_terraminds_encoder_of_one_modality_is_taken(tmp_path: Path) -> None:
    file, state = terramind_file(tmp_path)
    module = terramind(None)
    match = load(module, "terramind_v1_tiny", file)
    assert match.matched == match.expected == len(module.state_dict())
    assert same(module, state)
    assert "decoder.0.norm1.weight" in match.dropped
    assert "encoder_embeddings.untok_sen1grd@224.proj.weight" in match.dropped


def test_terraminds_kernels_follow_the_bands_and_its_table_the_image_size(tmp_path: Path) -> None:
    file, state = terramind_file(tmp_path)
    bands = ["RED", "CIRRUS", "BLUE"]
    module = terramind(bands, img_size=64)
    table = module.encoder_embeddings["untok_sen2l2a@224"].pos_emb.clone()
    match = load(module, "terramind_v1_tiny", file, {"S2L2A": bands})
    name = "untok_sen2l2a@224"
    kernel = module.encoder_embeddings[name].proj.weight.view(32, 256, 3)
    theirs = state[f"encoder_embeddings.{name}.proj.weight"].view(32, 256, 12)
    assert torch.equal(kernel[..., 0], theirs[..., L2A.index("RED")])
    assert torch.equal(kernel[..., 2], theirs[..., L2A.index("BLUE")])
    assert torch.equal(module.encoder_embeddings[name].pos_emb, table)
    assert match.matched == match.expected == len(module.state_dict()) - 1
    assert "CIRRUS, which the file has not got" in str(match)
    assert "for 16 tokens" in str(match)
    # The way from an image to its tokens, so that columns of a patch are not mixed up.
    image = torch.zeros(1, 3, 64, 64)
    image[:, 2] = torch.rand(64, 64)
    full = terramind(None, img_size=64)
    load(full, "terramind_v1_tiny", file)
    wide = torch.zeros(1, 12, 64, 64)
    wide[:, L2A.index("BLUE")] = image[:, 2]
    assert torch.allclose(module(image)[-1], full(wide)[-1], atol=1e-5)


def test_a_terramind_modality_that_the_file_lacks_is_refused(tmp_path: Path) -> None:
    file, _ = terramind_file(tmp_path)
    module = terramind_register.build_terrammind_vit(modalities=[{"radar": 2}], **TERRAMIND)
    with pytest.raises(InputError, match=r"encoder_embeddings\.radar\.\w+ is lacking"):
        load(module, "terramind_v1_tiny", file)


# --- ImageNet ---------------------------------------------------------------------------------------------------------

SIX = ["B02", "B03", "B04", "B08", "B11", "B12"]


def imagenet_file(folder: Path, encoder: str) -> tuple[Path, nn.Module]:
    """A file as smp-hub publishes it: an encoder of three channels with its classifier."""
    original = scrambled(smp.encoders.get_encoder(encoder, in_channels=3)).eval()
    head = {"fc.weight": torch.randn(10, 512), "fc.bias": torch.randn(10)}
    save_file(state_of(original) | (head if encoder.startswith("resnet") else {}), folder / "model.safetensors")
    return folder / "model.safetensors", original


@pytest.mark.parametrize(("encoder", "backbone"), [("resnet18", "resnet50"), ("mit_b0", "mit_b2")])
def test_an_imagenet_encoder_of_two_dates_and_six_bands_answers_as_the_original_to_the_rgb_image(
    tmp_path: Path, encoder: str, backbone: str
) -> None:
    file, original = imagenet_file(tmp_path, encoder)
    module = smp.encoders.get_encoder(encoder, in_channels=12).eval()
    match = load(module, backbone, file, SIX * 2)
    assert match.matched == match.expected == len(module.state_dict())
    rgb = torch.rand(2, 3, 64, 64)
    image = torch.rand(2, 2, 6, 64, 64) * 9  # whatever the other bands hold
    image[:, :, :3] = rgb.flip(1)[:, None]  # B02, B03, B04 of both dates
    with torch.no_grad():
        found, wanted = module(image.flatten(1, 2))[1:], original(rgb)[1:]
    for ours, theirs in zip(found, wanted, strict=True):
        if theirs.numel():  # SegFormer's has a place without channels among its features
            assert torch.allclose(ours, theirs, atol=1e-5 * max(1.0, float(theirs.abs().max())))


def test_dates_of_different_colour_are_averaged(tmp_path: Path) -> None:
    kernel = torch.randn(8, 3, 3, 3)
    wide = widen(kernel, ["BLUE", "GREEN", "RED"] * 2)
    first, second = torch.rand(1, 3, 9, 9), torch.rand(1, 3, 9, 9)
    found = nn.functional.conv2d(torch.cat([first.flip(1), second.flip(1)], 1), wide)
    assert torch.allclose(found, nn.functional.conv2d((first + second) / 2, kernel), atol=1e-5)


@pytest.mark.parametrize(
    ("channels", "words"),
    [
        (list(range(12)), "the channels are 0, 1, 2"),
        (["B02", "B03", "B08"] * 4, "B04, B03 and B02 are wanted once for each date"),
        (["B02", "B03", "B04", *["B08"] * 8, "B04"], "once for each date"),
        (["B02", "B03", "B04"], "3 channels are named, and the network takes 12"),
        (None, "0 channels are named"),
    ],
)
def test_channels_that_do_not_say_red_green_and_blue_are_refused(
    tmp_path: Path, channels: list[Any] | None, words: str
) -> None:
    file, _ = imagenet_file(tmp_path, "resnet18")
    module = smp.encoders.get_encoder("resnet18", in_channels=12)
    with pytest.raises(InputError, match=words):
        load(module, "resnet50", file, channels)


def test_three_channels_are_put_in_imagenets_order(tmp_path: Path) -> None:
    file, original = imagenet_file(tmp_path, "resnet18")
    module = smp.encoders.get_encoder("resnet18", in_channels=3).eval()
    match = load(module, "resnet50", file, ["B02", "B03", "B04"])
    rgb = torch.rand(1, 3, 32, 32)
    with torch.no_grad():
        assert torch.allclose(module(rgb.flip(1))[-1], original(rgb)[-1], atol=1e-4)
    assert {"fc.weight", "fc.bias"} == set(match.dropped)


# --- SatMAE, ScaleMAE, Galileo ----------------------------------------------------------------------------------------

BLOCK = {
    f"blocks.0.{name}": shape
    for name, shape in {
        "norm1.weight": (32,),
        "norm1.bias": (32,),
        "attn.qkv.weight": (96, 32),
        "attn.qkv.bias": (96,),
        "attn.proj.weight": (32, 32),
        "attn.proj.bias": (32,),
        "norm2.weight": (32,),
        "norm2.bias": (32,),
        "mlp.fc1.weight": (128, 32),
        "mlp.fc1.bias": (128,),
        "mlp.fc2.weight": (32, 128),
        "mlp.fc2.bias": (32,),
    }.items()
}
NORM = {"norm.weight": (32,), "norm.bias": (32,)}
GROUPS = {f"patch_embed.{group}.proj.{part}": shape for group, bands in enumerate((4, 4, 2))
          for part, shape in (("weight", (32, bands, 8, 8)), ("bias", (32,)))}  # fmt: skip
SATMAE = {"cls_token": (1, 1, 32), "pos_embed": (1, 145, 24), "channel_embed": (1, 3, 8), **GROUPS, **BLOCK, **NORM}
SATMAE_DECODER = {
    "mask_token": (1, 1, 16),
    "decoder_pos_embed": (1, 145, 12),
    "decoder_embed.weight": (16, 32),
    "decoder_blocks.0.norm1.weight": (16,),
    "decoder_pred.0.weight": (256, 16),
}
SCALEMAE = {
    "cls_token": (1, 1, 32),
    "pos_embed": (1, 197, 32),
    "patch_embed.proj.weight": (32, 3, 16, 16),
    "patch_embed.proj.bias": (32,),
    **BLOCK,
    **NORM,
}


def saved(path: Path, state: Any, **more: Any) -> Path:
    torch.save({"model": state, **more} if more else state, path)
    return path


def test_satmaes_encoder_comes_out_of_a_whole_trainings_state(tmp_path: Path) -> None:
    state = state_of(Stand(SATMAE | SATMAE_DECODER))
    training = {"optimizer": {"state": {0: torch.randn(3)}, "param_groups": [{"lr": 0.1}]}, "epoch": 199}
    file = saved(tmp_path / "x.pth", state, args=argparse.Namespace(lr=1e-4, device="cuda"), **training)
    module = Stand(SATMAE | {"channel_cls_embed": (1, 1, 8)})
    match = load(module, "satmae_vit_large", file)
    assert match.matched == match.expected == len(SATMAE) + 1
    assert not module.channel_cls_embed.any()
    assert "channel_cls_embed, which the file has not got, is zero" in match.adapted
    assert same(module, state, "channel_cls_embed")
    assert set(match.dropped) == set(SATMAE_DECODER)


def test_satmaes_own_channel_of_the_class_token_is_taken_where_the_file_has_it(tmp_path: Path) -> None:
    state = state_of(Stand(SATMAE | {"channel_cls_embed": (1, 1, 8)}))
    module = Stand(SATMAE | {"channel_cls_embed": (1, 1, 8)})
    load(module, "satmae_vit_large", saved(tmp_path / "x.pth", state, epoch=1))
    assert same(module, state)


def test_a_position_table_of_another_size_is_interpolated(tmp_path: Path) -> None:
    state = state_of(Stand(SATMAE))
    rows = torch.arange(12.0).repeat_interleave(12)
    state["pos_embed"][0, 1:, 0] = rows
    module = Stand(SATMAE | {"pos_embed": (1, 65, 24)})
    match = load(module, "satmae_vit_large", saved(tmp_path / "x.pth", state, epoch=1))
    assert torch.equal(module.pos_embed[:, 0], state["pos_embed"][:, 0])
    grid = module.pos_embed[0, 1:, 0].reshape(8, 8)
    assert torch.allclose(grid, grid[:, :1].expand(8, 8), atol=1e-4), "rows stay rows"
    assert (grid.diff(dim=0) > 1).all(), "12 positions over 8"
    assert "pos_embed was interpolated to 64 positions" in match.adapted
    odd = Stand(SATMAE | {"pos_embed": (1, 60, 24)})
    with pytest.raises(InputError, match=r"pos_embed is \(1, 145, 24\) in place of \(1, 60, 24\)"):
        load(odd, "satmae_vit_large", tmp_path / "x.pth")


@pytest.mark.parametrize("wrapped", [{}, {"epoch": 800}])
@pytest.mark.parametrize("module_has_table", [True, False])
def test_scalemaes_encoder_is_taken_from_either_kind_of_file(
    tmp_path: Path, wrapped: dict[str, Any], module_has_table: bool
) -> None:
    state = state_of(Stand(SCALEMAE | {"decoder_embed.weight": (16, 32), "mask_token": (1, 1, 16)}))
    shapes = {name: shape for name, shape in SCALEMAE.items() if module_has_table or name != "pos_embed"}
    module = Stand(shapes)
    match = load(module, "scalemae_vit_large", saved(tmp_path / "x.pth", state, **wrapped))
    assert match.matched == match.expected == len(SCALEMAE) - 1
    assert same(module, state, "pos_embed")
    assert {"mask_token", "decoder_embed.weight", "pos_embed"} <= set(match.dropped)


def galileo_state() -> dict[str, Tensor]:
    shapes = {
        "pos_embed": (24, 8),
        "s_t_channel_embed": (7, 8),
        "sp_channel_embed": (3, 8),
        "month_embed.weight": (12, 8),
        "blocks.0.attn.q.weight": (32, 32),
        "blocks.0.norm1.weight": (32,),
        "space_time_embed.S1.proj.weight": (32, 2, 8, 8),
        "space_time_embed.S2_RGB.proj.weight": (32, 3, 8, 8),
        "static_embed.LS.weight": (32, 1),
        **NORM,
    }
    return state_of(Stand(shapes))


def test_galileos_encoder_leaves_out_sensors_that_are_not_used(tmp_path: Path) -> None:
    state = galileo_state()
    used = {name: tuple(value.shape) for name, value in state.items() if "S1" not in name and "static" not in name}
    module = Stand(used)
    match = load(module, "galileo_nano", saved(tmp_path / "encoder.pt", state))
    assert match.matched == match.expected == len(used)
    assert same(module, state)
    assert set(match.dropped) == {"space_time_embed.S1.proj.weight", "static_embed.LS.weight"}
    del state["blocks.0.attn.q.weight"]
    with pytest.raises(InputError, match=r"8 of 9 keys match; blocks\.0\.attn\.q\.weight is lacking"):
        load(module, "galileo_nano", saved(tmp_path / "less.pt", state))


def test_the_real_galileo_file_loads_whole(shared: Path) -> None:
    file = shared / "weights/galileo-nano/encoder.pt"
    if not file.is_file():
        pytest.skip(f"no {file}")
    state = read_state(file)
    module = Stand({name: tuple(value.shape) for name, value in state.items()})
    assert load(module, "galileo_nano", file).matched == 106
    assert same(module, state)


# --- Files that are something else ------------------------------------------------------------------------------------


def test_a_checkpoint_of_another_model_is_told_by_what_it_looks_like(tmp_path: Path) -> None:
    file, _ = prithvi_file(tmp_path)
    resnet, _ = imagenet_file(tmp_path, "resnet18")
    module = Stand(SATMAE)
    with pytest.raises(InputError, match=r"looks like Prithvi of 2 blocks, 32 wide; satmae_vit_large wants .* SatMAE"):
        load(module, "satmae_vit_large", file)
    with pytest.raises(InputError, match="looks like a ResNet"):
        load(prithvi(HLS), "prithvi_eo_v2_tiny_tl", resnet)
    mine = saved(tmp_path / "mine.pt", {"model.encoder.x": torch.zeros(1)})
    with pytest.raises(InputError, match=r"nothing that Casbah knows \(its first names are model\.encoder\.x\)"):
        load(module, "satmae_vit_large", mine)


class _Trap:
    def __reduce__(self) -> Any:
        return os.mkdir, ("trapped",)


def test_a_file_that_would_run_code_is_not_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    file = saved(tmp_path / "x.pth", state_of(Stand(SATMAE)), args=_Trap())
    with pytest.raises(InputError, match=r"holds more than weights and plain values \(\w+\.mkdir\).*not loaded"):
        load(Stand(SATMAE), "satmae_vit_large", file)
    assert not (tmp_path / "trapped").exists()


@pytest.mark.parametrize("keep", [0, 1, 100, 0.5, 0.99])
@pytest.mark.parametrize("kind", ["pt", "safetensors", "old"])
def test_a_file_that_was_cut_is_refused(tmp_path: Path, keep: float, kind: str) -> None:
    file, state = tmp_path / "file", galileo_state()
    if kind == "safetensors":
        save_file(state, file)
    else:
        torch.save(state, file, _use_new_zipfile_serialization=kind == "pt")
    assert read_state(file).keys() == state.keys()
    whole = file.read_bytes()
    file.write_bytes(whole[: int(keep if keep >= 1 or keep == 0 else keep * len(whole))])
    with pytest.raises(InputError, match=r"cut or damaged|holds no weights|holds more"):
        load(Stand(SATMAE), "galileo_nano", file)


def test_a_file_of_weights_beside_no_pretraining_is_refused(tmp_path: Path) -> None:
    file, _ = terramind_file(tmp_path)
    given = {"backbone": "terramind_v1_tiny", "backbone_pretrained": False, "backbone_ckpt_path": str(file)}
    with pytest.raises(InputError, match="backbone_pretrained is not true"):
        network.build("EncoderDecoderFactory", given)


def test_a_prithvi_of_other_bands_is_refused_even_where_their_number_fits(tmp_path: Path) -> None:
    settings = prithvi_vit.prithvi_cfgs["prithvi_eo_v2_tiny_tl"] | SMALL | {"num_frames": 2, "in_chans": 4}
    state = state_of(PrithviMAE(**settings | {"decoder_embed_dim": 32, "decoder_depth": 1, "bands": HLS[:4]}))
    torch.save(state, tmp_path / "four.pt")
    with pytest.raises(InputError, match="4 bands in place of the published file's 6"):
        load(prithvi(HLS[:4]), "prithvi_eo_v2_tiny_tl", tmp_path / "four.pt")


def test_a_file_without_weights_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds no weights"):
        read_state(saved(tmp_path / "x.pt", {"epoch": 3}))
    with pytest.raises(InputError, match="can't be read"):
        read_state(tmp_path / "nowhere.pt")


def test_layouts_that_were_read_from_the_builders_are_recognised(shared: Path) -> None:
    file = shared / "reference/checkpoint_layouts.json"
    if not file.is_file():
        pytest.skip(f"no {file}")
    known = json.loads(file.read_text())
    layouts = {name: facts["mae_checkpoint_layout"] for name, facts in known["prithvi"].items()}
    layouts |= {name: facts["encoder_with_six_raw_modalities"] for name, facts in known["terramind"].items()}
    layouts |= known["smp_encoders"]
    for backbone, shapes in layouts.items():
        state = {name: torch.empty(shape, device="meta") for name, shape in shapes.items()}
        assert recognised(state) == weights.find(backbone).family, described(state)


def at_full_size(backbone: str) -> tuple[nn.Module, list[str] | None]:
    """The backbone as its experiment builds it, for two dates where it takes them itself, and the channels it takes."""
    if backbone.startswith("prithvi"):
        return TERRATORCH_BACKBONE_REGISTRY.build(backbone, pretrained=False, num_frames=2, bands=HLS), HLS
    if backbone.startswith("terramind"):
        return TERRATORCH_BACKBONE_REGISTRY.build(backbone, pretrained=False, modalities=["S2L2A"]), None
    bands = list(BAND_NAMES)
    return smp.encoders.get_encoder(backbone, in_channels=len(bands), weights=None), bands


@pytest.mark.parametrize(
    ("kind", "backbone"),
    [
        *(("prithvi", name) for name in ("prithvi_eo_v1_100", "prithvi_eo_v2_300", "prithvi_eo_v2_tiny_tl")),
        *(("terramind", name) for name in ("terramind_v1_base", "terramind_v1_tiny")),
        *(("smp_encoders", name) for name in ("resnet50", "mit_b2")),
    ],
)
def test_a_file_of_the_published_names_and_shapes_fills_the_backbone_at_full_size(
    kind: str, backbone: str, shared: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = shared / "reference/checkpoint_layouts.json"
    if not file.is_file():
        pytest.skip(f"no {file}")
    found = json.loads(file.read_text())[kind][backbone]
    shapes = found.get("mae_checkpoint_layout") or found.get("encoder_with_six_raw_modalities") or found
    # One number stretched to each shape takes no room.
    state = {name: torch.full((), 0.25).expand(shape) for name, shape in shapes.items()}
    monkeypatch.setattr(published, "read_state", lambda _: state)
    module, bands = at_full_size(backbone)
    match = load(module, backbone, Path("published.pt"), bands)
    assert match.matched == match.expected > 100
    loaded = dict(module.named_parameters())
    norms = [value for name, value in loaded.items() if re.search(r"(norm1|norm|bn1)\.weight$", name)]
    assert norms
    assert all((value == 0.25).all() for value in norms)


# --- Networks ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("CASBAH_WEIGHTS", str(tmp_path / "store"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    return tmp_path / "store"


PRITHVI_ARGS = {
    "backbone": "prithvi_eo_v2_tiny_tl",
    "backbone_pretrained": True,
    "backbone_bands": HLS,
    "backbone_num_frames": 2,
    **{f"backbone_{name}": value for name, value in SMALL.items()},
    "necks": [{"name": "SelectIndices", "indices": [1]}, {"name": "ReshapeTokensToImage", "effective_time_dim": 2}],
    "decoder": "FCNDecoder",
    "num_classes": 2,
}


def test_a_network_starts_from_the_stores_file_and_says_how_much_of_it_fitted(
    tmp_path: Path, store: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, state = prithvi_file(tmp_path)
    weights.add("prithvi_eo_v2_tiny_tl", file)
    model: Any = network.build("EncoderDecoderFactory", PRITHVI_ARGS)
    assert same(network.encoder_of(model), state, "pos_embed")
    digest = weights.LocalStore().facts(weights.find("prithvi_eo_v2_tiny_tl")).sha256
    assert f"Prithvi_EO_V2_tiny_TL.pt (sha256 {digest[:16]}): 31 of 31 keys matched" in model.starts_from
    assert "prithvi_eo_v2_tiny_tl starts from ibm-nasa-geospatial" in capsys.readouterr().err
    rebuilt = network.build("EncoderDecoderFactory", network.untrained(PRITHVI_ARGS))
    assert not hasattr(rebuilt, "starts_from")
    assert not same(network.encoder_of(rebuilt), state, "pos_embed")


def test_a_file_that_the_experiment_names_takes_the_place_of_the_stores(tmp_path: Path, store: Path) -> None:
    file, state = prithvi_file(tmp_path)
    model: Any = network.build("EncoderDecoderFactory", PRITHVI_ARGS | {"backbone_ckpt_path": str(file)})
    assert same(network.encoder_of(model), state, "pos_embed")
    assert model.starts_from.startswith("Prithvi_EO_V2_tiny_TL.pt (sha256 ")


def test_the_backbone_of_several_dates_inside_terratorchs_wrapper_is_loaded(tmp_path: Path, store: Path) -> None:
    file, state = prithvi_file(tmp_path)
    temporal = {"use_temporal": True, "temporal_pooling": "concat", "temporal_n_timestamps": 2, "num_frames": 1}
    given = PRITHVI_ARGS | {f"backbone_{name}": value for name, value in temporal.items()}
    given["necks"] = [{"name": "SelectIndices", "indices": [1]}, {"name": "ReshapeTokensToImage"}]
    given["backbone_ckpt_path"] = str(file)
    model: Any = network.build("EncoderDecoderFactory", given)
    assert same(network.encoder_of(model).encoder, state, "pos_embed")


def test_a_unet_of_two_dates_starts_from_imagenet(tmp_path: Path, store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    entry = weights.entries()["resnet50_imagenet"]
    monkeypatch.setitem(weights.entries(), entry.name, entry.model_copy(update={"backbones": ("resnet18",)}))
    file, original = imagenet_file(tmp_path, "resnet18")
    weights.add("resnet18", file)
    given = {"model": "Unet", "backbone": "resnet18", "in_channels": 12, "bands": SIX * 2, "num_classes": 2}
    model: Any = network.build("SMPModelFactory", given)  # which pretrains unless it is told not to
    first = network.encoder_of(model).state_dict()["conv1.weight"]
    assert torch.equal(first, widen(original.state_dict()["conv1.weight"], SIX * 2))
    assert same(network.encoder_of(model), original.state_dict(), "conv1.weight")
    assert "widened" in model.starts_from


def test_a_bundle_says_how_much_of_the_published_file_fitted_and_opens_without_it(
    tmp_path: Path, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from casbah.finetune import finetune

    file, _ = prithvi_file(tmp_path)
    weights.add("prithvi_eo_v2_tiny_tl", file)
    settings = {f"backbone_{name}": value for name, value in SMALL.items()} | {"backbone_pretrained": True}
    settings |= {"decoder": "FCNDecoder", "decoder_channels": 8}
    overrides = [f"model.init_args.model_args.{name}={value}" for name, value in settings.items()]
    overrides += [
        "model.init_args.model_args.necks=[{name: SelectIndices, indices: [1]}, {name: ReshapeTokensToImage}]"
    ]
    overrides += ["trainer.max_epochs=1"]
    tiles = make_tiles(tmp_path / "tiles").path
    places = {"output": tmp_path / "model", "checkpoints": tmp_path / "checkpoints"}
    bundle = finetune(config="prithvi_tiny_upernet", tiles=tiles, overrides=overrides, **places)
    assert bundle.training.pretrained is not None
    assert "31 of 31 keys matched" in bundle.training.pretrained
    assert "Prithvi-EO-2.0-tiny-TL" in bundle.training.weights_origin
    monkeypatch.setenv("CASBAH_WEIGHTS", str(tmp_path / "empty"))
    network.load(bundle)


@pytest.mark.parametrize(
    "given",
    [
        {"model": "Unet", "backbone": "tu-resnet18.a1_in1k"},
        {"model": "Unet", "backbone": "resnet50", "pretrained": "ssl"},
        {"model": "Unet", "backbone": "resnet50", "pretrained": False},
        {"backbone": "prithvi_eo_v2_600", "backbone_pretrained": True},
        {"backbone": "resnet50", "backbone_pretrained": True},
        {"backbone": "prithvi_eo_v2_300"},
    ],
)
def test_other_backbones_are_left_to_their_own_houses(given: dict[str, Any]) -> None:
    assert published.wanted(given) is None
