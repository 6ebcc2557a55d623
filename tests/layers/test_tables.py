"""What is kept, for how many sizes, and what is not."""

import torch

from backbones.layers.functional import kept_by_size
from backbones.layers.tables import constant_tables


def test_the_last_sizes_are_kept():
    made = []

    @kept_by_size
    def table(size):
        """Zeros."""
        made.append(size)
        return torch.zeros(size)

    with torch.inference_mode():
        first = table(3)
    assert table(3) is first and made == [3]
    assert not first.is_inference()
    for size in range(100):
        table(size)
    assert table.cache_info().currsize == 16
    assert table(3) is not first
    table.cache_clear()
    assert table.cache_info().currsize == 0
    assert table.__doc__ == "Zeros."


def test_nothing_is_kept_of_a_program():
    @kept_by_size
    def table(size):
        return torch.arange(size)

    class Model(torch.nn.Module):
        def forward(self, x):
            return x + table(x.shape[0])

    program = torch.export.export(Model(), (torch.zeros(3),), strict=False)
    assert table.cache_info().currsize == 0
    assert program.module()(torch.ones(3)).tolist() == [1.0, 2.0, 3.0]


def test_tables_of_a_count_are_made_once():
    made = []

    @kept_by_size
    def table(size):
        made.append(size)
        return torch.arange(size) @ torch.arange(size)

    class Model(torch.nn.Module):
        def forward(self, x):
            return x + table(x.shape[0]) + table(x.shape[0])

    x = torch.zeros(3)
    with constant_tables():
        graph, y = torch.jit._get_trace_graph(Model(), (x,))
    assert made == [3] and type(made[0]) is int
    assert y.tolist() == [10.0, 10.0, 10.0]
    assert "aten::matmul" not in str(graph)
    assert "aten::matmul" in str(torch.jit._get_trace_graph(Model(), (x,))[0])
