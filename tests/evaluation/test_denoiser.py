"""PT-DiT as it is looked at: its input, and the attention of windows and proxies against slow computations."""

import pytest
import torch
from torch import Tensor, nn

import backbones
from backbones.diffusion import Autoencoder, add_noise
from backbones.evaluation.attention import PixelAttention, attention_maps, head_effect, record
from backbones.evaluation.denoiser import Denoiser, make_denoiser, read_condition
from tests.tiny_encoders import awaken, write_autoencoder

PATCH, SIDE = 2, 2  # latents of a token, tokens of a window


def denoiser(size=(12, 20), **options) -> Denoiser:
    model = awaken(backbones.create_model("test_ptdit", in_chans=1, num_classes=5))
    return make_denoiser(model, "test_ptdit", "random", True, size, **options)


def rows_of(layer: nn.Module, queries: Tensor, keys: Tensor, seen: Tensor | None = None) -> Tensor:
    """Attention of tokens by the definition, one head after the other: (n, C), (m, C) -> (nh, n, m)"""
    q, k = layer.q(queries).chunk(layer.num_heads, -1), layer.k(keys).chunk(layer.num_heads, -1)
    logits = torch.stack([a @ b.T / a.shape[-1] ** 0.5 for a, b in zip(q, k)])
    return (logits if seen is None else logits.masked_fill(~seen, -torch.inf)).softmax(-1)


