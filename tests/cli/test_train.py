"""Training from configs, as the command line does it."""

import re
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from backbones.cli import predict, test, train
from backbones.images import list_images
from backbones.mm.training.digits import write_digits
from tools import demo

pytestmark = pytest.mark.mm

ROOT = Path(__file__).resolve().parents[2]
CONFIG = str(ROOT / "configs/van/classification/van-test_1xb32-20e_digits-64px.py")


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    return write_digits(tmp_path_factory.mktemp("data") / "digits")


def options(root: Path, epochs: int, images: int | None = None) -> list[str]:
    chosen = {"train_cfg.max_epochs": epochs}
    for loader in ("train_dataloader", "val_dataloader", "test_dataloader"):
        chosen[f"{loader}.dataset.data_root"] = root
        if images:
            chosen[f"{loader}.dataset.indices"] = images
    return ["--cfg-options", *(f"{key}={value}" for key, value in chosen.items())]


@pytest.mark.slow
def test_demo_learns(digits, tmp_path, capsys):
    epochs = 5
    options = [f"train_cfg.max_epochs={epochs}"]
    options += [f"{part}_dataloader.dataset.data_root={digits}" for part in ("train", "val")]
    demo.main(["--work-dir", str(tmp_path), "--min-top1", "80", "--cfg-options", *options])
    out = capsys.readouterr().out
    accuracy = [
        float(x)
        for x in re.findall(r"Epoch\(val\).*accuracy/top1: ([\d.]+)", (next(tmp_path.glob("*/*.log"))).read_text())
    ]
    assert len(accuracy) == epochs and accuracy[-1] > max(accuracy[0] + 20, 80)
    # the printed number is of the saved file, the log's of the weights in memory
    assert float(re.search(r"top-1 on 360 held-out images: ([\d.]+) %", out)[1]) == pytest.approx(accuracy[-1], abs=0.3)
    for name in ("learning_curve.png", "predictions.png", "confusion_matrix.png", f"epoch_{epochs}.pth"):
        assert f"{tmp_path}/{name}" in out.splitlines()
        assert (tmp_path / name).stat().st_size > 5000

    metrics = test.main(
        [CONFIG, str(tmp_path / f"epoch_{epochs}.pth"), "--work-dir", str(tmp_path), "--cfg-options"]
        + [f"test_dataloader.dataset.data_root={digits}"]
    )
    assert metrics["accuracy/top1"] == pytest.approx(accuracy[-1], abs=0.3)
    assert (tmp_path / "metrics.json").exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    "extra", [["--amp"], ["--cfg-options", "model.backbone.with_cp=True", "model.backbone.frozen_stages=1"]]
)
def test_options_of_training_run(digits, tmp_path, extra):
    arguments = options(digits, epochs=2, images=64)
    if extra[0] == "--cfg-options":
        arguments, extra = arguments + extra[1:], []
    train.main([CONFIG, "--work-dir", str(tmp_path), "--seed", "1", *extra, *arguments])
    assert torch.load(tmp_path / "epoch_2.pth", weights_only=False)["meta"]["iter"] == 4


# Mistakes end before training, in one line ----------------------------------------------------------------------------


