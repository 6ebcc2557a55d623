"""Writes the tables of docs/layers.md from docstrings, and draws what a pixel sees through each block.

    python tools/layers_page.py          # writes the tables, docs/layers/pixels.png and docs/families/pixels/*.png
    python tools/layers_page.py --check  # fails if the page, or what is drawn, is not what would be written

A picture is the gradient of one pixel of a block's output by all pixels of its input, for drawn weights and maps.
"""

from __future__ import annotations

import argparse
import inspect
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from backbones import layers
from backbones.kernels import planner
from backbones.layers import functional

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs/layers.md"
PICTURE = ROOT / "docs/layers/pixels.png"
FAMILY_PICTURES = ROOT / "docs/families/pixels"

SIDE = 28  # of the map
PIXEL = (12, 16)  # row and column of the one that looks
DRAWS = 8

Call = Callable[[nn.Module, Tensor], Tensor]


def _plain(block: nn.Module, x: Tensor) -> Tensor:
    y = block(x)
    return y[0] if isinstance(y, tuple) else y


def _tokens(block: nn.Module, x: Tensor) -> Tensor:
    return block(x.flatten(1, 2)).view_as(x)


def _causal(block: nn.Module, x: Tensor) -> Tensor:
    tokens = x.flatten(1, 2)
    return block(tokens, functional.rotary_table(tokens, x.shape[-1] // 2)).view_as(x)


def _windows(block: nn.Module, x: Tensor) -> Tensor:
    size = (1, 7, 7)
    grid = functional.window_grid((1, SIDE, SIDE), size, x.device)
    return grid.unpartition(block(grid.partition(x[:, None]), grid, size))[:, 0]


def _guided(block: nn.Module, x: Tensor) -> Tensor:
    rows, columns = (torch.arange(SIDE) - float(at) for at in PIXEL)
    return block(x, -torch.hypot(rows[:, None], columns[None])[None])[0]  # far pixels are the least significant


# What is drawn: the call of a constructor, which is the title, and how the block is run on a map.
SAMPLES: dict[str, Call] = {
    "Mlp(16, 32)": _plain,
    "SwiGLU(16, 32)": _plain,
    "ConvPosEnc(16)": _plain,
    "ConvMlp(16, 32)": _plain,
    "ConvGLU(16, 32)": _plain,
    "PatchEmbed(16, 16, 7, stride=4, padding=3)": _plain,
    "DeformableConv(16, 16)": _plain,
    "DeformableMerging(16, 16)": _plain,
    "LargeKernelAttention(16)": _plain,
    "AttentiveConv(16, kernel_size=3)": _plain,
    "WindowAttention(16, 2, window_size=7)": _plain,
    "HaloAttention(16, 2, block_size=7, halo_size=3)": _plain,
    "NeighborhoodAttention(16, 2, kernel_size=7)": _plain,
    "NeighborhoodAttention(16, 2, 5, dilation=4)": _plain,
    "SuperTokenAttention(16, 2, cell_size=4)": _plain,
    "AggregatedAttention(16, 2, sr_ratio=4, pretrain_side=28)": _plain,
    "HiLoAttention(16, 2, window_size=7, alpha=0.5)": _plain,
    "HybridAttention(16, 2, sr_ratio=4)": _plain,
    "SelfGuidedAttention(16, 2, ((3, 28), (1, 4)))": _guided,
    "LePEAttention(16, 2)": _plain,
    "ChannelGroupAttention(16, num_groups=2)": _plain,
    "MultiHeadAttention(16, 2)": _tokens,
    "GlobalCosineAttention(16, 2, pretrain_side=28)": _plain,
    "CausalRopeAttention(16, 2)": _causal,
    "ProxyTokenAttention(16, 2)": _windows,
}

# Of a family's page: what mixes its pixels, by the name of its file.
FAMILIES: dict[str, tuple[str, ...]] = {
    "attnet": ("AttentiveConv", "ConvGLU"),
    "davit": ("WindowAttention", "ChannelGroupAttention", "ConvPosEnc"),
    "halonet": ("HaloAttention",),
    "illama": ("CausalRopeAttention",),
    "litv2": ("HiLoAttention", "DeformableMerging", "ConvMlp"),
    "nat": ("NeighborhoodAttention",),
    "ptdit": ("ProxyTokenAttention",),
    "sgformer": ("HybridAttention", "SelfGuidedAttention", "LePEAttention"),
    "stvit": ("SuperTokenAttention", "ConvPosEnc"),
    "transnext": ("AggregatedAttention", "ConvGLU"),
    "van": ("LargeKernelAttention", "ConvMlp"),
}


def samples_of(names: Sequence[str]) -> list[str]:
    """The samples of blocks of these names, in their order."""
    return [sample for name in names for sample in SAMPLES if sample.partition("(")[0] == name]


def blocks() -> dict[str, type[nn.Module]]:
    """Public blocks by name."""
    members = {name: getattr(layers, name) for name in layers.__all__}
    return {name: m for name, m in members.items() if isinstance(m, type) and issubclass(m, nn.Module)}


# Tables ---------------------------------------------------------------------------------------------------------------

_SHAPE = r"\((?:[^()]|\([^()]*\))*\)"
_SHAPES = re.compile(rf"(?:[a-z]+: )?\((?:[BH],|\.\.\.)[^>]*?-> (?:\w+ )?{_SHAPE}(?:, (?:None|\w+ {_SHAPE}))?")
_COST = re.compile(r"Cost([,:].*?)(?:\. (?=[A-Z])|\.$)")
_SOURCE = re.compile(r"Source: (.*?)\.(?= [A-Z]|$)|\(([A-Z][^()]*arXiv:[^()]*)\)")


def _flat(text: str) -> str:
    return " ".join(inspect.cleandoc(text).split("\nArgs:")[0].split())


def describe(block: type[nn.Module]) -> dict[str, str]:
    """Shapes, cost and source of a block, from its docstring and, for the source, the first sentence of its file.

    Raises:
        ValueError: If its docstring has no shapes or no cost.
    """
    text, file = _flat(block.__doc__ or ""), inspect.getmodule(block)
    shapes, cost = _SHAPES.search(text), _COST.search(text)
    if not shapes or not cost:
        raise ValueError(f'the docstring of {block.__name__} lacks its shapes, "x: (B, ... -> (B, ...", or "Cost: ..."')
    first = (file.__doc__ or "").split("\n\n")[0] if file else ""
    source = _SOURCE.search(text) or re.search(r"\(([A-Z].*(?:arXiv:|20\d\d).*)\)", _flat(first))
    found = next((group for group in source.groups() if group), "") if source else ""
    return {"shapes": shapes[0].replace("``", ""), "cost": cost[1].lstrip(",: "), "source": found}


def _row(*cells: str) -> str:
    return "| " + " | ".join(cell.replace("|", r"\|").replace("``", "`") for cell in cells) + " |"


def tables() -> dict[str, str]:
    """The generated parts of the page by name."""
    rows = [_row("block", "shapes", "cost", "source"), "| --- | --- | --- | --- |"]
    for name, block in blocks().items():
        found = describe(block)
        rows.append(_row(f"`{name}`", f"`{found['shapes']}`", found["cost"], found["source"] or "–"))
    functions = ["| function | what it does |", "| --- | --- |"]
    for name in functional.__all__:
        what = re.split(r"(?<!\.)\.(?: |$)", _flat(getattr(functional, name).__doc__))[0]
        functions.append(_row(f"`{name}`", what))
    fusions = [line for line in (planner.__doc__ or "").splitlines() if line.startswith("|")]
    return {"blocks": "\n".join(rows), "functions": "\n".join(functions), "fusions": "\n".join(fusions)}


def page(text: str) -> str:
    """The page with the tables as they should be.

    Raises:
        ValueError: If the place of a table is not marked.
    """
    for name, table in tables().items():
        marks = f"<!-- {name} -->", f"<!-- end of {name} -->"
        before, begin, rest = text.partition(marks[0])
        _, end, after = rest.partition(marks[1])
        if not begin or not end:
            raise ValueError(f"{PAGE.name} has no {marks[0]} ... {marks[1]}")
        text = f"{before}{begin}\n\n{table}\n\n{end}{after}"
    return text


# Pictures -------------------------------------------------------------------------------------------------------------


def seen(sample: str) -> Tensor:
    """How much the pixel at ``PIXEL``, or the one at its place in a smaller map, depends on each: (SIDE, SIDE)."""
    total = torch.zeros(SIDE, SIDE)
    for seed in range(DRAWS):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            block = eval(sample, {name: getattr(layers, name) for name in layers.__all__}).eval()
            for p in block.parameters():
                if not p.any():  # what starts at zero would hide a path
                    nn.init.normal_(p, std=0.1)
            x = torch.randn(1, SIDE, SIDE, 16, requires_grad=True)
            y = SAMPLES[sample](block, x)
            row, column = (at * side // SIDE for at, side in zip(PIXEL, y.shape[1:3], strict=True))
            (grad,) = torch.autograd.grad(y[0, row, column].square().sum(), x)
        total += grad[0].norm(dim=-1)
    return total / total.max()


def sheets() -> dict[Path, list[str]]:
    """Samples by the picture that shows them: all of them on one, and a family's own."""
    own = {FAMILY_PICTURES / f"{family}.png": samples_of(names) for family, names in FAMILIES.items()}
    return {PICTURE: list(SAMPLES), **own}


def draw() -> None:
    """Draw every sheet; its record says what it shows."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    from matplotlib.colors import LogNorm

    grads = {sample: seen(sample).numpy() for sample in SAMPLES}
    for path, samples in sheets().items():
        columns = min(6, len(samples))
        rows = -(-len(samples) // columns)
        figure, axes = plt.subplots(
            rows, columns, figsize=(2.5 * columns, 2.85 * rows), layout="constrained", squeeze=False
        )
        for axis in axes.flat:
            axis.set_axis_off()
        for axis, sample in zip(axes.flat, samples, strict=False):
            name, _, arguments = sample.partition("(")
            axis.set_axis_on()
            axis.set(xticks=[], yticks=[])
            axis.imshow(grads[sample], norm=LogNorm(1e-3, 1, clip=False), cmap="viridis_r")
            axis.plot(PIXEL[1], PIXEL[0], "s", markersize=5, markerfacecolor="none", markeredgecolor="red")
            axis.set_title(f"{name}\n({arguments}", fontsize=8)
        path.parent.mkdir(exist_ok=True)
        figure.savefig(path, dpi=80, metadata={"Description": "\n".join(samples), "Software": None})
        plt.close(figure)


def recorded(path: Path) -> str | None:
    """What a picture says that it shows; None if there is none."""
    from PIL import Image

    if not path.exists():
        return None
    with Image.open(path) as picture:
        return picture.info.get("Description")


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--check", action="store_true", help="write nothing; fail if something would change")
    args = parser.parse_args(argv)
    before = PAGE.read_text()
    after = page(before)
    if not args.check:
        PAGE.write_text(after)
        draw()
        return 0
    map_to_map = re.compile(r"\(B, H, W, .*-> \(B, [^,]+, [^,]+, ")
    undrawn = {name for name, block in blocks().items() if map_to_map.search(describe(block)["shapes"])}
    undrawn -= {sample.partition("(")[0] for sample in SAMPLES}
    stale = [path.name for path, samples in sheets().items() if recorded(path) != "\n".join(samples)]
    if before == after and not stale and not undrawn:
        return 0
    print(f"{' or '.join([PAGE.name, *stale])} is stale: python tools/layers_page.py writes them", file=sys.stderr)
    if undrawn:
        print(f"SAMPLES in {Path(__file__).name} draws no {', '.join(sorted(undrawn))}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    raise SystemExit(main())
