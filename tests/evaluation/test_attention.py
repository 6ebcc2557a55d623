"""Attention of pixels, read off the layers themselves.

Where the values of a head are the pixels' names (pixel j has a one in channel j, and nothing else), what a head gives
for pixel i is its attention: the layer is the slow, obvious computation.
"""

import pytest
import timm
import torch
from torch import Tensor, nn

import backbones
from backbones.evaluation.attention import (
    VIEWS,
    PixelAttention,
    Scores,
    attention_maps,
    attentive_kernels,
    head_importance,
    profile,
    record,
    rollout,
)
from backbones.layers import (
    AggregatedAttention,
    AttentiveConv,
    CausalRopeAttention,
    GlobalCosineAttention,
    HaloAttention,
    HiLoAttention,
    HybridAttention,
    LePEAttention,
    NeighborhoodAttention,
    ProxyTokenAttention,
    SelfGuidedAttention,
    SuperTokenAttention,
    WindowAttention,
)
from backbones.layers.functional import rotary_table, window_grid
from backbones.models.ptdit import Block as PTDiTBlock

H, W, N = 3, 5, 15
HEADS, D = 2, 16
DIM = HEADS * D


def names(x: Tensor) -> Tensor:
    """Give the pixels of (1, N, DIM) their names, in the first channels."""
    count = x.shape[1]
    x[:, :, :count] = torch.eye(count)
    return x


def passes_on(weight: Tensor, heads: int) -> None:
    """Make a projection (heads * D, C) give every head the first D channels."""
    weight.copy_(torch.eye(D, weight.shape[1]).repeat(heads, 1))


def identity(*layers: nn.Linear) -> None:
    for layer in layers:
        nn.init.eye_(layer.weight)
        if layer.bias is not None:
            nn.init.zeros_(layer.bias)


def window(x):
    layer = WindowAttention(DIM, HEADS, 2)
    passes_on(layer.qkv.weight[2 * DIM :], HEADS)
    nn.init.zeros_(layer.qkv.bias)
    identity(layer.proj)
    return layer, lambda: layer(x.view(1, H, W, DIM))


def hilo(x, alpha=0.5, side=2):
    layer = HiLoAttention(DIM, HEADS, side, alpha)
    if layer.hi_heads:
        passes_on(layer.h_qkv.weight[2 * layer.hi_dim :], layer.hi_heads)
        nn.init.zeros_(layer.h_qkv.bias)
        identity(layer.h_proj)
    if layer.lo_heads:
        passes_on(layer.l_kv.weight[layer.lo_dim :], layer.lo_heads)
        nn.init.zeros_(layer.l_kv.bias)
        identity(layer.l_proj)
    return layer, lambda: layer(x.view(1, H, W, DIM))


def halo(x, **options):
    layer = HaloAttention(DIM, HEADS, **options)
    for h in range(HEADS):
        passes_on(layer.kv.weight[2 * D * h + D : 2 * D * (h + 1)], 1)
    return layer, lambda: layer(x.view(1, H, W, DIM))


def neighborhood(x, **options):
    layer = NeighborhoodAttention(DIM, HEADS, **options)
    passes_on(layer.qkv.weight[2 * DIM :], HEADS)
    nn.init.zeros_(layer.qkv.bias)
    if layer.rpb is not None:
        nn.init.normal_(layer.rpb)
    identity(layer.proj)
    return layer, lambda: layer(x.view(1, H, W, DIM))


def aggregated(x, sr_ratio=2):
    layer = AggregatedAttention(DIM, HEADS, sr_ratio, pretrain_side=4)
    layer.norm = layer.act = nn.Identity()
    passes_on(layer.kv.weight[DIM:], HEADS)
    nn.init.zeros_(layer.kv.bias)
    nn.init.zeros_(layer.learnable_tokens)
    nn.init.normal_(layer.rpb)
    identity(layer.sr, layer.proj)
    return layer, lambda: layer(x.view(1, H, W, DIM))


def global_cosine(x):
    layer = GlobalCosineAttention(DIM, HEADS, pretrain_side=4)
    passes_on(layer.qkv.weight[2 * DIM :], HEADS)
    nn.init.zeros_(layer.qkv.bias)
    identity(layer.proj)
    return layer, lambda: layer(x.view(1, H, W, DIM))


def super_tokens(x, cell_size=2):
    layer = SuperTokenAttention(DIM, HEADS, cell_size)
    for h in range(HEADS):
        passes_on(layer.qkv.weight[3 * D * h + 2 * D : 3 * D * (h + 1)], 1)
    nn.init.zeros_(layer.qkv.bias)
    identity(layer.proj)
    return layer, lambda: layer(x.view(1, H, W, DIM))


