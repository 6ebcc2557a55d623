"""The formats: how a program is written, and how its file is run.

A format is a row of ``FORMATS``. Its ``write`` takes a program of ``torch.export``; ``annotate`` adds metadata to a
written file; its runtime reads both.
"""

import ast
import contextlib
import importlib
import json
import os
import tempfile
import threading
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.export import ExportedProgram

from backbones.deploy.metadata import PIXELS
from backbones.deploy.programs import (
    DIMENSIONS,
    contiguous_attention,
    first_line,
    load_program,
    quiet,
    run_program,
    save_program,
    tensors,
)

__all__ = ["FORMATS", "Runtime", "load_export"]

_REWRITING = threading.Lock()  # what is patched meanwhile belongs to the process
OPSET = 18  # of ONNX, where none is asked for: the first that PyTorch's exporter writes, so that older runtimes read it


class Runtime(ABC):
    """An exported file, loaded: tensors -> tensors.

    Class attributes:
        suffix: Of the file that is opened.
        packages: Modules that writing and running need, with the name to install where it differs.

    Args:
        path: The file.
        threads: Threads of an operator; None for the runtime's choice.
    """

    suffix: str
    packages: dict[str, str]
    metadata: dict[str, Any]

    @abstractmethod
    def __init__(self, path: str | os.PathLike, threads: int | None = None) -> None: ...

    @abstractmethod
    def __call__(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """Run it; inputs and outputs in the model's order."""

    @property
    def takes_pixels(self) -> bool:
        """Whether the file itself subtracts the mean and divides by the deviation."""
        return self.metadata.get("input") == PIXELS

    @property
    def source(self) -> dict[str, Any]:
        """What `backbones export` made the file from.

        Raises:
            ValueError: If another program wrote it.
        """
        if "source" not in self.metadata:
            raise ValueError(
                f"this {self.suffix} file was not written by `backbones export`: it says nothing of its model"
            )
        return self.metadata["source"]

    @staticmethod
    @abstractmethod
    def write(program: ExportedProgram, path: Path, opset: int, dynamic: Sequence[int], half: bool) -> None:
        """Write ``path``, and what belongs to it beside it under the same stem."""

    @staticmethod
    @abstractmethod
    def annotate(path: Path, metadata: dict[str, Any], program: ExportedProgram | None = None) -> None:
        """Add metadata to a written file; ``program`` is what it was written from, where that is at hand."""

    @classmethod
    def require(cls) -> None:
        """Check that the packages are installed.

        Raises:
            ValueError: If one is missing, with the command that installs it.
        """
        for module, package in cls.packages.items():
            try:
                importlib.import_module(module)
            except ImportError as error:
                raise ValueError(
                    f"{cls.suffix} files need {package}: pip install 'efficient-backbones[export]'"
                ) from error


def _parsed(text: str) -> Any:
    """JSON, or the text that another program wrote."""
    try:
        return json.loads(text)
    except ValueError:
        return text


@contextlib.contextmanager
def _without_slice_pairs() -> Iterator[None]:
    """Without onnxscript's rule that makes a Split of two Slices, which no family has.

    onnxscript 0.7 lists all nodes of the graph anew for each node that it tries this rule on: a third of the time of
    an export, and of MoH-ViT's and TransNeXt's, which have thousands of nodes, more than ten minutes.
    """
    from onnxscript import rewriter

    name = "_DEFAULT_REWRITE_RULES"  # private, so it may go away
    with _REWRITING:
        rules = getattr(rewriter, name, ())
        setattr(rewriter, name, tuple(rule for rule in rules if rule.name != "SlicesSplit") or rules)
        try:
            yield
        finally:
            setattr(rewriter, name, rules)


class ONNXRuntime(Runtime):
    """ONNX, run by ONNX Runtime on the CPU."""

    suffix = ".onnx"
    packages = {"onnx": "onnx", "onnxscript": "onnxscript", "onnxruntime": "onnxruntime"}

    def __init__(self, path: str | os.PathLike, threads: int | None = None) -> None:
        import onnxruntime as ort

        options = ort.SessionOptions()
        options.log_severity_level = 3
        if threads:
            options.intra_op_num_threads = threads
        self.session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        self.names = [i.name for i in self.session.get_inputs()]
        stored = self.session.get_modelmeta().custom_metadata_map
        self.metadata = {key: _parsed(value) for key, value in stored.items()}

    def __call__(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        feed = {name: x.numpy() for name, x in zip(self.names, inputs, strict=True)}
        return tuple(torch.from_numpy(np.asarray(y)) for y in self.session.run(None, feed))

    @staticmethod
    def write(program: ExportedProgram, path: Path, opset: int, dynamic: Sequence[int], half: bool) -> None:
        import onnx

        from backbones.deploy.onnx_operators import Translated, translation_table, whole_translations

        options = {"dynamo": True, "verbose": False, "optimize": True, "opset_version": opset}
        table = translation_table()
        with quiet(), contiguous_attention(program), _without_slice_pairs():
            try:
                translated, whole = Translated(program), table | whole_translations()
                with translated.attempt():
                    onnx_program = torch.onnx.export(translated, (), custom_translation_table=whole, **options)
            except Exception:  # of many types: something that is translated in parts alone
                onnx_program = torch.onnx.export(program, (), custom_translation_table=table, **options)
            onnx_program.save(str(path))
        model = onnx.load(path, load_external_data=False)
        names = {}
        for d in dynamic:
            dim = model.graph.input[0].type.tensor_type.shape.dim[d]
            names[dim.dim_param] = dim.dim_param = DIMENSIONS[d]
        for output in model.graph.output:
            for dim in output.type.tensor_type.shape.dim:
                if dim.HasField("dim_param"):
                    dim.dim_param = names.get(dim.dim_param, dim.dim_param)
        for node in model.graph.node:  # "stages.0.blocks.0.mlp.fc1/MatMul_15"
            scopes = [p.value for p in node.metadata_props if p.key == "pkg.torch.onnx.name_scopes"]
            if scopes:
                module = "".join(ast.literal_eval(scopes[0])[-2:-1])  # of a sum of sizes there is none
                node.name = f"{module}/{node.name.removeprefix('node_')}"
        if half:
            from onnxruntime.transformers.float16 import convert_float_to_float16

            onnx.load_external_data_for_model(model, str(path.parent))
            model = convert_float_to_float16(model, keep_io_types=True)
        del model.graph.value_info[:]  # shapes in between, by other names
        onnx.save(model, path)

    @staticmethod
    def annotate(path: Path, metadata: dict[str, Any], program: ExportedProgram | None = None) -> None:
        import onnx

        model = onnx.load(path, load_external_data=False)
        del model.metadata_props[:]
        for key, value in metadata.items():
            model.metadata_props.add(key=key, value=json.dumps(value))
        onnx.save(model, path)


class OpenVINO(Runtime):
    """OpenVINO's pair of files, run on the CPU in the precision that the file is written in."""

    suffix = ".xml"
    packages = {**ONNXRuntime.packages, "openvino": "openvino"}

    def __init__(self, path: str | os.PathLike, threads: int | None = None) -> None:
        import openvino

        core = openvino.Core()
        model = core.read_model(path)
        said = model.has_rt_info(["backbones"])
        self.metadata = json.loads(model.get_rt_info(["backbones"]).astype(str)) if said else {}
        options: dict[str, Any] = {"INFERENCE_PRECISION_HINT": "f32"}  # some CPUs would choose bfloat16
        if model.is_dynamic():  # a fused kernel that it keeps from a small image may compute a large one wrongly
            options["CPU_RUNTIME_CACHE_CAPACITY"] = "0"
        if threads:
            options["INFERENCE_NUM_THREADS"] = threads
        self.model = core.compile_model(model, "CPU", options)

    def __call__(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        outputs = self.model([x.numpy() for x in inputs])
        return tuple(torch.from_numpy(outputs[i].copy()) for i in range(len(outputs)))

    @staticmethod
    def write(program: ExportedProgram, path: Path, opset: int, dynamic: Sequence[int], half: bool) -> None:
        import openvino

        with tempfile.TemporaryDirectory(dir=path.parent) as folder:
            source = path.with_suffix(".onnx")
            if half or not source.exists():
                source = Path(folder, source.name)
                ONNXRuntime.write(program, source, opset, dynamic, half=False)
            model = openvino.convert_model(source)
            for operator in model.get_ops():
                if operator.get_type_name() == "TopK":  # ONNX's keeps the order of equal values, this one if asked to
                    operator.set_attribute("stable", True)
            openvino.save_model(model, path, compress_to_fp16=half)
            del model  # which maps the file of weights

    @staticmethod
    def annotate(path: Path, metadata: dict[str, Any], program: ExportedProgram | None = None) -> None:
        import openvino

        model = openvino.Core().read_model(path)
        model.set_rt_info(json.dumps(metadata), ["backbones"])
        written = path.with_stem(path.stem + "_annotated")
        openvino.save_model(model, written, compress_to_fp16=False)  # what is half stays so
        del model  # which maps the file of weights
        for suffix in (".bin", ".xml"):
            written.with_suffix(suffix).replace(path.with_suffix(suffix))


class TorchExport(Runtime):
    """A program of ``torch.export``, run by PyTorch."""

    suffix = ".pt2"
    packages = {}
    _EXTRA = "backbones.json"

    def __init__(self, path: str | os.PathLike, threads: int | None = None) -> None:
        extra = {self._EXTRA: ""}
        program = load_program(path, extra)
        self.metadata = json.loads(extra[self._EXTRA] or "{}")
        self.module = run_program(program)

    def __call__(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        with torch.no_grad():
            return tensors(self.module(*inputs))

    @staticmethod
    def write(program: ExportedProgram, path: Path, opset: int, dynamic: Sequence[int], half: bool) -> None:
        save_program(program, path)

    @staticmethod
    def annotate(path: Path, metadata: dict[str, Any], program: ExportedProgram | None = None) -> None:
        program = program or load_program(path)  # loading takes seconds
        save_program(program, path, {TorchExport._EXTRA: json.dumps(metadata)})


FORMATS: dict[str, type[Runtime]] = {"onnx": ONNXRuntime, "openvino": OpenVINO, "pt2": TorchExport}


def load_export(path: str | os.PathLike, threads: int | None = None) -> Runtime:
    """Load an exported file with its own runtime.

    Args:
        path: An ``.onnx``, ``.xml`` or ``.pt2`` file.
        threads: Threads of an operator; None for the runtime's choice. Not of pt2 files, which PyTorch runs:
            ``torch.set_num_threads``.

    Raises:
        ValueError: If it is of another kind, cannot be read, or its runtime is missing.
        FileNotFoundError: If it does not exist, or one that belongs to it.
    """
    path = Path(path)
    kinds = {runtime.suffix: runtime for runtime in FORMATS.values()}
    if path.suffix not in kinds:
        raise ValueError(f"{path} is not an exported file: its name ends in {', '.join(kinds)}")
    if not path.is_file():
        raise FileNotFoundError(f"no exported file at {str(path)!r}")
    if path.suffix == OpenVINO.suffix and not path.with_suffix(".bin").is_file():
        raise FileNotFoundError(f"no {path.stem}.bin beside {str(path)!r}, where its weights are: copy both files")
    kinds[path.suffix].require()
    try:
        with quiet():
            return kinds[path.suffix](path, threads)
    except Exception as error:  # runtimes raise types of their own
        raise ValueError(f"{path} cannot be loaded: {first_line(error)}; copy or export it again") from error
