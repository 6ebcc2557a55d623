"""Templates of keys: what they name, both ways, and entries that are joined."""

import pytest
import torch
from torch import nn

import backbones
from backbones.weights import convert_checkpoint, restore_state_dict
from backbones.weights.layouts import Layout, to_own, to_published

LAYOUT: Layout = (
    ("pos_embed", "stem.pos_embed"),
    ("patch_embed1.", "stem."),
    ("patch_embed{i}.", "stages.{i-1}.downsample."),
    ("levels.{i}.blocks.{j}.0.", "stages.{i+1}.blocks.{j}.first."),
    ("levels.", "stages."),
    (".layer_scale_{i}", ".ls{i}.gamma"),
    (".dwconv.dwconv.", ".dwconv."),
    ((".query.", ".key.", ".value."), ".qkv."),
    (".fold.weights", None),
)


@pytest.mark.parametrize(
    ("published", "own"),
    [
        ("pos_embed", "stem.pos_embed"),
        ("patch_embed1.proj.weight", "stem.proj.weight"),
        ("patch_embed12.proj.weight", "stages.11.downsample.proj.weight"),
        ("levels.9.blocks.10.0.bias", "stages.10.blocks.10.first.bias"),
        ("levels.9.blocks.10.1.bias", "stages.9.blocks.10.1.bias"),
        ("levels.0.blocks.3.0.dwconv.dwconv.weight", "stages.1.blocks.3.first.dwconv.weight"),
        ("levels.0.layer_scale_2", "stages.0.ls2.gamma"),
        ("head.weight", "head.weight"),
    ],
)
def test_rows_rename_both_ways(published: str, own: str) -> None:
    assert to_own(published, LAYOUT) == (own, 0, 1)
    assert to_published(own, LAYOUT) == (published,)


@pytest.mark.parametrize(
    "key",
    [
        "pos_embed.weight",  # the template is the whole key
        "x.pos_embed",
        "x.patch_embed1.weight",  # the template begins the key
        "levels_.0",  # parts are whole
        "x.dwconv.dwconv_.weight",
        "x.layer_scale_2.weight",
        "dwconv.dwconv.weight",  # nothing stands before it
        "patch_embed0.weight",  # there is no stage -1
        "xfold.weights",
    ],
)
def test_what_a_template_does_not_name_stays(key: str) -> None:
    assert to_own(key, LAYOUT) == (key.replace("levels.", "stages."), 0, 1)


def test_dropped_and_joined_entries() -> None:
    assert to_own("levels.0.fold.weights", LAYOUT)[0] is None
    assert to_own("levels.0.key.bias", LAYOUT) == ("stages.0.qkv.bias", 1, 3)
    assert to_published("stages.0.qkv.bias", LAYOUT) == (
        "levels.0.query.bias",
        "levels.0.key.bias",
        "levels.0.value.bias",
    )


def test_an_entry_that_no_published_key_becomes() -> None:
    with pytest.raises(ValueError, match="no key of the layout becomes 'pos_embed'"):
        to_published("pos_embed", LAYOUT)


class Joined(nn.Module):
    """A model whose published files have three projections where it has one."""

    checkpoint_layouts = {"official": (("{i}.", "layers.{i}."), ((".query.", ".key.", ".value."), ".qkv."))}
    checkpoint_dims: dict = {"official": {".query.weight": 4}}
    checkpoint_entries = ("model",)

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.ModuleDict({"qkv": nn.Linear(4, 12)}) for _ in range(2)])

    def adapt_checkpoint(self, state_dict: dict) -> dict:
        return state_dict


def test_parts_of_an_entry_are_joined_and_parted() -> None:
    published = {
        f"{i}.{name}.{kind}": torch.randn(4, 4) if kind == "weight" else torch.randn(4)
        for i in range(2)
        for name in ("value", "query", "key")  # files have any order
        for kind in ("weight", "bias")
    }
    model = Joined()
    conversion = convert_checkpoint({"model": published}, model)
    assert not conversion.fit.problems() and conversion.layout == "official"
    wanted = torch.cat([published[f"1.{name}.weight"] for name in ("query", "key", "value")])
    assert torch.equal(conversion.weights["layers.1.qkv.weight"], wanted)
    back = restore_state_dict(conversion.weights, model, "official", conversion.names, conversion.shapes)
    assert back.keys() == published.keys() and all(torch.equal(back[key], published[key]) for key in back)
    assert restore_state_dict(conversion.weights, model)["0.query.weight"].shape == (4, 4, 1, 1)

    del published["1.key.bias"]
    conversion = convert_checkpoint(published, model)
    assert conversion.fit.missing == ["layers.1.qkv.bias"]
    assert set(conversion.fit.unexpected) == {"1.query.bias", "1.value.bias"}


@pytest.mark.parametrize("name", backbones.list_models("test_*"))
def test_every_row_serves_a_key(name: str) -> None:
    """A row that renames nothing is a mistake, or of a variant with other parts."""
    model = backbones.create_model(name, device="meta")
    own = [*model.state_dict(), "out_norms.3.weight", "stages.0.blocks.0.text_attn.proj.weight"]
    own += ["text_embed.fc1.weight", "modulation.weight", "head.modulation.table", "stages.0.blocks.0.modulation.table"]
    own += ["stages.0.blocks.0.shifted_modulation.table", "stages.0.blocks.0.ls1.gamma"]
    for rows in model.checkpoint_layouts.values():
        for row in rows:
            others = tuple(other for other in rows if other is not row)
            if row[1] is not None:
                changed = [key for key in own if names(key, rows) != names(key, others)]
                assert changed, f"{row} of {name} renames nothing"


def names(key: str, layout: Layout) -> tuple[str, ...] | None:
    try:
        return to_published(key, layout)
    except ValueError:
        return None
