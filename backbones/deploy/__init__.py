"""Models as files for other runtimes, each loaded again and compared with the model before it gets its name.

``export`` writes ONNX, OpenVINO or ``torch.export`` files, ``load_export`` runs any of them. ``backbones export`` and
``backbones check-export`` are the commands.
"""

from backbones.deploy.dense import DensePreprocessing
from backbones.deploy.export import ExportError, export
from backbones.deploy.metadata import Preprocessing
from backbones.deploy.runtimes import FORMATS, Runtime, load_export

__all__ = ["FORMATS", "DensePreprocessing", "ExportError", "Preprocessing", "Runtime", "export", "load_export"]