@pytest.mark.parametrize("size", [(16, 16), (12, 20), (14, 10)], ids=str)
@torch.no_grad()
def test_windows_and_proxies_by_hand(size):
    encoder = denoiser(size)
    block = encoder.model.stages[0].blocks[1]
    inputs: dict[str, tuple] = {}
    for name in ("attn", "shifted_attn", "proxy.attn", "proxy.cross_attn"):
        layer = block.get_submodule(name)
        layer.register_forward_pre_hook(
            lambda module, args, kwargs, name=name: inputs.update({name: args}), with_kwargs=True
        )
    torch.manual_seed(0)
    x = torch.randn(1, 1, *size)
    with record(encoder.model) as visits:
        encoder.run(x)
    maps = {m.kind: m for m in attention_maps(visits, size) if m.layer.startswith("stages.0.blocks.1")}
    assert set(maps) == {"proxies among themselves", "proxies", "window", "shifted window"}
    grid = next(visit.inputs[1].grid for visit in visits if visit.module is block)
    _, H, W = grid.grid
    _, padded_h, padded_w = grid.padded
    y, x = (t.flatten() for t in torch.meshgrid(torch.arange(H), torch.arange(W), indexing="ij"))

    def pixels(tokens: Tensor) -> Tensor:
        return grid.unpartition(tokens)[0, 0].flatten(0, 1)

    def same(*marks: Tensor) -> Tensor:
        return torch.stack([mark[:, None] == mark for mark in marks]).all(0)

    def compare(m: PixelAttention, expected: Tensor) -> None:
        assert m.size == (H, W)
        for pixel in range(H * W):
            torch.testing.assert_close(m.of(pixel).flatten(1), expected[:, pixel], atol=1e-5, rtol=1e-4)

    window = same(y // SIDE, x // SIDE)
    tokens = pixels(inputs["attn"][0])
    compare(maps["window"], rows_of(block.attn, tokens, tokens, window))

    # where a token is after the shift; those that came round the border are apart
    half = SIDE // 2
    shifted_y, shifted_x = (y - half) % padded_h, (x - half) % padded_w
    shifted = same(shifted_y // SIDE, shifted_x // SIDE, y < half, x < half)
    tokens = pixels(grid.unshift(inputs["shifted_attn"][0]))
    compare(maps["shifted window"], rows_of(block.shifted_attn, tokens, tokens, shifted))

    columns = padded_w // SIDE
    proxy = y // SIDE * columns + x // SIDE
    parts = nn.functional.one_hot(proxy, columns * padded_h // SIDE).float()
    parts = parts / parts.sum(0).clamp(min=1)  # (pixels, proxies), what a proxy is the mean of
    proxies = inputs["proxy.attn"][0][0]
    among = rows_of(block.proxy.attn, proxies, proxies)
    compare(maps["proxies among themselves"], torch.einsum("hpq,nq->hpn", among, parts)[:, proxy])
    queries, keys = inputs["proxy.cross_attn"][:2]
    cross = rows_of(block.proxy.cross_attn, pixels(queries.unflatten(1, (-1, SIDE**2))), keys[0])
    compare(maps["proxies"], torch.einsum("hpq,nq->hpn", cross, parts))


@torch.no_grad()
def test_it_reads_latents_with_the_noise_of_a_time():
    encoder = denoiser(time=300.0, condition={"y": torch.tensor([3])})
    images = torch.rand(2, 1, 12, 20) * 2 - 1
    times = torch.full((2,), 300.0)
    mixed = add_noise(images, encoder.noise().expand(2, -1, -1, -1), times)
    expected = encoder.model(mixed, times, y=torch.tensor([3, 3]))
    torch.testing.assert_close(encoder.run(images), expected)
    other = encoder.model(mixed, times)
    assert not torch.allclose(expected, other)  # the class matters
    maps = encoder.model.forward_intermediates(mixed, [2], norm=True, timesteps=times, y=torch.tensor([3, 3]))[1][0]
    torch.testing.assert_close(encoder.maps(images, 2), maps.permute(0, 2, 3, 1))
    torch.testing.assert_close(encoder.pictures(images)[..., 1], images[:, 0] / 2 + 0.5)


@torch.no_grad()
def test_noise_alone_and_an_autoencoder(tmp_path):
    model = backbones.create_model("test_ptdit")
    alone = make_denoiser(model, "test_ptdit", "random", False)
    noise = alone.read([])
    assert noise.shape == (1, 4, 16, 16) and alone.time == 1000
    assert torch.equal(alone.noisy(noise), noise) and torch.equal(noise, alone.read([]))
    assert alone.pictures(noise).shape == (1, 16, 16, 3)

    vae = Autoencoder(write_autoencoder(tmp_path / "vae"))
    encoder = make_denoiser(model, "test_ptdit", "random", True, autoencoder=vae)
    assert encoder.img_size == (32, 32) and encoder.latent_size == (16, 16) and encoder.time == 500
    from PIL import Image

    Image.effect_noise((50, 40), 90).convert("RGB").save(tmp_path / "a.png")
    latents = encoder.read([str(tmp_path / "a.png")])
    assert latents.shape == (1, 4, 16, 16) and not latents.is_inference()
    assert encoder.pictures(latents).shape == (1, 32, 32, 3)


@torch.no_grad()
def test_effect_of_a_head_by_hand():
    encoder = denoiser()
    layer = encoder.model.stages[0].blocks[2].proxy.cross_attn
    x = torch.rand(2, 1, 12, 20)
    (found,) = head_effect(encoder.model, lambda: encoder.run(x), [("stages.0.blocks.2.proxy", 1, 3)])
    before = encoder.run(x)
    d = layer.proj.in_features // layer.num_heads
    layer.proj.weight[:, 3 * d :] = 0
    after = encoder.run(x)
    assert found == pytest.approx(float((after - before).norm() / before.norm()), rel=1e-3) and found > 1e-5
    untrained = make_denoiser(backbones.create_model("test_ptdit", in_chans=1), "a", "random", True, (8, 8))
    run = lambda: untrained.run(x[..., :8, :8])  # noqa: E731
    assert head_effect(untrained.model, run, [("stages.0.blocks.0", 0, 0)]) == [0.0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(has_images=True), "reads latents of 4 channels: give --autoencoder"),
        (dict(has_images=False, time=300.0), "--time 300 is of an image"),
        (dict(has_images=False, img_size=(15, 16)), "size 15x16: both sides must be multiples of 2"),
    ],
)
def test_mistakes(options, message):
    with pytest.raises(ValueError, match=message):
        make_denoiser(backbones.create_model("test_ptdit"), "test_ptdit", "random", **options)


def test_conditions():
    classes = backbones.create_model("test_ptdit", num_classes=5)
    assert (
        read_condition(classes, 2, None, None)["y"].tolist() == [2] and read_condition(classes, None, None, None) == {}
    )
    texts = backbones.create_model("test_ptdit", num_classes=0, text_dim=8, shared_modulation=True)
    assert read_condition(texts, None, None, None)["context"].shape == (1, 1, 8)
    for arguments, message in (
        ((classes, 5, None, None), "--label 5: the model has classes 0 to 4"),
        ((texts, 0, None, None), "the model has no classes"),
        ((classes, None, "a cat", "t5"), "reads no text"),
        ((texts, None, "a cat", None), "go together"),
    ):
        with pytest.raises(ValueError, match=message):
            read_condition(*arguments)
    with pytest.raises(ValueError, match="--time 1000: from 0"):
        denoiser(time=1000.0)
