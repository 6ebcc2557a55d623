"""The machine as a value, and who looks at operators."""

import contextlib
import subprocess
import sys
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from backbones.kernels import Machine, convolution, current_machine, machine, sequential, use_fast_kernels, use_machine
from backbones.kernels.machine import HERE, computes_in, is_observed, serves


def test_the_record_is_replaced_and_comes_back() -> None:
    assert current_machine() is HERE
    with pytest.raises(KeyError), use_machine(Machine(vendor="GenuineIntel")):
        assert current_machine().vendor == "GenuineIntel" and not current_machine().blas_lags
        raise KeyError
    assert current_machine() is HERE


@pytest.mark.parametrize(
    ("record", "lags"),
    [
        (Machine(vendor="AuthenticAMD"), True),
        (Machine(vendor="AuthenticAMD", onednn=False), False),
        (Machine(vendor="AuthenticAMD", mkl=False), False),
        (Machine(vendor="GenuineIntel", avx512=True), False),
        (Machine(), False),
    ],
)
def test_mkl_holds_back_on_cpus_of_other_vendors(record: Machine, lags: bool) -> None:
    assert record.blas_lags == lags


@pytest.mark.parametrize(
    ("record", "convolves"),
    [
        (Machine(vendor="AuthenticAMD", avx512=True), True),
        (Machine(vendor="AuthenticAMD", avx512=True, split_avx512=True), False),
        (Machine(vendor="AuthenticAMD"), False),
        (Machine(vendor="GenuineIntel", avx512=True), False),
    ],
)
def test_route_of_the_gradient_of_weights(record: Machine, convolves: bool) -> None:
    """It follows the record: through oneDNN only where that is much faster than BLAS."""
    grad, x, weight = torch.randn(5000, 8), torch.randn(5000, 6), torch.randn(8, 6)
    mode = CountCalls()
    with use_machine(record), mode:
        found = convolution.product_gradient(grad, x, weight)
    assert ("convolution_backward" in mode.names) == convolves
    assert torch.allclose(found, grad.t() @ x, atol=1e-3)


def test_cpuinfo_is_understood(monkeypatch: pytest.MonkeyPatch) -> None:
    texts = {
        "vendor_id\t: AuthenticAMD\ncpu family\t: 25\nmodel\t\t: 17\n": ("AuthenticAMD", 25),
        "AMD64 Family 26 Model 2 Stepping 1, AuthenticAMD": ("AuthenticAMD", 26),
        "vendor_id\t: GenuineIntel\ncpu family\t: 6\n": ("GenuineIntel", 6),
        "arm": ("", 0),
    }
    for text, expected in texts.items():
        monkeypatch.setattr(machine.Path, "read_text", lambda self, text=text: text)
        assert machine._vendor_and_family() == expected


def test_switch_turns_fast_paths_off() -> None:
    assert not is_observed()
    with use_fast_kernels(False):
        assert is_observed()
        with use_fast_kernels(True):
            assert not is_observed()
        assert is_observed()
    assert not is_observed()
    code = "from backbones.kernels.machine import is_observed; print(is_observed())"
    env = {"BACKBONES_FAST_KERNELS": "0"}
    run = subprocess.run([sys.executable, "-c", code], env={**__import__("os").environ, **env}, capture_output=True)
    assert run.stdout.strip() == b"True"


class CountCalls(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.names.append(func._opname)
        return func(*args, **(kwargs or {}))


class Look(TorchDispatchMode):
    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        return func(*args, **(kwargs or {}))


class LookAtFunctions(torch.overrides.TorchFunctionMode):
    def __torch_function__(self, func, types, args=(), kwargs=None):
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("mode", [Look, LookAtFunctions, lambda: FlopCounterMode(display=False)])
def test_modes_observe(mode: Callable[[], contextlib.AbstractContextManager]) -> None:
    with mode():
        assert is_observed()
    assert not is_observed()
    with torch.device("cpu"):  # looks at factories alone
        assert not is_observed()


def test_transforms_and_tracers_observe() -> None:
    seen: list[bool] = []

    def look(x: Tensor) -> Tensor:
        seen.append(is_observed())
        return x.sum()

    x = torch.ones(2, 3)
    torch.vmap(look)(x)
    torch.func.grad(look)(x)
    torch.func.jvp(look, (x,), (x,))
    torch.jit.trace(look, x, check_trace=False)
    assert seen and all(seen)


def test_only_ordinary_tensors_of_a_cpu_are_served() -> None:
    assert serves(torch.ones(1))
    assert not serves(torch.ones(1, device="meta"))
    assert not serves(torch.ones(0, 3))
    assert not serves(nn.Parameter(torch.ones(1)).as_subclass(type("Odd", (Tensor,), {})))


def test_types_that_the_machine_has_kernels_for() -> None:
    x, half = torch.ones(1), torch.ones(1, dtype=torch.bfloat16)
    for bfloat16 in (True, False):
        with use_machine(Machine(bfloat16=bfloat16)):
            assert computes_in(x, torch.float32)
            assert computes_in(half, torch.float32, torch.bfloat16) == bfloat16
            assert not computes_in(x.double(), torch.float32)
            with torch.autocast("cpu", torch.bfloat16):
                assert not computes_in(x, torch.float32)
                assert computes_in(x, torch.float32, torch.bfloat16) == bfloat16


def test_traced_programs_do_not_depend_on_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever asks what the machine is while a program is traced fails."""
    layers = nn.Linear(6, 8), nn.GELU(), nn.Linear(8, 6)

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.Sequential(*layers)

        def forward(self, x: Tensor) -> Tensor:
            return sequential(x, *self.layers)

    model, x = Model().eval(), torch.randn(70, 6)
    monkeypatch.setattr(convolution, "current_machine", lambda: pytest.fail("a program depends on the machine"))
    dynamic = ({0: torch.export.Dim.DYNAMIC},)
    program = torch.export.export(model, (x,), dynamic_shapes=dynamic).module()
    traced = torch.jit.trace(model, x, check_trace=False)
    for rows in (3, 64, 200):
        x = torch.randn(rows, 6)
        for other in (program, traced):
            torch.testing.assert_close(other(x), model.layers(x))