def silence_lepe(layer):
    for part in (layer.lepe.linear, layer.lepe.conv):
        nn.init.zeros_(part.weight)
        nn.init.zeros_(part.bias)
    identity(layer.proj)


def lepe(x):
    layer = LePEAttention(DIM, HEADS)
    passes_on(layer.kv.weight[DIM:], HEADS)
    nn.init.zeros_(layer.kv.bias)
    silence_lepe(layer)
    return layer, lambda: layer(x.view(1, H, W, DIM))[0]


def hybrid(x):
    layer = HybridAttention(DIM, HEADS, sr_ratio=2, window_size=2)
    layer.norm = layer.act = nn.Identity()
    layer.sr.weight.copy_(torch.eye(DIM)[..., None, None].expand(-1, -1, 2, 2) / 4)
    nn.init.zeros_(layer.sr.bias)
    for kv in (layer.kv1, layer.kv2):
        passes_on(kv.weight[DIM // 2 :], HEADS // 2)
        nn.init.zeros_(kv.bias)
    silence_lepe(layer)
    return layer, lambda: layer(x.view(1, H, W, DIM))[0]


def self_guided(x):
    layer = SelfGuidedAttention(DIM, HEADS, ((3, 4), (1, 2)))
    for merge in layer.merge:
        nn.init.constant_(merge.weight, 1 / merge.weight.shape[1])
    for kv in (layer.kv1, layer.kv2):
        passes_on(kv.weight[DIM // 2 :], HEADS // 2)
        nn.init.zeros_(kv.bias)
    silence_lepe(layer)
    significance = torch.randint(0, 4, (1, H, W)).float()  # with ties
    return layer, lambda: layer(x.view(1, H, W, DIM), significance)[0]


def causal(x, rate=0.0):
    layer = CausalRopeAttention(DIM, HEADS)
    layer.soft_mask_rate = rate
    passes_on(layer.qkv.weight[2 * DIM :], HEADS)
    nn.init.zeros_(layer.qkv.bias)
    identity(layer.proj)
    x = names(torch.cat([x, torch.randn(1, 1, DIM)], dim=1))
    return layer, lambda: layer(x, rotary_table(x, D))


def timms(x):
    layer = timm.models.vision_transformer.Attention(DIM, HEADS, qkv_bias=False)
    passes_on(layer.qkv.weight[2 * DIM :], HEADS)
    identity(layer.proj)
    x = names(torch.cat([x, torch.randn(1, 1, DIM)], dim=1)).roll(1, 1)  # class token first
    return layer, lambda: layer(x).roll(-1, 1)


def proxy(x):
    layer = ProxyTokenAttention(DIM, HEADS)
    layer.norm = nn.Identity()
    nn.init.zeros_(layer.attn.proj.weight)
    nn.init.zeros_(layer.attn.proj.bias)
    passes_on(layer.cross_attn.v.weight, HEADS)
    nn.init.zeros_(layer.cross_attn.v.bias)
    identity(layer.cross_attn.proj, layer.out)
    grid = window_grid((1, H, W), (1, 4, 4), x.device)
    parts = grid.partition(x.view(1, 1, H, W, DIM))
    return layer, lambda: grid.unpartition(layer(parts, grid, (1, 2, 2)))[:, 0]


CASES = {
    "window": window,
    "hilo": hilo,
    "hilo, Hi-Fi alone": lambda x: hilo(x, alpha=0.0),
    "hilo, Lo-Fi alone": lambda x: hilo(x, side=1),
    "halo": lambda x: halo(x, block_size=4, halo_size=1),
    "halo of small blocks": lambda x: halo(x, block_size=2, halo_size=2),
    "halo of stride 2": lambda x: halo(x, block_size=4, halo_size=1, stride=2),
    "neighbourhood": lambda x: neighborhood(x, kernel_size=3),
    "neighbourhood without biases": lambda x: neighborhood(x, kernel_size=3, rel_pos_bias=False),
    "neighbourhood, larger than the map": lambda x: neighborhood(x, kernel_size=5, dilation=2),
    "neighbours and a pooled map": aggregated,
    "neighbours and a pixel": lambda x: aggregated(x, 8),
    "whole map by cosines": global_cosine,
    "super tokens": super_tokens,
    "super tokens of a pixel": lambda x: super_tokens(x, 1),
    "lepe": lepe,
    "hybrid": hybrid,
    "self-guided": self_guided,
    "causal": causal,
    "causal, softened": lambda x: causal(x, 0.3),
    "timm's": timms,
    "proxies": proxy,
}


@torch.no_grad()
def run(case: str) -> tuple[nn.Module, Tensor, list[PixelAttention]]:
    torch.manual_seed(0)
    layer, call = CASES[case](names(torch.randn(1, N, DIM)))
    with record(nn.Sequential(layer)) as visits:
        out = call()
    assert torch.equal(call(), out) or torch.allclose(call(), out, atol=1e-5)  # recording changes nothing
    assert not layer._forward_hooks and not layer._forward_pre_hooks
    maps = attention_maps(visits, (H, W))
    return layer, out, [m for m in maps if m.kind != "proxies among themselves"]  # tests/evaluation/test_denoiser.py


@pytest.mark.parametrize("case", CASES)
def test_weights_are_what_the_layer_gives(case):
    _, out, maps = run(case)
    assert sum(m.heads[1] - m.heads[0] for m in maps) == HEADS
    stride = 2 if "stride" in case else 1
    if out.ndim == 3:  # tokens, the one beside the map last
        expected = out[0].unflatten(1, (HEADS, D)).transpose(0, 1)
    else:
        assert out.shape[1:3] == (-(-H // stride), -(-W // stride))
        expected = out[0].unflatten(2, (HEADS, D)).movedim(2, 0)
    first = 0
    for m in maps:
        assert m.size == (H, W)
        count = m.heads[1] - m.heads[0]
        for pixel in range(N + (out.ndim == 3)):
            y, x = pixel // W // stride, pixel % W // stride
            given = expected[first : first + count, pixel] if out.ndim == 3 else expected[first : first + count, y, x]
            torch.testing.assert_close(m.of(pixel).flatten(1), given[:, :N], atol=1e-5, rtol=1e-4)
        first += count


def test_every_view_is_tested():
    by_denoiser = {PTDiTBlock}  # tests/evaluation/test_denoiser.py
    assert {type(run(case)[0]) for case in CASES} == set(VIEWS) - by_denoiser


@pytest.mark.parametrize("name", backbones.list_models("test_*", task="classification"))
@pytest.mark.parametrize("size", [(64, 96), (33, 50)])
def test_every_model_at_any_size(name, size):
    model = backbones.create_model(name).eval()
    if hasattr(model, "set_input_size"):
        model.set_input_size(img_size=size)
    image = torch.randn(1, 3, *size)
    with torch.no_grad():
        before = model(image)
        with record(model) as visits:
            during = model(image)
    torch.testing.assert_close(during, before, atol=1e-4, rtol=1e-3)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    maps = attention_maps(visits, size)
    assert {m.layer for m in maps} == {n for n, module in model.named_modules() if type(module) in VIEWS}
    for m in maps:
        weights = m.of(m.pixels // 2)
        assert weights.shape == (m.heads[1] - m.heads[0], *m.size)
        assert float(weights.min()) >= 0 and float(weights.sum((1, 2)).max()) < 1 + 1e-4
        assert float(weights.sum((1, 2)).min()) > 0
        for head in profile(m, size, most=3):
            assert 0 <= head["distance"] <= sum(size) and head["entropy"] >= -1e-6 and -1e-4 <= head["outside"] < 1


def test_one_image_at_a_time():
    model = backbones.create_model("test_davit").eval()
    with torch.no_grad(), record(model) as visits:
        model(torch.randn(2, 3, 64, 64))
    with pytest.raises(ValueError, match="one image at a time, not 2"):
        attention_maps(visits, (64, 64))


def test_profile_by_hand():
    torch.manual_seed(0)
    weights = torch.rand(1, 2, 6, 6)
    weights /= weights.sum(-1, keepdim=True)
    every = torch.arange(6)[None]
    m = PixelAttention("a", "whole map", 0, (0, 2), (2, 3), Scores(weights), every, every)
    for head, row in enumerate(profile(m, (20, 60))):
        distance = entropy = 0.0
        for i in range(6):
            for j in range(6):
                w = float(weights[0, head, i, j])
                distance += w * ((10 * (i // 3 - j // 3)) ** 2 + (20 * (i % 3 - j % 3)) ** 2) ** 0.5 / 6
                entropy -= w * torch.tensor(w).log().item() / 6
        assert row["distance"] == pytest.approx(distance, rel=1e-4)
        assert row["entropy"] == pytest.approx(entropy, rel=1e-4) and row["outside"] == pytest.approx(0, abs=1e-5)


def rollout_by_hand(model: nn.Module, image: Tensor) -> Tensor:
    """iLLaMA's, from its queries and keys."""
    total = None
    x = model.stem(image.movedim(1, -1))
    count = x.shape[1]
    for block in model.stages[0].blocks:
        attn = block.attn
        rope = rotary_table(x, x.shape[-1] // attn.num_heads)
        y = block.norm1(x)
        maps = []
        for h in range(attn.num_heads):
            d = x.shape[-1] // attn.num_heads
            q, k = (attn.qkv(y)[0, :, i * x.shape[-1] + h * d :][:, :d] for i in (0, 1))
            turned = []
            for t in (q, k):
                pairs = torch.view_as_complex(t.reshape(count, -1, 2).contiguous())
                turned.append(torch.view_as_real(pairs * torch.view_as_complex(rope)).flatten(1))
            weights = (turned[0] @ turned[1].T / d**0.5).softmax(-1)
            maps.append(torch.tril(weights))
        mean = sum(maps) / len(maps)
        mixed = 0.5 * mean / mean.sum(1, keepdim=True) + 0.5 * torch.eye(count)
        total = mixed if total is None else mixed @ total
        x = block(x, rope)
    return total[-1, :-1]


def test_rollout_by_hand():
    torch.manual_seed(0)
    model = backbones.create_model("test_illama", img_size=(48, 64)).eval()
    image = torch.randn(1, 3, 48, 64)
    with torch.no_grad(), record(model) as visits:
        model(image)
    found = rollout(attention_maps(visits, (48, 64)))
    with torch.no_grad():
        torch.testing.assert_close(found.flatten(), rollout_by_hand(model, image), atol=1e-5, rtol=1e-4)
    assert found.shape == (3, 4)


def test_rollout_of_timms_and_of_windows():
    model = timm.create_model("test_vit").eval()
    with torch.no_grad(), record(model) as visits:
        model(torch.randn(1, 3, 160, 160))
    assert rollout(attention_maps(visits, (160, 160))).shape == (10, 10)
    with pytest.raises(ValueError, match="between all patches and a class token"):
        rollout(run("window")[2])


def zeroed(layer: nn.Module, output: Tensor, head: int) -> Tensor:
    return torch.cat([torch.zeros_like(p) if h == head else p for h, p in enumerate(output.chunk(HEADS, -1))], -1)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("head", range(HEADS))
@torch.no_grad()
def test_a_masked_head_gives_nothing(case, head):
    """The projections of these layers are identities, so that a head is a slice of the result."""
    layer, out, maps = run(case)
    torch.manual_seed(0)
    layer, call = CASES[case](names(torch.randn(1, N, DIM)))
    (m,) = (m for i, m in enumerate(maps) if sum(n.heads[1] - n.heads[0] for n in maps[:i]) <= head < HEADS
            and sum(n.heads[1] - n.heads[0] for n in maps[: i + 1]) > head)  # fmt: skip
    before = sum(n.heads[1] - n.heads[0] for n in maps[: maps.index(m)])
    with record(nn.Sequential(layer), (m.layer, m.call, m.heads[0] + head - before)):
        masked = call()
    torch.testing.assert_close(masked, zeroed(layer, out, head), atol=1e-5, rtol=1e-4)


def test_importance_by_hand():
    torch.manual_seed(0)
    model = backbones.create_model("test_davit", num_classes=5).eval()
    nn.init.normal_(model.head.fc.weight)
    images = torch.randn(3, 3, 64, 64)
    name, layer = next((n, m) for n, m in model.named_modules() if isinstance(m, WindowAttention) and m.num_heads > 1)
    found = head_importance(model, images, [(name, 0, 1)])
    d = layer.proj.in_features // layer.num_heads
    with torch.no_grad():
        before = model(images).log_softmax(1)
        layer.proj.weight[:, d : 2 * d] = 0
        after = model(images).log_softmax(1)
    expected = [float(before[i, before[i].argmax()] - after[i, before[i].argmax()]) for i in range(3)]
    assert found == pytest.approx([sum(expected) / 3], rel=1e-3, abs=1e-5) and abs(found[0]) > 1e-5


@torch.no_grad()
def test_kernels_make_the_result():
    """What the layer gives is what its kernels, pixel by pixel, make of its input."""
    torch.manual_seed(0)
    layer = AttentiveConv(6)
    x = torch.randn(1, H, W, 6)
    with record(nn.Sequential(layer)) as visits:
        out = layer(x)
    kernels = attentive_kernels(visits[0])
    projected = layer.x_proj(x)[0]
    expected = torch.zeros(H, W, 6)
    for y in range(H):
        for x_ in range(W):
            for i in range(3):
                for j in range(3):
                    if 0 <= y + i - 1 < H and 0 <= x_ + j - 1 < W:
                        expected[y, x_] += kernels[:, i, j] * projected[y + i - 1, x_ + j - 1]
    torch.testing.assert_close(layer.proj(expected), out[0], atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(visits[0].output, out)
