"""Metafiles are read strictly, and the page follows from them."""

import csv
import re
import shlex
from pathlib import Path

import pytest
import timm
import yaml

from backbones.metafiles import BEYOND_BACKBONES, MetafileError, Published, load_metafile, load_metafiles
from backbones.models._registry import _variants
from tools.model_zoo import ROOT, main, render

METAFILE = """
Collections:
  - Name: Family
    Paper: {Title: A paper, URL: https://example.org/paper}
    Code: {URL: https://example.org/code}
    License: mit
Models:
  - Name: family-s_in1k
    Model: family_s.in1k
    In Collection: Family
    Metadata: {Training Data: ImageNet-1k, Input Size: 256x192, Parameters: 4105800, FLOPs: 868118912}
    Published: {Parameters: 4.1 M, MACs: 0.9 G, Source: paper}
    Results:
      - {Task: Image Classification, Dataset: ImageNet-1k, Metrics: {Top 1 Accuracy: 75.4}, Source: paper}
      - {Task: Image Classification, Dataset: Digits, Metrics: {Top 1 Accuracy: 98.1}, Source: measured}
    Weights: https://example.org/files/family_s.pth?dl=1
"""


def write(folder: Path, text: str = METAFILE) -> Path:
    path = folder / "family" / "metafile.yml"
    path.parent.mkdir()
    path.write_text(text)
    return path


@pytest.mark.parametrize(
    ("text", "counted", "agrees"),
    [
        ("100 M", 101.9e6, True),
        ("100 M", 102.1e6, False),
        ("0.9 G", 0.851e9, True),  # rounds to it
        ("0.9 G", 0.849e9, False),
        ("3.70 G", 3.749e9, True),
        ("3.70 G", 3.78e9, False),
    ],
)
def test_printed_number_allows_two_per_cent_or_its_rounding(text: str, counted: float, agrees: bool) -> None:
    assert Published.parse(text).agrees(counted) is agrees


def test_page_has_the_entry(tmp_path: Path) -> None:
    page = render(load_metafile(write(tmp_path)))
    row = next(line for line in page.splitlines() if "family_s" in line)
    assert [cell.strip() for cell in row.strip("|").split("|")] == [
        "`family_s.in1k`",
        "256x192",
        "4.11",
        "4.1",
        "0.87",
        "0.9",
        "75.4 *paper*",
        "98.1 *measured*",
        "[family_s.pth](https://example.org/files/family_s.pth?dl=1)",
        "–",
        "mit",
    ]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("    Weights:", "    Wieghts:", "unknown key 'Wieghts'; did you mean 'Weights'"),
        ("Metrics: {Top 1 Accuracy: 75.4}, Source: paper", "Metrics: {Top 1 Accuracy: 75.4}", "Source missing"),
        ("Source: measured", "Source: rumour", "source 'rumour' is none of"),
        ("MACs: 0.9 G, ", "", "MACs missing; write 'not printed'"),
        ("0.9 G", "900", "'900' is no printed number|900 is no printed number"),
        ("In Collection: Family", "In Collection: Famly", "collection 'Famly' is not in this file"),
        ("    Weights: https://example.org/files/family_s.pth?dl=1\n", "", "Weights Note"),
        ("    Weights:", "    Config: configs/none.py\n    Weights:", "there is no configs/none.py"),
        ("Parameters: 4105800, ", "", "Parameters missing"),
        ("256x192", "[256, 192]", r"Input Size \[256, 192\]: write 224, or 256x192"),
        ("Models:", "Modles:", "needs the lists Collections and Models"),
    ],
)
def test_broken_metafile_is_named(tmp_path: Path, old: str, new: str, message: str) -> None:
    assert old in METAFILE
    path = write(tmp_path, METAFILE.replace(old, new, 1))
    with pytest.raises(MetafileError, match=message) as error:
        load_metafile(path)
    assert "family/metafile.yml" in str(error.value)


DETECTOR = """\
  - Name: family-s_retinanet
    Model: family_s.in1k
    In Collection: Family
    Metadata: {Training Data: COCO, Input Size: 800x1280, Parameters: 23600000, FLOPs: 253000000000}
    Published: {Parameters: 23.6 M, MACs: not printed, Source: paper}
    Results:
      - {Task: Object Detection, Dataset: COCO, Metrics: {box AP: 42.3}, Source: paper}
    Weights Note: by hand from https://example.org/page
    Weights Layout: official
    Weights Key: state_dict
    Config: configs/van/detection/van-b1_retinanet-fpn_8xb2-1x_coco.py
"""