def test_bad_images_stop_training_before_it_starts(tmp_path, capsys):
    root = write_digits(tmp_path / "digits")
    empty = root / "train/3/empty.png"
    empty.touch()
    cut = next((root / "val/7").iterdir())
    cut.write_bytes(cut.read_bytes()[:60])
    work_dir = tmp_path / "work"
    with pytest.raises(SystemExit) as stop:
        train.main([CONFIG, "--work-dir", str(work_dir), *options(root, epochs=2)])
    message = str(stop.value)
    assert message.startswith("error: 2 of 1798 images cannot be read")
    assert f"{empty}: empty file" in message and f"{cut}: " in message
    assert not list(work_dir.glob("*.pth"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["absent.py"], "no config 'absent.py'"),
        ([str(ROOT / "configs/van/classification/van-b0_8xb128_in1k.py")], "no data folder .* image-net.org"),
        ([CONFIG, "--cfg-options", "model.backbone.model=test_vam"], "did you mean test_van"),
        ([CONFIG, "--cfg-options", "model.backbone.num_classes=7"], "set model.backbone.num_classes=10"),
        ([CONFIG, "--resume", "absent.pth"], "no checkpoint at 'absent.pth'"),
    ],
)
def test_mistakes_are_one_line(arguments, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stop:
        train.main(arguments)
    assert re.match(f"error: .*{message}", str(stop.value)) and "\n" not in str(stop.value)


def test_checkpoint_that_does_not_fit_stops_testing(tmp_path):
    import backbones

    path = tmp_path / "a.pth"
    torch.save({"state_dict": backbones.create_model("test_van", num_classes=7).state_dict()}, path)
    with pytest.raises(SystemExit, match="error: .*num_classes"):
        test.main([CONFIG, str(path), "--work-dir", str(tmp_path)])
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(SystemExit, match="error: .*truncated"):
        test.main([CONFIG, str(path), "--work-dir", str(tmp_path)])


def save_digits(path: Path, classes: tuple[str, ...] | None) -> str:
    import backbones

    weights = backbones.create_model("test_van.digits", pretrained=True).state_dict()
    torch.save({"state_dict": weights, "meta": {"dataset_meta": {"classes": classes}, "seed": 0}}, path)
    return str(path)


def test_a_test_has_the_classes_of_training(tmp_path, capsys):
    """Without one folder, results of the others are as before, and other folders stop."""
    root = write_digits(tmp_path / "digits")
    checkpoint = save_digits(tmp_path / "epoch_1.pth", tuple("0123456789"))

    config = tmp_path / "config.py"
    config.write_text(
        f"""
_base_ = {CONFIG!r}
pipeline = _base_.test_pipeline
data_root = {str(root / "val")!r}
test_dataloader = dict(dataset=dict(_delete_=True, type="CustomDataset", data_root=data_root, pipeline=pipeline))
"""
    )
    arguments = [str(config), checkpoint, "--work-dir", str(tmp_path / "work")]
    trained = predict.load_mm(CONFIG, checkpoint, "cpu")
    files = [file for file in list_images(root / "val") if Path(file).parent.name != "3"]
    answers = predict.run(trained.probabilities, files, 60).argmax(1).tolist()
    share = 100 * sum(int(Path(file).parent.name) == answer for file, answer in zip(files, answers)) / len(files)
    shutil.rmtree(root / "val/3")
    (root / "val/.ipynb_checkpoints").mkdir()
    assert test.main(arguments)["accuracy/top1"] == pytest.approx(share, abs=1e-3)
    assert share > 90
    (root / "val/4").rename(root / "val/four")
    with pytest.raises(SystemExit, match=r"error: .*val has folders that are no class \(four\), .*epoch_1.pth has"):
        test.main(arguments)


def test_data_that_were_written_before_have_the_classes_of_training(digits, tmp_path):
    checkpoint = save_digits(tmp_path / "epoch_1.pth", tuple("abcdefghij"))
    extra = ["--cfg-options", f"test_dataloader.dataset.data_root={digits}"]
    with pytest.raises(SystemExit, match=r"error: CustomDataset has the classes \(0, 1, .*epoch_1.pth \(a, b, "):
        test.main([CONFIG, checkpoint, "--work-dir", str(tmp_path), *extra])


def test_images_are_checked_in_any_dataset():
    from backbones.mm.training.checks import leaf_datasets

    class Leaf:
        def __init__(self, names):
            self.names = names

        def __len__(self):
            return len(self.names)

        def get_data_info(self, index):
            return dict(img_path=self.names[index])

    nested = SimpleNamespace(datasets=[SimpleNamespace(dataset=Leaf("ab")), Leaf("c")])
    assert [leaf.names for leaf in leaf_datasets(nested)] == ["ab", "c"]
