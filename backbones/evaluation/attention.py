"""What a pixel attends to in any attention layer, as weights over the pixels of its map.

``record`` runs a model with hooks on its attention layers and a function mode around them. The mode sees every
``scaled_dot_product_attention`` and every softmax: with it the layers take their plain forms, and nothing of it is left
when the call ends. Each kind of layer has a row in ``VIEWS`` that says which pixels its queries and keys are.
"""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from timm.models.vision_transformer import Attention as TimmAttention
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from backbones.layers import (
    AggregatedAttention,
    AttentiveConv,
    CausalRopeAttention,
    ChannelGroupAttention,
    GlobalCosineAttention,
    HaloAttention,
    HiLoAttention,
    HybridAttention,
    LargeKernelAttention,
    LePEAttention,
    NeighborhoodAttention,
    ProxyTokenAttention,
    SelfGuidedAttention,
    SuperTokenAttention,
    WindowAttention,
)
from backbones.layers.adaptive_pool import adaptive_bins
from backbones.layers.functional import neighborhood_tiles, pad_to_multiple, window_partition
from backbones.layers.window_grid import WindowGrid
from backbones.models.ptdit import Block as PTDiTBlock

__all__ = ["PixelAttention", "Visit", "attention_maps", "attentive_kernels", "mask_head", "record", "rollout"]

SOFTMAX = (torch.softmax, torch.Tensor.softmax, F.softmax)


# What is recorded -----------------------------------------------------------------------------------------------------


@dataclass
class Scores:
    """Attention weights of G groups of T queries and M keys, of which rows are computed when they are asked for."""

    q: Tensor  # (G, nh, T, d), or the weights (G, nh, T, M) where the layer computes them itself
    k: Tensor | None = None  # (G, nh, M, d)
    bias: Tensor | None = None  # (G, nh, T, M), added to the logits
    scale: float = 1.0

    def row(self, group: int, query: int) -> Tensor:
        """(nh, M)"""
        if self.k is None:
            return self.q[group, :, query].float()
        logits = torch.einsum("hd,hmd->hm", self.q[group, :, query].float(), self.k[group].float()) * self.scale
        if self.bias is not None:
            bias = self.bias[group, :, query]
            logits = logits.masked_fill(~bias, -math.inf) if bias.dtype == torch.bool else logits + bias.float()
        return logits.softmax(-1)

    def regroup(self, groups: int) -> "Scores":
        """(1, G * nh, ...) -> (G, nh, ...)"""
        q, k, bias = (x if x is None else x.reshape(groups, -1, *x.shape[2:]) for x in (self.q, self.k, self.bias))
        return Scores(q, k, bias, self.scale)  # type: ignore[arg-type]

    @property
    def key_count(self) -> int:
        return self.q.shape[3] if self.k is None else self.k.shape[2]


@dataclass
class Visit:
    """One call of an attention layer."""

    name: str
    module: nn.Module
    inputs: tuple[Any, ...]
    calls: list[Scores] = field(default_factory=list)  # its attentions and softmaxes, in order
    output: Any = None
    gate: Tensor | None = None  # of a large-kernel attention: what multiplies its input

    @property
    def size(self) -> tuple[int, int]:
        """Rows and columns of the map that the layer gets."""
        return self.inputs[0].shape[1], self.inputs[0].shape[2]


