"""The command that compares frozen models."""

import csv
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from backbones.cli import probe
from backbones.mm.training.digits import write_digits
from tests.cli.test_predict import odd_files


@pytest.fixture(scope="module")
def few(tmp_path_factory):
    """Twenty scans of each of three digits to train, six to hold out."""
    folder = tmp_path_factory.mktemp("few")
    whole = write_digits(folder / "digits")
    for split, count in (("train", 20), ("val", 6)):
        for digit in "013":
            (folder / "few" / split / digit).mkdir(parents=True)
            for file in sorted((whole / split / digit).iterdir())[:count]:
                shutil.copy(file, folder / "few" / split / digit)
    return folder / "few"


def run(*words: object) -> int:
    return probe.main([str(word) for word in words])


def read(path: Path) -> list[dict[str, str]]:
    with path.open() as file:
        return list(csv.DictReader(file))


def test_all_heads_with_and_without_the_cache(few, tmp_path, capsys):
    heads = ("--levels", "1", "-1", "--heads", "knn", "linear", "ep", "anomaly", "--normal", 0)
    common = ("test_van.digits", "--data", few, *heads)
    kept = ("--cache", tmp_path / "cache")
    for name, options in (("first", kept), ("second", kept), ("without", ["--no-cache"])):
        assert run(*common, "--out-dir", tmp_path / name, *options) == 0
    rows = {name: read(tmp_path / name / "probe.csv") for name in ("first", "second", "without")}
    for row in sum(rows.values(), []):
        del row["seconds"]
    assert rows["first"] == rows["second"] == rows["without"] and len(rows["first"]) == 8
    assert len(list((tmp_path / "cache").glob("*.safetensors"))) == 4
    assert all(float(row["score"]) > 0.8 for row in rows["first"])
    assert {(row["level"], row["head"]) for row in rows["first"]} == {(l, h) for l in "13" for h in probe.HEADS}
    pictures = {path.name.split("-test_van")[0] for path in (tmp_path / "first").glob("*-level1.png")}
    assert pictures == {"confusion-knn", "confusion-linear", "confusion-ep", "queries", "anomaly"}
    table = capsys.readouterr().out
    assert "Q=32" in table and "AUROC" in table and "k=" in table
    for path in (tmp_path / "first").glob("*.png"):
        with Image.open(path) as picture:
            assert min(picture.size) > 200 and np.ptp(np.asarray(picture.convert("L"))) > 200


def test_rows_stay_when_a_later_head_fails(few, tmp_path, monkeypatch):
    def fail(job):
        raise MemoryError

    monkeypatch.setitem(probe.RUN, "linear", fail)
    options = ["--heads", "knn", "linear", "--no-cache", "--out-dir", tmp_path]
    with pytest.raises(MemoryError):
        run("test_van.digits", "--data", few, *options)
    assert [row["head"] for row in read(tmp_path / "probe.csv")] == ["knn"]


def test_modes_of_images_do_not_matter(few, tmp_path):
    """A scan in any of the modes is the scan: its distance to the memory that holds it is nothing."""
    scan = Image.open(sorted((few / "train" / "1").iterdir())[0])
    (tmp_path / "odd" / "train" / "scan").mkdir(parents=True)
    scan.save(tmp_path / "odd" / "train" / "scan" / "a.png")
    (tmp_path / "odd" / "val" / "scan").mkdir(parents=True)
    odd_files(tmp_path / "odd" / "val" / "scan", scan)
    (tmp_path / "odd" / "val" / "other").mkdir()
    Image.effect_noise((8, 8), 90).save(tmp_path / "odd" / "val" / "other" / "b.png")
    options = ["--heads", "anomaly", "--normal", "scan", "--no-cache"]
    assert run("test_van.digits", "--data", tmp_path / "odd", *options, "--out-dir", tmp_path / "out") == 0
    assert read(tmp_path / "out" / "probe.csv")[0]["score"] == "1.0000"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--queries", 5], "test_van.digits, level 3: --queries: 5 queries do not divide 64 channels"),
        (["--levels", "4"], "levels 0 to 3 .* not 4"),
        (["--levels", "last"], "--levels takes numbers or the word all, not 'last'"),
        (["--heads", "anomaly"], "--normal names the class of normal images, one of 0, 1, 3"),
        (["--heads", "anomaly", "--normal", "9"], "--normal names the class"),
    ],
)
def test_mistakes_are_one_line_before_work_begins(few, words, message, monkeypatch, tmp_path):
    monkeypatch.setattr(probe, "extract_features", None)
    with pytest.raises(SystemExit, match=f"error: .*{message}"):
        run("test_van.digits", "--data", few, "--out-dir", tmp_path / "out", *words)
    assert not (tmp_path / "out").exists()


def test_a_class_of_one_image_is_named_before_work_begins(few, monkeypatch, tmp_path):
    monkeypatch.setattr(probe, "extract_features", None)
    data = shutil.copytree(few, tmp_path / "data")
    for file in sorted((data / "train" / "3").iterdir())[1:]:
        file.unlink()
    with pytest.raises(SystemExit, match="has one image of 3: knn holds one out"):
        run("test_van.digits", "--data", data, "--heads", "linear", "knn", "--out-dir", tmp_path / "out")
    assert not (tmp_path / "out").exists()
