"""Pipelines read images as everything else does."""

import numpy as np
import pytest
from mmengine.registry import TRANSFORMS

from backbones.images import read_image
from backbones.mm.training.loading import LoadImage
from backbones.mm.training.run import load_config
from tests.test_images import FILES, TURNED, grey, tagged

pytestmark = pytest.mark.mm


@pytest.mark.parametrize(("ending", "make", "options", "expected"), FILES)
def test_pixels_of_a_pipeline_are_those_of_the_reader(tmp_path, ending, make, options, expected):
    path = str(tmp_path / f"a.{ending}")
    make().save(path, **options)
    results = TRANSFORMS.build(dict(type="LoadImage"))({"img_path": path})
    np.testing.assert_array_equal(results["img"][..., ::-1], read_image(path))
    assert results["img_shape"] == results["ori_shape"] == results["img"].shape[:2]
    assert results["img"].dtype == np.uint8


def test_options(tmp_path):
    path = str(tmp_path / "a.png")
    grey().save(path, **tagged(6))
    load = lambda **options: LoadImage(**options)({"img_path": path})["img"]  # noqa: E731
    np.testing.assert_array_equal(load(color_type="grayscale"), TURNED)
    np.testing.assert_array_equal(load(color_type="grayscale_ignore_orientation"), grey())
    np.testing.assert_array_equal(load(color_type="color_ignore_orientation")[..., 0], grey())
    assert load(to_float32=True).dtype == np.float32
    with pytest.raises(ValueError, match="color_type 'unchanged'"):
        LoadImage(color_type="unchanged")
    with open(path, "wb") as file:
        file.write(b"\x89PNG")
    with pytest.raises(ValueError, match="cannot read .*a.png"):
        load()
    assert LoadImage(ignore_empty=True)({"img_path": path}) is None


def test_every_pipeline_of_a_config_gets_the_one_loader(tmp_path):
    path = tmp_path / "a.py"
    path.write_text(
        """
steps = [dict(type="LoadImageFromFile", imdecode_backend="pillow", to_float32=True), dict(type="PackInputs")]
raw = [dict(type="mmcv.LoadImageFromFile", color_type="unchanged")]
spectra = [dict(type="LoadImageFromFile", imdecode_backend="tifffile")]
train_dataloader = dict(dataset=dict(type="Repeat", dataset=dict(pipeline=steps)))
val_dataloader = dict(dataset=dict(pipeline=[dict(type="mmcv.LoadImageFromFile")]))
test_dataloader = dict(dataset=dict(pipeline=raw))
"""
    )
    cfg = load_config(path)
    one = dict(type="LoadImage", to_float32=True)
    assert cfg.train_dataloader.dataset.dataset.pipeline == [one, dict(type="PackInputs")]
    assert cfg.val_dataloader.dataset.pipeline == [dict(type="LoadImage")]
    assert cfg.test_dataloader.dataset.pipeline[0].type == "mmcv.LoadImageFromFile"
    assert cfg.spectra[0].type == "LoadImageFromFile"
