"""Diffusers' transformers as baselines: they are what their names say, and the tools take them and PT-DiT."""

import pytest
import torch

import backbones
from backbones.cli.benchmarking.measuring import Candidate, Settings, make_step
from backbones.cli.complexity import count_model, main
from tools import diffusion_baselines

pytestmark = pytest.mark.slow  # importing diffusers alone takes seconds


@pytest.mark.parametrize("kind", ["dit", "pixart"])
@pytest.mark.parametrize("size", [16, 32])
def test_costs_are_those_of_full_attention(kind: str, size: int) -> None:
    spec = f"tools.diffusion_baselines:{kind}_s_2"
    found, _ = count_model(spec, (size, size))
    shallow, _ = count_model(spec.replace("_2", "_1"), (size, size))
    tokens, dim, words = (size // 2) ** 2, 288, 120
    attention = 2 * tokens**2 * dim
    linear = 12 * tokens * dim**2
    if kind == "pixart":
        attention += 2 * tokens * words * dim
        linear += 2 * (tokens + words) * dim**2
    else:
        linear += 6 * dim**2 + 2 * dim * dim + 256 * dim  # modulation, and each block's own embedding of the time
    block = found.macs - shallow.macs
    assert found.macs_attention - shallow.macs_attention == attention
    assert block - attention == pytest.approx(linear, rel=0.01)  # norms count a little
    assert not found.unsupported


def test_names_say_width_and_depth() -> None:
    for name in ("dit_b", "dit_b768", "pixart_xl"):
        with torch.device("meta"):
            model = getattr(diffusion_baselines, name)().model
        width, depth, heads = diffusion_baselines.SIZES[name.partition("_")[2]]
        assert (model.inner_dim, model.config.num_layers, model.config.num_attention_heads) == (width, depth, heads)
    for size in ("s_class", "b_text", "l_class", "xl_text", "h_text"):
        config = backbones.create_model(f"ptdit_{size}", device="meta").cfg
        expected = diffusion_baselines.SIZES[size.partition("_")[0]]
        assert (config.embed_dim, config.depth, config.num_heads) == expected
    with torch.device("meta"):
        assert len(diffusion_baselines.ptdit_b_class_3().stages[0].blocks) == 3
    with pytest.raises(AttributeError, match="no attribute 'dit_m'"):
        diffusion_baselines.dit_m()
    with pytest.raises(ValueError, match=r"square latents only, got \(16, 32\)"):
        diffusion_baselines.dit_s_1().set_input_size((16, 32))


@pytest.mark.parametrize("mode", ["inference", "train"])
@pytest.mark.parametrize("spec", ["test_ptdit", "tools.diffusion_baselines:dit_s_1"])
def test_a_step_runs(spec: str, mode: str) -> None:
    make_step(Candidate(spec, (16, 16)), mode, Settings(batch_size=2))()


def test_command_tells_the_part_of_attention(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["test_ptdit", "--img-size", "32", "--attention"]) == 0
    header, _, row = capsys.readouterr().out.splitlines()[:3]
    assert header.split()[-3:] == ["GMACs", "of", "attention"]
    # 16 x 16 tokens in 64 windows of 4: proxies among themselves, tokens to proxies, two kinds of windows; 4 blocks
    products = 4 * 2 * 64 * (64 * 64 + 256 * 64 + 2 * 256 * 4)
    assert row.split()[-1] == f"{products / 1e9:.3f}"