class _Mode(TorchFunctionMode):
    """Sees the attentions of the layer that is running, and silences a head of one of them."""

    def __init__(self, masked: "tuple[str, int, int] | None") -> None:
        super().__init__()
        self.running: list[Visit] = []
        self.masked = masked

    def silence(self, weights: Tensor, call: int, axis: int, count: int | None = None) -> Tensor:
        if self.masked is None or (self.running[-1].name, call) != self.masked[:2]:
            return weights
        silent = weights.clone()
        if count is not None:  # (B, G * nh, ...): the heads of neighbourhoods are the last part of the axis
            silent.unflatten(axis, (-1, count)).select(axis + 1, self.masked[2]).zero_()
        else:
            silent.select(axis, self.masked[2]).zero_()
        return silent

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        if not self.running:
            return result
        visit = self.running[-1]
        call = len(visit.calls)
        if func is F.scaled_dot_product_attention:
            q, k = args[0].detach(), args[1].detach()
            bias = kwargs.get("attn_mask", args[3] if len(args) > 3 else None)
            if bias is not None:
                bias = bias.detach().expand(*q.shape[:3], k.shape[2])
            visit.calls.append(Scores(q, k, bias, kwargs.get("scale") or q.shape[-1] ** -0.5))
            return self.silence(result, call, 1, getattr(visit.module, "num_heads", None))
        if func in SOFTMAX:
            visit.calls.append(Scores(result.detach()))
            return self.silence(result, call, 0 if result.ndim == 3 else 1)
        return result


