"""Neighbourhood attention (Hassani et al., arXiv:2204.07143; dilated: arXiv:2209.15001), computed by tiles of a map."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from timm.layers import register_notrace_function, register_notrace_module, trunc_normal_
from torch import Tensor, nn

from backbones.kernels import sequential, tiled_attention
from backbones.layers.head_gate import HeadGate, gate_heads
from backbones.layers.tables import is_traced, kept_by_size
from backbones.layers.window import crop


def _tile_side(length: int, kernel_size: int) -> int:
    """Side of the tiles along an axis: logits cost most, and a tile has (side + kernel_size - 1) keys a query."""

    def cost(side: int) -> int:
        return -(-length // side) * (side * min(side + kernel_size - 1, length) + 16)  # 16: to start a tile

    return min(range(1, min(length, kernel_size + 1) + 1), key=lambda side: (cost(side), -side))


@dataclass(frozen=True, eq=False)
class Tiles:
    """Where the queries of a map of N = H * W pixels are in G tiles of T, and which M keys the queries of a tile get.

    ``neighborhood_tiles`` makes it. Tiles that cross the border repeat their last pixel, so that all are alike.

    Attributes:
        queries: (G * T,) pixel of each query of each tile.
        keys: (G, M) pixel of each key of each tile; a tile's may repeat, and are then masked but once.
        places: (N,) where among ``queries`` each pixel is.
        relative: (U, T, M) entry of the flattened table of biases for a query and a key in each kind of tile; how many
            it has if the key is out of the query's neighbourhood.
        kinds: (G,) which of the U kinds a tile is; None if it is the one of its number.
    """

    queries: Tensor
    keys: Tensor
    places: Tensor
    relative: Tensor
    kinds: Tensor | None

    def bias(self, table: Tensor) -> Tensor:
        """What is added to the logits of tiles: entries of a table by relative position, -inf out of neighbourhoods.

        table: (nh, S, S), S = 2 * kernel_size - 1, or kernel_size if the neighbourhoods are cut at the border; nh = 1
        serves all heads -> (G, nh, T, M)
        """
        bias = F.pad(table.flatten(1), (0, 1), value=float("-inf"))[:, self.relative].transpose(0, 1)
        return bias if self.kinds is None else bias.index_select(0, self.kinds)

    def gather_bias(self, bias: Tensor) -> Tensor:
        """A bias of pixels to M' other keys, for the queries of tiles (copies): (nh, N, M') -> (G, nh, T, M')."""
        bias = bias.index_select(1, self.queries)
        return bias.unflatten(1, (self.keys.shape[0], -1)).transpose(0, 1)


def _axis(
    length: int, kernel_size: int, dilation: int, cut: bool, device: torch.device
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Tiles along one axis.

    Returns: Pixels of the queries (G, T) and keys (G, M) of the tiles, relative positions (G, T, M), and where among
        the G * T queries each pixel is (length,).
    """
    k, half = kernel_size, kernel_size // 2
    most = (length + dilation - 1) // dilation  # pixels of a residue class; the last classes may have one less
    if device.type == "meta":  # shapes are all that is asked for, so they are those of the definition, and cost as much
        side, keys, tiles = 1, k, most
    elif is_traced():  # one program for all sizes: as many keys whatever the size, and two tiles or more
        side, keys, tiles = k, 2 * k - 1, most // k + 1
    else:
        side = _tile_side(most, k)
        keys, tiles = min(side + k - 1, most), -(-most // side)

    residue = torch.arange(dilation, device=device)[:, None, None]  # pixels i with i % dilation == residue
    start = side * torch.arange(tiles, device=device)[:, None]
    members = (length - residue + dilation - 1) // dilation
    query = torch.minimum(start + torch.arange(side, device=device), members - 1)  # (dilation, tiles, side)
    key_start = torch.minimum((start - half).clamp(min=0), (members - keys).clamp(min=0))
    key = key_start + torch.arange(keys, device=device)  # (dilation, tiles, keys)

    offset = key.unsqueeze(-2) - query.unsqueeze(-1)
    if cut:
        near, relative, outside = offset.abs() <= half, offset + half, k
    else:  # the window is shifted inside the map
        first = torch.minimum((query - half).clamp(min=0), (members - k).clamp(min=0)).unsqueeze(-1)
        near = (key.unsqueeze(-2) >= first) & (key.unsqueeze(-2) < first + k)
        relative, outside = offset + k - 1, 2 * k - 1
    relative = torch.where(near & (key < members).unsqueeze(-2), relative, outside)

    pixel = torch.arange(length, device=device)
    place = pixel % dilation * tiles * side + pixel // dilation
    key = torch.minimum(key, members - 1)
    return (
        (query * dilation + residue).flatten(0, 1),
        (key * dilation + residue).flatten(0, 1),
        relative.flatten(0, 1),
        place,
    )


@kept_by_size
def _tiles(H: int, W: int, kernel_size: int, dilation: int, cut: bool, device: torch.device) -> Tiles:
    query_y, key_y, rows, place_y = _axis(H, kernel_size, dilation, cut, device)
    query_x, key_x, columns, place_x = _axis(W, kernel_size, dilation, cut, device)

    def pixels(y: Tensor, x: Tensor) -> Tensor:
        """(G_y, n_y), (G_x, n_x) -> (G, n)"""
        return (y[:, None, :, None] * W + x[:, None]).flatten(2).flatten(0, 1)

    T_y, T_x = query_y.shape[1], query_x.shape[1]
    tile = (place_y // T_y)[:, None] * query_x.shape[0] + place_x // T_x
    places = (tile * T_y + (place_y % T_y)[:, None]) * T_x + place_x % T_x
    kinds = None
    if not is_traced() and device.type != "meta":  # most tiles are alike
        (rows, kind_y), (columns, kind_x) = (t.unique(dim=0, return_inverse=True) for t in (rows, columns))
        kinds = (kind_y[:, None] * columns.shape[0] + kind_x).flatten()
    size = kernel_size if cut else 2 * kernel_size - 1
    y, x = rows[:, None, :, None, :, None], columns[:, None, :, None]
    relative = torch.where((y < size) & (x < size), y * size + x, size * size)
    return Tiles(
        queries=pixels(query_y, query_x).flatten(),
        keys=pixels(key_y, key_x),
        places=places.flatten(),
        relative=relative.flatten(4).flatten(2, 3).flatten(0, 1),
        kinds=kinds,
    )


@register_notrace_function
def neighborhood_tiles(
    H: int, W: int, kernel_size: int, dilation: int = 1, cut: bool = False, device: torch.device | None = None
) -> Tiles:
    """How a map is cut into tiles for ``tile_attention``; made once a size.

    Args:
        H: Rows of the map; at least ``dilation``, and ``kernel_size * dilation`` unless ``cut``.
        W: Columns, likewise.
        kernel_size: Side of a neighbourhood, in pixels of its residue class; odd.
        dilation: Pixels between the keys of a query.
        cut: Leave out the part of a neighbourhood that is out of the map, instead of shifting it inside.
        device: Where the tables are needed.

    Raises:
        ValueError: If the map is too small.
    """
    least = dilation if cut else kernel_size * dilation
    if not is_traced() and min(H, W) < least:
        raise ValueError(f"a map of {H} x {W} pixels is too small, its sides must be at least {least}: pad it")
    return _tiles(H, W, kernel_size, dilation, cut, device or torch.device("cpu"))


@register_notrace_function
def tile_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    num_heads: int,
    tiles: Tiles,
    table: Tensor,
    scale: float | None = None,
    extra: tuple[Tensor, Tensor, Tensor | None] | None = None,
) -> Tensor:
    """softmax(scale * q k^T + bias) v of the pixels of a map, each to its neighbourhood and to keys that all see.

    q, k, v: (B, H, W, nh * d) -> (B, H, W, nh * d), copies. No logit of a pair of tiles apart is computed: cost, and
    memory, are linear in H * W.

    Args:
        q: Queries.
        k: Keys of the same map.
        v: Values of the same map.
        num_heads: Heads.
        tiles: Of ``neighborhood_tiles`` for the map.
        table: (nh, S, S), biases by relative position of key and query as ``Tiles.bias`` reads them; nh = 1 serves all
            heads.
        scale: Of the logits, 1 / sqrt(d) by default.
        extra: Keys (B, P, nh * d), values (B, P, nh * d), and biases (nh, H * W, P) or None, that every query gets.
    """
    B, H, W, C = q.shape
    scale = (C // num_heads) ** -0.5 if scale is None else scale
    q, k, v = q.flatten(1, 2), k.flatten(1, 2), v.flatten(1, 2)
    bias, keys = tiles.bias(table.to(q.dtype)), tiles.keys
    if extra is not None:
        extra_k, extra_v, extra_bias = extra
        pixels, count = k.shape[1], extra_k.shape[1]
        k, v = torch.cat([k, extra_k], dim=1), torch.cat([v, extra_v], dim=1)
        keys = torch.cat(
            [keys, torch.arange(pixels, pixels + count, device=q.device).expand(keys.shape[0], count)], dim=1
        )
        if extra_bias is None:
            seen = bias.new_zeros(()).expand(*bias.shape[:3], count)
        else:
            seen = tiles.gather_bias(extra_bias.to(q.dtype))
            bias = bias.expand(-1, seen.shape[1], -1, -1)
        bias = torch.cat([bias, seen], dim=3)
    out = tiled_attention(q, k, v, bias, tiles.queries, keys, tiles.places, num_heads, scale)
    return out.view(B, H, W, C)


@register_notrace_module
class NeighborhoodAttention(nn.Module):
    """Every pixel attends to exactly kernel_size x kernel_size pixels around it, ``dilation`` apart.

    x: (B, H, W, dim) -> (B, H, W, dim). At a border the neighbourhood is shifted inside the map, on the pixels i with
    the query's i % dilation. Maps smaller than kernel_size * dilation are padded with zeros at the bottom and right,
    and the padding is seen: its keys and values are the projection's bias, as in natten 0.14 to 0.15. Cost, beside the
    projections: N * kernel_size^2 * dim twice, times 2 to 3.5 for the keys of a tile that only its other queries see.

    The logit of query i and key j is q_i k_j / sqrt(d) + rpb[y, x], where y is the row of the key minus that of the
    query, in steps of ``dilation``, plus kernel_size - 1, and x likewise; so a table serves every dilation.

    Args:
        dim: Channels.
        num_heads: Heads.
        kernel_size: Side of the neighbourhood, in pixels; odd.
        dilation: Pixels between neighbours.
        rel_pos_bias: Whether there is a table of biases.
        gate: ``HeadGate`` whose gates multiply the heads, or None.

    Raises:
        ValueError: If ``dim`` is not a multiple of ``num_heads``, ``kernel_size`` not odd, or ``dilation`` below 1.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        kernel_size: int = 7,
        dilation: int = 1,
        rel_pos_bias: bool = True,
        gate: HeadGate | None = None,
        device=None,
        dtype=None,
    ) -> None:
        dd = {"device": device, "dtype": dtype}
        super().__init__()
        if dim % num_heads:
            raise ValueError(f"dim {dim} is not a multiple of num_heads {num_heads}")
        if kernel_size < 1 or kernel_size % 2 == 0:
            raise ValueError(f"kernel_size is an odd number of pixels, got {kernel_size}")
        if dilation < 1:
            raise ValueError(f"dilation is a number of pixels from 1 up, got {dilation}")
        self.num_heads = num_heads
        self.kernel_size = kernel_size
        self.dilation = dilation
        self.qkv = nn.Linear(dim, 3 * dim, **dd)
        side = 2 * kernel_size - 1
        self.rpb = nn.Parameter(torch.empty(num_heads, side, side, **dd)) if rel_pos_bias else None
        self.gate = gate
        self.proj = nn.Linear(dim, dim, **dd)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Truncated normal, std 0.02, for the table of biases."""
        if self.rpb is not None:
            trunc_normal_(self.rpb, std=0.02)

    def forward(self, x: Tensor) -> Tensor:
        _, H, W, _ = x.shape
        least = self.kernel_size * self.dilation
        padded = x
        if torch.compiler.is_compiling():  # a branch would fix the size of a program
            padded = F.pad(x, (0, 0, 0, torch.sym_max(W, least) - W, 0, torch.sym_max(H, least) - H))
        elif min(H, W) < least:
            padded = F.pad(x, (0, 0, 0, max(W, least) - W, 0, max(H, least) - H))
        q, k, v = sequential(padded, self.qkv).chunk(3, dim=-1)
        side = 2 * self.kernel_size - 1
        table = q.new_zeros(1, side, side) if self.rpb is None else self.rpb
        tiles = neighborhood_tiles(*padded.shape[1:3], self.kernel_size, self.dilation, device=x.device)
        y = crop(tile_attention(q, k, v, self.num_heads, tiles, table), H, W)
        return sequential(gate_heads(self.gate, x, y), self.proj)
