"""A copy of a model for inference on a CPU: recorded once a size, its weights folded and packed."""

import contextlib
import copy
import math
import warnings
from collections import OrderedDict
from collections.abc import Callable, Sequence
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.utils._pytree import tree_leaves, tree_map

from backbones.kernels import keep_freed_memory
from backbones.kernels.int8 import INT8_TOLERANCE, Ranges, has_int8_kernels, is_within, observe
from backbones.kernels.machine import current_machine
from backbones.kernels.packing import pack
from backbones.kernels.planner import calls_are_observed
from backbones.kernels.recording import Program, record

PROGRAMS = 4  # that are kept
_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


class Optimized(nn.Module):
    """What ``optimize`` returns: takes what the model takes and returns what it returns, without gradients.

    The first call at a size, layout or type of its inputs, or under another autocast, records the model's operators and
    rewrites them, which takes about two calls of the model; later calls run what was made. The four programs that were
    used last are kept, each with packed weights of its own: about as much memory as the parameters again. Where a
    compiler or tracer looks at it, and for arguments by name or that are no tensors, it is the model. Weights are
    loaded through it (``fast.load_state_dict``, or that of a module that holds it), or changed in place, which makes
    programs anew, but not through ``.data``, nor with ``assign`` in its model; modules of it are not to be replaced or
    given hooks.

    Args:
        model: A model in evaluation mode, which becomes this one's own.
        dtype: What it computes in; outputs are of the type of the first input all the same. None for the model's.
        calibration: Inputs of the model, by batch: convolutions and linear layers compute in eight bits, over the
            ranges that these show. Weights that are loaded later have the same ranges.

    Raises:
        ValueError: At the first call, or in calibration, if the model's operators depend on the values of its inputs,
            draw random numbers or write to its own tensors, or if it returns something else than tensors and numbers in
            tuples, lists and dictionaries.
    """

    def __init__(
        self,
        model: nn.Module,
        dtype: torch.dtype | None = None,
        calibration: Sequence[tuple[Tensor, ...]] = (),
    ) -> None:
        super().__init__()
        self.model = model.eval().requires_grad_(False)
        if dtype is not None:
            self.model._apply(lambda t: t.to(dtype) if t.is_floating_point() else t)
        self._lay_out(torch.channels_last)  # which is what packed layers take
        self.dtype = dtype
        self.training = False
        self._programs: OrderedDict[Any, Callable] = OrderedDict()
        self._weights: list[Tensor] = []  # whose changes in place are watched
        self._ranges = self._observe(calibration)

    def _lay_out(self, memory_format: torch.memory_format) -> None:
        """Weights of convolutions, and with them the maps that they compute."""
        for module in self.model.modules():
            if isinstance(module, nn.Conv2d):
                module.to(memory_format=memory_format)

    def train(self, mode: bool = True) -> "Optimized":
        """Stays in evaluation mode.

        Raises:
            RuntimeError: If ``mode`` is on.
        """
        if mode:
            raise RuntimeError(
                "an optimized model cannot be trained: train the model it was made of, and optimize that"
            )
        return self

    def _forget(self) -> None:
        """What was made of the weights, which are to be others."""
        self._programs.clear()
        self._weights = []

    def _apply(self, fn: Callable, recurse: bool = True) -> "Optimized":
        self._forget()
        super()._apply(fn, recurse)
        if self.dtype not in (None, *(t.dtype for t in self.parameters() if t.is_floating_point())):
            self.dtype = None  # it was given another type
        return self

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:  # which a module that holds it calls, too
        self._forget()
        super()._load_from_state_dict(*args, **kwargs)

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "_programs": OrderedDict(), "_weights": []}  # type: ignore[misc]

    def forward(self, *inputs: Any, **options: Any) -> Any:
        if options or calls_are_observed() or not all(type(x) is Tensor and x.device.type == "cpu" for x in inputs):
            return self._run(*inputs, **options)
        inputs = self._from_start(inputs)
        key = self._changes(), self._key(inputs)
        # tensors of inference mode, if the caller is in it: gradients of what is computed from others are the caller's
        with torch.no_grad():
            program = self._programs.get(key)
            if program is not None:
                with contextlib.suppress(KeyError):  # another thread may have let it go
                    self._programs.move_to_end(key)
                return program(*inputs)
            tensors = chain(self.model.parameters(), self.model.buffers())
            self._weights = [t for t in tensors if _counts_changes(t)]
            key = self._changes(), self._key(inputs)
            self._programs[key], result = self._make(inputs)
            if len(self._programs) > PROGRAMS:
                self._programs.popitem(last=False)
            return result

    def _run(self, *inputs: Any, **options: Any) -> Any:
        """What is recorded: the model, in ``dtype``."""
        if self.dtype is None:
            return self.model(*inputs, **options)

        def cast(x: Any) -> Any:
            return x.to(self.dtype) if isinstance(x, Tensor) and x.is_floating_point() else x

        outputs = self.model(*map(cast, inputs), **{name: cast(x) for name, x in options.items()})
        floats = (x.dtype for x in (*inputs, *options.values()) if isinstance(x, Tensor) and x.is_floating_point())
        dtype = next(floats, torch.float32)
        return tree_map(lambda y: y.to(dtype) if isinstance(y, Tensor) and y.is_floating_point() else y, outputs)

    def _observe(self, batches: Sequence[tuple[Tensor, ...]]) -> Ranges:
        """Ranges of what layers are given, without those that a family keeps in float."""
        ranges: Ranges = {}
        groups: dict[Any, list[tuple[Tensor, ...]]] = {}
        for batch in batches:
            inputs = self._from_start(batch)
            groups.setdefault(self._key(inputs), []).append(inputs)
        with torch.inference_mode():
            for group in groups.values():  # one program at a time, since each has packed weights of its own
                program, _, _ = self._record(group[0])
                pack(program)
                for inputs in group:
                    observe(program, inputs, ranges)
        kept = getattr(self.model, "int8_float_layers", ())
        return {
            key: found
            for key, found in ranges.items()
            if not any(is_within(name.rpartition(".")[0], kept) for name in key)
        }

    @staticmethod
    def _from_start(inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Inputs that begin where their memory does, so that all parts of a tensor share a program."""
        return tuple(x.clone() if x.storage_offset() else x for x in inputs)

    @staticmethod
    def _key(inputs: tuple[Tensor, ...]) -> Any:
        """What calls of one program have in common."""
        autocast = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else None
        return autocast, *((x.shape, x.stride(), x.dtype) for x in inputs)

    def _changes(self) -> int:
        """How often weights and buffers were changed in place, which whoever holds the model may do."""
        return sum(weight._version for weight in self._weights)

    def _names(self) -> dict[int, str]:
        """Names of the model's tensors by address."""
        return {t.data_ptr(): name for name, t in chain(self.model.named_parameters(), self.model.named_buffers())}

    def _record(self, inputs: tuple[Tensor, ...]) -> tuple[Program, Any, Callable]:
        """``record`` the model, which may view maps as only its own layout allows."""
        try:
            return record(self._run, inputs, self._names())
        except RuntimeError:
            self._lay_out(torch.contiguous_format)
            try:
                return record(self._run, inputs, self._names())
            except RuntimeError:  # it was not that
                self._lay_out(torch.channels_last)
                raise

    def _make(self, inputs: tuple[Tensor, ...]) -> tuple[Callable, Any]:
        """A program for such inputs, and what it returns for these."""
        names = self._names()
        program, result, unflatten = self._record(inputs)
        if self._names() != names:  # a buffer that is made at the first call, or weights that were laid out anew
            names = self._names()
            program, result, unflatten = self._record(inputs)
            if self._names() != names:
                raise ValueError("the model replaces its own tensors, which a recorded program would not repeat")
        types = {node.meta["layout"].dtype for node in program.graph.nodes if "layout" in node.meta}
        pack(program, self._ranges)
        forward = program.module().forward

        def run(*inputs: Tensor) -> tuple[Tensor, ...]:
            if not torch.is_autocast_enabled("cpu"):
                return forward(*inputs)
            with torch.autocast("cpu", enabled=False):  # its casts are operators of the program
                return forward(*inputs)

        outputs = run(*inputs)
        tensors = [y for y in tree_leaves(result) if isinstance(y, Tensor)]
        errors = [_relative_error(found, expected) for found, expected in zip(outputs, tensors, strict=True)]
        # a fault is as large as the result, and rounding is not
        limit = 0.9 if self._ranges else 0.2 if types & {torch.bfloat16, torch.float16} else 1e-2
        if not all(error <= limit for error in errors):  # nor is NaN
            why = "please report it, or calibrate with inputs like these" if self._ranges else "please report it"
            warnings.warn(f"the recorded program is not the model, which runs as it is: {why}", stacklevel=5)
            return self._run, self._run(*inputs)
        if self._ranges and (error := max(errors, default=0.0)) > INT8_TOLERANCE:
            warnings.warn(
                f"eight bits change the outputs by {error:.0%} of their norm, more than {INT8_TOLERANCE:.0%}: "
                "calibrate with inputs like these, or name modules that are to stay in float in the model's "
                "`int8_float_layers`",
                stacklevel=5,
            )
        return lambda *inputs: unflatten(run(*inputs)), unflatten(outputs)


def optimize(
    model: nn.Module,
    keep_memory: bool = False,
    dtype: torch.dtype | None = None,
    calibration: Tensor | Sequence[Tensor | tuple[Tensor, ...]] | None = None,
) -> Optimized:
    """A copy of a model for inference on a CPU.

    Batch norms, layer scales, activations, residuals and gates are folded into the layers beside them, weights are
    packed once for oneDNN, and what depends on sizes alone (masks, tables) is computed once a size. Nothing is
    asked of the model but that its operators depend on the sizes of its inputs alone. It is not changed.

    Args:
        model: In evaluation mode, on a CPU, without hooks and adapters.
        keep_memory: Let the process keep freed memory (``backbones.kernels.keep_freed_memory``), for the whole process.
        dtype: ``torch.bfloat16`` computes in that type, two to three times as fast on CPUs with AVX512-BF16 or AMX.
            ``torch.int8`` computes convolutions and linear layers in eight bits, but for those of groups, those whose
            inputs meet fewer than 96 products, and ``model.int8_float_layers``. Inputs and outputs stay what they are.
            None for the model's own.
        calibration: For ``torch.int8``, inputs like those that are to come, of any size: a batch (B, 3, H, W), or
            several; tuples where the model takes more than one tensor. Each layer's input gets the range that it has
            for these.

    Raises:
        ValueError: If the model trains, is elsewhere than on a CPU, or carries hooks, adapters, replaced forwards or
            weights that something computes; if ``dtype`` is another type, or this CPU has no kernels for it; if
            ``torch.int8`` comes without inputs for calibration, or these without it. A model that cannot be recorded
            raises at the first call at a size (of ``torch.int8``, here), see ``Optimized``.

    Example:
        >>> fast = backbones.optimize(backbones.create_model("van_b0").eval())
        >>> logits = fast(torch.randn(1, 3, 224, 224))
    """
    if not isinstance(model, nn.Module):
        raise ValueError(f"a model is optimized, not a {type(model).__name__}: backbones.create_model(name) makes one")
    _check(model)
    if dtype not in (None, torch.float32, torch.bfloat16, torch.int8):
        raise ValueError(f"a model is optimized for torch.float32, torch.bfloat16 or torch.int8, not {dtype}")
    if dtype == torch.bfloat16 and not current_machine().bfloat16:
        raise ValueError("this CPU has no kernels for bfloat16 (AVX512-BF16 or AMX): optimize for torch.float32")
    if dtype == torch.int8 and not (has_int8_kernels() and current_machine().onednn):
        raise ValueError("this PyTorch has no kernels for int8 (oneDNN's): optimize for torch.float32")
    others = {p.dtype for p in model.parameters() if p.is_floating_point()} - {torch.float32}
    if dtype == torch.int8 and others:
        raise ValueError(
            f"the model has weights in {others.pop()}, and eight bits are made of float32: call model.float() first"
        )
    batches = _batches(calibration)
    if (dtype == torch.int8) != bool(batches):
        raise ValueError(
            "torch.int8 needs inputs like those that are to come, to find the ranges of layers: pass calibration=images"
            if dtype == torch.int8
            else f"calibration finds the ranges of layers in torch.int8: leave it out for {dtype or 'float'}"
        )
    if keep_memory:
        keep_freed_memory()
    return Optimized(copy.deepcopy(model), dtype=None if batches else dtype, calibration=batches)


def _counts_changes(weight: Tensor) -> bool:
    """Whether its changes in place can be seen: not where its values were made in inference mode."""
    try:
        return weight._version >= 0
    except RuntimeError:
        return False


def _relative_error(found: Tensor, expected: Tensor) -> float:
    """Norm of the difference as a share of the norm; infinite where two tensors lie in memory in another way."""
    if found.shape != expected.shape or found.stride() != expected.stride() or found.dtype != expected.dtype:
        return math.inf  # kernels of another version
    if not found.is_floating_point() or not expected.isfinite().all():
        return 0.0
    found, expected = found.double(), expected.double()
    return ((found - expected).norm() / expected.norm().clamp(min=1e-4)).item()


def _batches(calibration: Tensor | Sequence[Tensor | tuple[Tensor, ...]] | None) -> list[tuple[Tensor, ...]]:
    """Arguments of the model, batch by batch."""
    batches = [] if calibration is None else [calibration] if isinstance(calibration, Tensor) else list(calibration)
    batches = [batch if isinstance(batch, tuple) else (batch,) for batch in batches]
    for x in (x for batch in batches for x in batch):
        if not isinstance(x, Tensor):
            raise ValueError(
                f"calibration is tensors, or tuples of them where a model takes several, not {type(x).__name__}: of a "
                "DataLoader pass (images for images, *_ in loader)"
            )
        if x.numel() == 0 or not x.isfinite().all():
            raise ValueError(f"calibration has inputs of shape {tuple(x.shape)} that are empty or not finite")
        if x.ndim == 4 and x.is_floating_point() and x.min() == x.max():
            raise ValueError(f"calibration has inputs of shape {tuple(x.shape)} that are {x.min():.3g} everywhere")
    return batches


def _check(model: nn.Module) -> None:
    for name, module in model.named_modules():
        where = f"{type(module).__name__} at {name!r}" if name else type(module).__name__
        if isinstance(module, Optimized):
            raise ValueError("the model is optimized already: optimize the model that it was made of")
        if module.training:
            raise ValueError(f"{where} is in training mode: call model.eval() first")
        if any(getattr(module, hooks, None) for hooks in _HOOKS):
            raise ValueError(f"{where} has hooks, which a recorded program would not call: remove them first")
        if "forward" in vars(module):
            raise ValueError(
                f"the forward of {where} was replaced: optimize the model before that, or make it a module"
            )
        if parametrize.is_parametrized(module):
            raise ValueError(
                f"{where} has parametrizations: call torch.nn.utils.parametrize.remove_parametrizations first"
            )
        adapted = getattr(module, "base_layer", None)  # of an adapter it is one layer; timm's DLA calls a stage so
        if hasattr(adapted, "weight") or type(module).__module__.partition(".")[0] == "peft":
            raise ValueError(f"{where} is an adapter: merge it into the model first (peft: model.merge_and_unload())")
        for key, tensor in (*module._parameters.items(), *module._buffers.items()):
            if tensor is None:
                continue
            if type(tensor) not in (nn.Parameter, nn.Buffer, Tensor):
                raise ValueError(f"{key} of {where} is a {type(tensor).__name__}: optimize the model of plain tensors")
            if tensor.device.type != "cpu":
                raise ValueError(f'{key} of {where} is on {tensor.device}: call model.to("cpu") first')
