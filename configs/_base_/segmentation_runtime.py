# default_runtime in MMSegmentation's scope.
_base_ = "./default_runtime.py"

default_scope = "mmseg"
visualizer = dict(type="SegLocalVisualizer", alpha=0.6)