def test_detectors_have_a_table_of_their_own(tmp_path: Path) -> None:
    entries = load_metafile(write(tmp_path, METAFILE + DETECTOR))
    assert [entry.task for entry in entries] == ["classification", "detection"]
    page = render(entries)
    table = page.partition("### Detection\n\n")[2].partition("\n\n")[0].splitlines()
    columns = [cell.strip() for cell in table[0].strip("|").split("|")]
    assert columns[6:8] == ["COCO box AP", "weights"]  # and none that would be empty
    assert table[2].startswith(
        "| `family_s.in1k` | 800x1280 | 23.60 | 23.6 | 253.00 | – | 42.3 *paper* | by hand from ["
    )
    assert "family_s.in1k" in page.partition("### Detection")[0] and "42.3" not in page.partition("### Detection")[0]


def test_what_is_unverified_can_be_run() -> None:
    """Each line names a config and weights that are in a metafile or belong to a tag."""
    lines = re.findall(r"^backbones test (.*)$", (ROOT / "MODEL_ZOO.md").read_text(), re.MULTILINE)
    known = {Path(entry.config).stem: entry for entry in load_metafiles() if entry.config}
    words = [shlex.split(line) for line in lines]
    assert {known[config].task for config, _ in words} == {"classification", "detection", "segmentation"}
    for config, checkpoint in words:
        assert checkpoint in (known[config].weights, known[config].model)


def test_double_entry_is_refused(tmp_path: Path) -> None:
    models = METAFILE.partition("Models:\n")[2]
    with pytest.raises(MetafileError, match="family-s_in1k stands there twice"):
        load_metafile(write(tmp_path, METAFILE + models))


def test_check_finds_a_difference(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = tmp_path / "ZOO.md"
    assert main(["--check", "--output", str(page)]) == 1
    assert main(["--output", str(page)]) == 0
    assert main(["--check", "--output", str(page)]) == 0
    page.write_text(page.read_text().replace("75.4 *paper*", "76.4 *paper*"))
    assert main(["--check", "--output", str(page)]) == 1
    assert "76.4" in capsys.readouterr().err


def test_page_in_the_tree_is_up_to_date() -> None:
    assert main(["--check"]) == 0


def test_csv_has_timms_columns(tmp_path: Path) -> None:
    path = tmp_path / "results.csv"
    assert main(["--output", str(tmp_path / "ZOO.md"), "--csv", str(path)]) == 0
    rows = list(csv.DictReader(path.open()))
    timm_columns = "model img_size top1 top1_err top5 top5_err param_count crop_pct interpolation".split()
    assert list(rows[0]) == [*timm_columns, "source"]
    row = next(r for r in rows if r["model"] == "van_b0.in1k" and r["source"] == "paper")
    assert (row["top1"], row["top1_err"], row["crop_pct"], row["interpolation"]) == ("75.4", "24.6", "0.9", "bicubic")


def test_weights_are_those_that_the_tag_loads() -> None:
    entries = [e for e in load_metafiles() if e.weights and "." in e.model and e.task not in BEYOND_BACKBONES]
    assert entries
    for entry in entries:
        cfg = timm.models.get_pretrained_cfg(entry.model)
        if cfg.hf_hub_id:  # asked first, the address second
            assert entry.weights.startswith(f"https://huggingface.co/{cfg.hf_hub_id}/"), entry.model
        else:
            assert entry.weights == cfg.url, entry.model


def test_layouts_and_keys_are_those_that_are_read() -> None:
    """Every published file is in a layout that its model converts, under a key that is looked for."""
    for path in (ROOT / "configs").glob("*/metafile.yml"):
        for raw in yaml.safe_load(path.read_text())["Models"]:
            model_cls = _variants[raw["Model"].split(".")[0]]
            published = raw.get("Weights") or "http" in raw.get("Weights Note", "")
            if published and model_cls.task == "classification":
                assert raw["Weights Layout"] in model_cls.checkpoint_layouts, raw["Name"]
                assert raw.get("Weights Key", "state_dict") in model_cls.checkpoint_entries, raw["Name"]


def test_openmmlabs_tools_can_read_the_files() -> None:
    """The index names every metafile; names are unique; mim joins the entries of a list as texts."""
    index = yaml.safe_load((ROOT / "model-index.yml").read_text())
    files = sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "configs").glob("*/metafile.yml"))
    assert index == {"Import": files}
    contents = [yaml.safe_load((ROOT / file).read_text()) for file in files]
    models = [model for content in contents for model in content["Models"]]
    assert len({model["Name"] for model in models}) == len(models)
    for entry in models + [collection for content in contents for collection in content["Collections"]]:
        for value in entry["Metadata"].values():
            assert not isinstance(value, list) or all(isinstance(text, str) for text in value), entry["Name"]


def test_configs_of_the_families_exist() -> None:
    families = {path.parent.name for path in (ROOT / "configs").glob("*/metafile.yml")}
    assert {"van", "litv2"} <= families
