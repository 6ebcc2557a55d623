"""Model cards: what the hub reads, every number with its source, code that runs."""

import re
from pathlib import Path

import pytest
import skimage.data
import torch
from huggingface_hub import ModelCard
from PIL import Image

from backbones import cli
from backbones.cli.card import SOURCES, card, find_entry
from backbones.metafiles import Entry, load_metafiles

ENTRIES = load_metafiles()


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry.name)
def test_the_hub_reads_every_card(entry: Entry) -> None:
    page = ModelCard(card(entry))
    assert page.data.license and page.data.pipeline_tag
    assert (page.data.library_name == "timm") == (entry.task == "classification")
    numbers = {(r.dataset_name, r.metric_name, r.metric_value, r.source_name) for r in page.data.eval_results or ()}
    printed = {
        (result["Dataset"], metric, value, SOURCES[result["Source"]])
        for result in entry.results
        for metric, value in result["Metrics"].items()
    }
    assert numbers <= printed and {dataset for dataset, *_ in numbers} == {dataset for dataset, *_ in printed}
    for dataset, metric, value, source in printed:
        assert f"| {dataset} | {metric} | {value} | {source} |" in page.text
    assert entry.collection.paper_url in page.text


@pytest.mark.parametrize("name", ["test_van.digits", "test_illama"])
def test_its_code_runs(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Image.fromarray(skimage.data.astronaut()).save("image.jpg")
    codes = re.findall(r"```python\n(.*?)```", card(find_entry(name)), re.DOTALL)
    assert len(codes) == 3
    for code in codes:
        torch.manual_seed(0)
        scope: dict = {}
        exec(code, scope)
    assert scope["embeddings"].shape == (1, scope["model"].num_features)


def test_names() -> None:
    assert find_entry("van_b0") == find_entry("van_b0.in1k") == find_entry("van-b0_8xb128_in1k")
    assert find_entry("litv2_b.in1k_384").img_size == (384, 384)
    assert find_entry("van-b0_retinanet-fpn_8xb2-1x_coco").task == "detection"
    with pytest.raises(ValueError, match="'van_b9.in1k'; near names: van_b"):
        find_entry("van_b9.in1k")


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert cli.main(["card", "van_b0.in1k"]) == 0
    printed = capsys.readouterr().out
    assert 'create_model("van_b0.in1k", pretrained=True)' in printed and "75.4" in printed
    assert cli.main(["card", "van_b0.in1k", "--out", str(tmp_path / "cards/README.md")]) == 0
    assert (tmp_path / "cards/README.md").read_text().strip() == printed.strip()
    with pytest.raises(SystemExit):
        cli.main(["card", "van_b9"])
    assert "near names" in capsys.readouterr().err