@contextmanager
def record(model: nn.Module, masked: tuple[str, int, int] | None = None) -> Iterator[list[Visit]]:
    """Visits of the attention layers of every forward pass inside the block, in order.

    Args:
        model: Any model.
        masked: (name of a layer, which of its attentions, head): the head's result is zero meanwhile.
    """
    visits: list[Visit] = []
    mode = _Mode(masked)
    handles = []

    def watch(name: str, module: nn.Module) -> None:
        def enter(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            visits.append(Visit(name, module, (*args, *kwargs.values())))
            mode.running.append(visits[-1])

        def leave(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
            mode.running.pop().output = output

        handles.append(module.register_forward_pre_hook(enter, with_kwargs=True))
        handles.append(module.register_forward_hook(leave))
        if isinstance(module, LargeKernelAttention):

            def keep(child: nn.Module, args: tuple[Any, ...], output: Tensor) -> None:
                mode.running[-1].gate = output.detach()

            handles.append(module.mix.register_forward_hook(keep))

    kinds = (*VIEWS, AttentiveConv, ChannelGroupAttention, LargeKernelAttention)
    for name, module in model.named_modules():
        if isinstance(module, kinds):
            watch(name, module)
    try:
        with mode:
            yield visits
    finally:
        for handle in handles:
            handle.remove()


# Attention of pixels --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Links:
    """Which pixels belong to which cells, and how much: entries of a sparse matrix."""

    pixel: Tensor
    cell: Tensor
    share: Tensor

    def of(self, pixel: int) -> tuple[Tensor, Tensor]:
        """Cells of a pixel, and its shares in them."""
        mine = self.pixel == pixel
        return self.cell[mine], self.share[mine]


@dataclass(frozen=True)
class PixelAttention:
    """Attention of one kind in one layer, of one image.

    Attributes:
        layer: The layer's name in the model.
        kind: What the attention is between.
        call: Which of the layer's attentions it is.
        heads: First head and the one after the last.
        size: Rows and columns of the map.
        scores: Weights of queries for keys.
        queries: (G, T) pixel of each query, -1 for padding; from H * W on tokens beside the map. With ``members``,
            the cell.
        keys: (G, M) pixel of each key, or cell if there are ``cells``; -1 for what is out of the map.
        cells: What a key is made of, where it is more than a pixel; shares of a cell add up to 1, or less at a border.
        members: In which queries a pixel takes part, where queries are not pixels.
    """

    layer: str
    kind: str
    call: int
    heads: tuple[int, int]
    size: tuple[int, int]
    scores: Scores
    queries: Tensor
    keys: Tensor
    cells: Links | None = None
    members: Links | None = None

    @property
    def pixels(self) -> int:
        return self.size[0] * self.size[1]

    def row(self, pixel: int) -> Tensor:
        """Weights of a pixel for the keys of its group, (heads, M); those of the queries it takes part in are mixed."""
        if self.members is not None:
            queries, shares = self.members.of(pixel)
            rows = [share * self.scores.row(0, int(q)) for q, share in zip(queries, shares)]
            return torch.stack(rows).sum(0)[slice(*self.heads)]
        return self.scores.row(*self.place(pixel))[slice(*self.heads)]

    def place(self, pixel: int) -> tuple[int, int]:
        """Group and query of a pixel; of the nearest above and left of it where it is no query, as with strides."""
        found = (self.queries == pixel).nonzero()
        if not len(found) and pixel < self.pixels:
            W = self.size[1]
            valid = (self.queries >= 0) & (self.queries < self.pixels)
            apart = (self.queries // W - pixel // W).square() + (self.queries % W - pixel % W).square()
            apart = apart.masked_fill(~valid, torch.iinfo(apart.dtype).max)
            found = (apart == apart.min()).nonzero()
        return int(found[0, 0]), int(found[0, 1])

    def of(self, pixel: int) -> Tensor:
        """Weights of a pixel (row * W + column, or H * W for the first token beside the map): (heads, H, W).

        They add up to 1 less what lies on padding, beyond the border, on masked keys and on tokens beside the map.
        """
        row = self.row(pixel)
        keys = self.keys[0 if self.members is not None else self.place(pixel)[0]]
        inside = keys >= 0
        count = int(self.keys.max()) + 1
        onto = row.new_zeros(len(row), max(count, self.pixels)).index_add_(1, keys[inside], row[:, inside])
        if self.cells is not None:
            parts = onto[:, self.cells.cell] * self.cells.share
            onto = row.new_zeros(len(row), self.pixels).index_add_(1, self.cells.pixel, parts)
        return onto[:, : self.pixels].unflatten(1, self.size)

    def query_pixels(self) -> list[int]:
        """Pixels that have a query of their own."""
        if self.members is not None:
            return sorted(set(self.members.pixel.tolist()))
        flat = self.queries.flatten()
        return sorted(set(flat[(flat >= 0) & (flat < self.pixels)].tolist()))


def _index(H: int, W: int) -> Tensor:
    return torch.arange(H * W).view(1, H, W, 1)


def _padded(H: int, W: int, multiple: int) -> Tensor:
    """Indices of the pixels of a map with its padding, which is -1: (1, H', W', 1)"""
    return pad_to_multiple(_index(H, W) + 1, multiple) - 1


def _windows(H: int, W: int, side: int) -> Tensor:
    return window_partition(_padded(H, W, side), side)[..., 0]


def _make(visit: Visit, kind: str, call: int, scores: Scores, queries: Tensor, keys: Tensor, **more: Any) -> Any:
    heads = more.pop("heads", (0, scores.q.shape[1]))
    size = more.pop("size", None) or visit.size
    return PixelAttention(visit.name, kind, call, heads, size, scores, queries, keys, **more)


def _window(visit: Visit, image: tuple[int, int]) -> list[PixelAttention]:
    windows = _windows(*visit.size, visit.module.window_size)
    return [_make(visit, "window", 0, visit.calls[0], windows, windows)]


def _grid_cells(H: int, W: int, side: int) -> Links:
    """Square cells of a map, of which each pixel is 1 / side^2."""
    y, x = torch.arange(H)[:, None], torch.arange(W)[None]
    cell = (y // side * -(-W // side) + x // side).flatten()
    return Links(torch.arange(H * W), cell, torch.full((H * W,), 1 / side**2))


def _hilo(visit: Visit, image: tuple[int, int]) -> list[PixelAttention]:
    module, (H, W) = visit.module, visit.size
    side = module.window_size
    found = []
    if module.hi_heads:
        windows = _windows(H, W, side)
        found.append(_make(visit, "Hi-Fi: window", 0, visit.calls[0], windows, windows))
    if module.lo_heads:
        call = len(visit.calls) - 1
        queries = _padded(H, W, side).view(1, -1)
        keys = torch.arange(visit.calls[call].key_count)[None]
        cells = _grid_cells(H, W, side)
        found.append(_make(visit, "Lo-Fi: pooled map", call, visit.calls[call], queries, keys, cells=cells))
    return found


def _halo(visit: Visit, image: tuple[int, int]) -> list[PixelAttention]:
    module = visit.module
    index = _padded(*visit.size, module.block_size)[..., 0]  # (1, H', W')
    stride, side = module.query_stride, module.block_size + 2 * module.halo_size
    queries = window_partition(index[:, ::stride, ::stride, None], module.block_size // stride)[..., 0]
    around = F.pad(index, (module.halo_size,) * 4, value=-1)
    keys = around.unfold(1, side, module.block_size).unfold(2, side, module.block_size).flatten(0, 2).flatten(1)
    return [_make(visit, "block and halo", 0, visit.calls[0], queries, keys)]


def _neighborhood(visit: Visit, image: tuple[int, int]) -> list[PixelAttention]:
    module, (H, W) = visit.module, visit.size
    least = module.kernel_size * module.dilation
    padded_h, padded_w = max(H, least), max(W, least)
    tiles = neighborhood_tiles(padded_h, padded_w, module.kernel_size, module.dilation)
    index = F.pad(_index(H, W)[0, ..., 0], (0, padded_w - W, 0, padded_h - H), value=-1).flatten()
    queries, keys = index[tiles.queries].view(len(tiles.keys), -1), index[tiles.keys]
    return [_make(visit, "neighbourhood", 0, visit.calls[0].regroup(len(keys)), queries, keys)]


def _aggregated(visit: Visit, image: tuple[int, int]) -> list[PixelAttention]:
    """The softmax over neighbours and pooled pixels, without the weights that a query adds to its neighbours alone."""
    (H, W), ratio = visit.size, visit.module.sr_ratio
    tiles = neighborhood_tiles(H, W, 3, cut=True)
    rows, columns = (adaptive_bins(side, max(side // ratio, 1), torch.device("cpu")) for side in (H, W))
    pooled = torch.einsum("ah,bw->abhw", rows, columns).flatten(2).flatten(0, 1)  # what each pixel is of each cell
    cell, pixel = pooled.nonzero(as_tuple=True)
    every = torch.arange(H * W)  # keys that are pixels come first
    cells = Links(
        torch.cat([every, pixel]), torch.cat([every, H * W + cell]), torch.cat([torch.ones(H * W), pooled[cell, pixel]])
    )
    groups = len(tiles.keys)
    keys = torch.cat([tiles.keys, H * W + torch.arange(len(pooled)).expand(groups, -1)], dim=1)
    scores, queries = visit.calls[0].regroup(groups), tiles.queries.view(groups, -1)
    return [_make(visit, "neighbours and pooled map", 0, scores, queries, keys, cells=cells)]


def super_token_links(visit: Visit) -> tuple[Links, Links]:
    """How pixels belong to super tokens (for each pixel 1 in all), and what these are made of (1 for each in all)."""
    module, (H, W) = visit.module, visit.size
    side = module.cell_size
    x = pad_to_multiple(visit.inputs[0].detach()[:1], side)
    padded_h, padded_w = x.shape[1], x.shape[2]
    rows, columns = padded_h // side, padded_w // side
    with torch.no_grad():
        weight = module.association(x)[0].float().cpu()  # (H', W', 9)
    k = torch.arange(9)
    y = torch.arange(padded_h)[:, None, None] // side + k // 3 - 1
    x = torch.arange(padded_w)[None, :, None] // side + k % 3 - 1
    pixel = F.pad(_index(H, W)[0, ..., 0], (0, padded_w - W, 0, padded_h - H), value=-1)[..., None].expand(-1, -1, 9)
    exists = (y >= 0) & (y < rows) & (x >= 0) & (x < columns)
    cell, weight, pixel = (y * columns + x)[exists], weight[exists], pixel[exists]
    total = torch.zeros(rows * columns).index_add_(0, cell, weight)
    real = pixel >= 0
    pixel, cell, weight = pixel[real], cell[real], weight[real]
    return Links(pixel, cell, weight), Links(pixel, cell, weight / total[cell])


def _super_token(visit: Visit, image: tuple[int, int]) -> list[PixelAttention]:
    H, W = visit.size
    if visit.module.cell_size == 1:
        every = torch.arange(H * W)[None]
        return [_make(visit, "whole map", 0, visit.calls[0], every, every)]
    members, cells = super_token_links(visit)
    every = torch.arange(visit.calls[1].key_count)[None]
    return [_make(visit, "super tokens", 1, visit.calls[1], every, every, cells=cells, members=members)]


def _whole(visit: Visit, image: tuple[int, int]) -> list[PixelAttention]:
    every = torch.arange(visit.size[0] * visit.size[1])[None]
    return [_make(visit, "whole map", 0, visit.calls[0], every, every)]


def _hybrid(visit: Visit, image: tuple[int, int]) -> list[PixelAttention]:
    module, (H, W) = visit.module, visit.size
    far, near = visit.calls
    keys = torch.arange(far.key_count)[None]
    cells, windows = _grid_cells(H, W, module.sr_ratio), _windows(H, W, module.window_size)
    return [
        _make(visit, "strided tokens", 0, far, torch.arange(H * W)[None], keys, cells=cells),
        _make(visit, "window", 1, near, windows, windows),
    ]


def merged_groups(visit: Visit) -> tuple[Links, Links]:
    """Which pixels a self-guided attention merges into its tokens, by the order of rows and by that of columns.

    The learned weights of a group are left out: all its pixels have the same share.
    """
    significance = visit.inputs[1][:1]
    found = []
    for order in visit.module.orders(significance):
        order, count = order[0].cpu(), 0
        pixels, cells, shares = [], [], []
        for merge in visit.module.merge:
            start, stop, size = len(order) * merge.start // 4, len(order) * merge.stop // 4, merge.weight.shape[1]
            runs = -(-(stop - start) // size)
            position = start + torch.arange(runs * size) * (stop - start) // max(runs * size, 1)
            pixels.append(order[position])
            cells.append(count + torch.arange(runs).repeat_interleave(size))
            shares.append(torch.full((runs * size,), 1 / size))
            count += runs
        found.append(Links(torch.cat(pixels), torch.cat(cells), torch.cat(shares)))
    return found[0], found[1]


def _self_guided(visit: Visit, image: tuple[int, int]) -> list[PixelAttention]:
    scores, half = visit.calls[0], visit.module.num_heads // 2
    queries = torch.arange(visit.size[0] * visit.size[1])[None]
    keys = torch.arange(scores.key_count)[None]
    return [
        _make(visit, f"merged pixels, ties by {axis}", 0, scores, queries, keys, heads=heads, cells=cells)
        for axis, heads, cells in zip(("rows", "columns"), ((0, half), (half, 2 * half)), merged_groups(visit))
    ]


def token_grid(count: int, image: tuple[int, int]) -> tuple[int, int] | None:
    """Rows and columns of square patches of which an image has ``count``."""
    stride = round(math.sqrt(image[0] * image[1] / count))
    for side in (stride, stride - 1, stride + 1):
        if side > 0 and -(-image[0] // side) * -(-image[1] // side) == count:
            return -(-image[0] // side), -(-image[1] // side)
    return None


def _causal(visit: Visit, image: tuple[int, int]) -> list[PixelAttention]:
    weights = visit.calls[0].q  # (nh, N, N) before the mask
    count = weights.shape[-1]
    rate = float(visit.module.soft_mask_rate)
    mask = torch.ones(count, count).tril() * (1 - rate) + rate
    every = torch.arange(count)[None]
    size = token_grid(count - 1, image)
    return [_make(visit, "causal", 0, Scores((weights.cpu() * mask)[None]), every, every, size=size)]


def _timm(visit: Visit, image: tuple[int, int]) -> list[PixelAttention]:
    """Tokens of a vision transformer of timm's: the class token and its like stand before the patches."""
    count = visit.inputs[0].shape[1]
    for prefix in range(6):
        size = token_grid(count - prefix, image) if count > prefix else None
        if size and visit.calls:
            index = torch.cat([torch.arange(count - prefix, count), torch.arange(count - prefix)])[None]
            return [_make(visit, "whole map", len(visit.calls) - 1, visit.calls[-1], index, index, size=size)]
    return []


def _token_windows(grid: WindowGrid) -> Tensor:
    """Pixel of each token of each window, -1 for padding, of images, which are videos of one frame: (P, n)"""
    _, H, W = grid.grid
    return grid.partition(_index(H, W).view(1, 1, H, W, 1) + 1)[0, ..., 0].cpu() - 1


def _proxy(visit: Visit, image: tuple[int, int]) -> list[PixelAttention]:
    _, grid, proxy = visit.inputs[:3]
    size = grid.grid[1:]
    pixel = _token_windows(grid)
    (wf, wh, ww), (_, ph, pw) = grid.window, proxy
    rows = torch.arange(wf * wh * ww)
    place = (rows // ww % wh) % (wh // ph) * (ww // pw) + rows % ww % (ww // pw)
    per_window = (wh // ph) * (ww // pw)
    cell = torch.arange(len(pixel))[:, None] * per_window + place
    real = pixel >= 0
    pixel, cell, queries = pixel[real], cell[real], pixel.view(1, -1)
    counts = torch.bincount(cell)
    cells = Links(pixel, cell, 1 / counts[cell])
    members = Links(pixel, cell, torch.ones(len(cell)))
    among, cross = visit.calls
    keys = torch.arange(cross.key_count)[None]
    return [
        _make(visit, "proxies among themselves", 0, among, keys, keys, cells=cells, members=members, size=size),
        _make(visit, "proxies", 1, cross, queries, keys, cells=cells, size=size),
    ]


def _ptdit_block(visit: Visit, image: tuple[int, int]) -> list[PixelAttention]:
    """Windows, and windows shifted by half; what the block's proxies do is the visit of these."""
    grid = visit.inputs[1].grid
    plain = _token_windows(grid)
    shifted = plain.flatten()[grid.shifted.cpu()].view_as(plain)
    return [
        _make(visit, "window", 0, visit.calls[0], plain, plain, size=grid.grid[1:]),
        _make(visit, "shifted window", 1, visit.calls[1], shifted, shifted, size=grid.grid[1:]),
    ]


View = Callable[[Visit, tuple[int, int]], list[PixelAttention]]
VIEWS: dict[type[nn.Module], View] = {
    WindowAttention: _window,
    HiLoAttention: _hilo,
    HaloAttention: _halo,
    NeighborhoodAttention: _neighborhood,
    SuperTokenAttention: _super_token,
    LePEAttention: _whole,
    AggregatedAttention: _aggregated,
    GlobalCosineAttention: _whole,
    HybridAttention: _hybrid,
    SelfGuidedAttention: _self_guided,
    CausalRopeAttention: _causal,
    ProxyTokenAttention: _proxy,
    PTDiTBlock: _ptdit_block,
    TimmAttention: _timm,
}


def attention_maps(visits: list[Visit], image: tuple[int, int]) -> list[PixelAttention]:
    """What is known of the attention of pixels in the layers that were visited with one image.

    Args:
        visits: Of ``record``.
        image: Height and width of the image.

    Raises:
        ValueError: If there was more than one image.
    """
    found: list[PixelAttention] = []
    for visit in visits:
        if type(visit.module) in VIEWS:
            if visit.inputs[0].shape[0] != 1:
                raise ValueError(f"attention is looked at one image at a time, not {visit.inputs[0].shape[0]}")
            found += VIEWS[type(visit.module)](visit, image)
    return found


@torch.no_grad()
def rollout(maps: list[PixelAttention]) -> Tensor:
    """Attention from the class token to the patches through all layers (Abnar, Zuidema, arXiv:2005.00928): (H, W).

    In each layer half of a token stays itself and half is the mean of the heads, rows made to add up to 1.

    Args:
        maps: Of layers whose queries and keys are all tokens, as iLLaMA's and ViT's.

    Raises:
        ValueError: If there are none, or they have no token beside the map.
    """
    tokens = [m for m in maps if m.cells is None and m.queries.shape[0] == 1 and m.queries.shape[1] == m.pixels + 1]
    if not tokens or len(tokens) != len(maps):
        raise ValueError("attention rollout needs layers between all patches and a class token, as in illama_tiny")
    total = torch.eye(tokens[0].pixels + 1)
    for m in tokens:
        count, order = m.pixels + 1, m.queries[0].argsort()
        mean = torch.stack([m.scores.row(0, int(q)).mean(0) for q in order]).cpu()[:, order]
        mixed = mean / mean.sum(1, keepdim=True) / 2 + torch.eye(count) / 2
        total = mixed @ total
    return total[-1, :-1].view(tokens[0].size)


# Heads ----------------------------------------------------------------------------------------------------------------


@torch.no_grad()
def profile(attention: PixelAttention, image: tuple[int, int], most: int = 64) -> list[dict[str, float]]:
    """Of every head: mean distance, entropy, and weight outside the map, over queries spread evenly over the map.

    Args:
        attention: One kind of attention of one layer.
        image: Height and width of the image; distances are in its pixels.
        most: Queries that are looked at.

    Returns:
        A row a head: ``distance`` (weighted mean of the distances of pixel centres, over the part inside the map),
        ``entropy`` in nats of the weights over keys, ``outside``.
    """
    H, W = attention.size
    scale_y, scale_x = image[0] / H, image[1] / W
    pixels = attention.query_pixels()
    step = max(1, len(pixels) / most)
    chosen = [pixels[int(i * step)] for i in range(min(most, len(pixels)))]
    y, x = torch.meshgrid(torch.arange(H) * scale_y, torch.arange(W) * scale_x, indexing="ij")
    distance, entropy, outside = [], [], []
    for pixel in chosen:
        row, weights = attention.row(pixel).cpu(), attention.of(pixel).cpu()
        away = torch.hypot(y - pixel // W * scale_y, x - pixel % W * scale_x)
        inside = weights.sum((1, 2))
        distance.append((weights * away).sum((1, 2)) / inside.clamp(min=1e-12))
        share = row / row.sum(1, keepdim=True).clamp(min=1e-12)
        entropy.append(-torch.special.xlogy(share, share).sum(1))
        outside.append(1 - inside)
    columns = [torch.stack(values).mean(0).tolist() for values in (distance, entropy, outside)]
    return [dict(zip(("distance", "entropy", "outside"), row)) for row in zip(*columns)]


@torch.no_grad()
def mask_head(model: nn.Module, images: Tensor, layer: str, call: int, head: int) -> Tensor:
    """Logits without the result of a head: (B, 3, H, W) -> (B, classes)"""
    with record(model, (layer, call, head)):
        return model(images)


@torch.no_grad()
def head_importance(model: nn.Module, images: Tensor, heads: list[tuple[str, int, int]]) -> list[float]:
    """By how much the log-probability of the predicted class falls, on average, when a head gives nothing.

    Args:
        model: A classifier.
        images: (B, 3, H, W)
        heads: (layer, which of its attentions, head) of each.
    """
    before = model(images).log_softmax(-1)
    predicted = before.argmax(-1, keepdim=True)
    found = []
    for layer, call, head in heads:
        after = mask_head(model, images, layer, call, head).log_softmax(-1)
        found.append(float((before - after).gather(1, predicted).mean()))
    return found


@torch.no_grad()
def head_effect(model: nn.Module, run: Callable[[], Tensor], heads: list[tuple[str, int, int]]) -> list[float]:
    """By how much what a model gives changes when a head gives nothing, of models that are no classifiers.

    Args:
        model: Any model.
        run: Calls it, and returns its result.
        heads: (layer, which of its attentions, head) of each.

    Returns:
        Root mean square of the difference, as a share of the result's own; 0 where the result is 0, as of an untrained
        generator.
    """
    before = run()
    size = before.square().mean().sqrt().clamp(min=1e-12)
    found = []
    for masked in heads:
        with record(model, masked):
            found.append(float((run() - before).square().mean().sqrt() / size))
    return found


def attentive_kernels(visit: Visit) -> Tensor:
    """Kernels that an ``AttentiveConv`` made from the first image it was called with: (dim, k, k)"""
    with torch.no_grad():
        return visit.module.kernels(visit.inputs[0].detach()[:1])[0].float().cpu()
