"""What is kept, for how many sizes, and what is not."""

from concurrent.futures import ThreadPoolExecutor

import torch

from backbones.layers.functional import kept_by_size
from backbones.layers.tables import constant_tables, one_table_a_size


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


def test_a_program_holds_each_table_once():
    """Of each size, in each of the traces that an exporter makes, of open sizes as well."""

    @kept_by_size
    def table(size):
        return torch.arange(size).sin()

    class Model(torch.nn.Module):
        def forward(self, x):
            half = x[: x.shape[0] // 2]
            return x + table(x.shape[0]) + table(x.shape[0]), half + table(half.shape[0])

    model = Model()

    def tables(dynamic_shapes):
        program = torch.export.export(model, (torch.zeros(8),), dynamic_shapes=dynamic_shapes, strict=False)
        return program, str(program.graph).count("aten.sin.default")

    for dynamic_shapes in (None, ({0: torch.export.Dim.AUTO},)):
        assert tables(dynamic_shapes)[1] == 3
        with one_table_a_size(model):
            program, count = tables(dynamic_shapes)
            assert count == 2 and tables(dynamic_shapes)[1] == 2
            with ThreadPoolExecutor() as pool:  # another thread's programs are its own
                assert pool.submit(tables, dynamic_shapes).result()[1] == 3
        for size in (8, 6)[: 1 if dynamic_shapes is None else 2]:
            for y, z in zip(program.module()(torch.ones(size)), model(torch.ones(size))):
                assert torch.equal(y, z)
        assert tables(dynamic_shapes)[1] == 3 and not model._forward_pre_hooks
