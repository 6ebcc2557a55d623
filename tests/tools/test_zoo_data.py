"""What the zoo explorer is given: every entry with working snippets, weights, and speeds as docs/speed.md has them."""

import ast
import re
import shlex

import pytest
import timm
import torch

import backbones
from backbones import cli
from backbones.configs import find_config
from backbones.metafiles import Entry, load_metafiles
from backbones.weights.fetch import sha256_of
from tools.zoo_data import ROOT, metrics, row, snippets, speeds, weights, zoo

ENTRIES = load_metafiles()


def test_every_number_of_the_metafiles_is_there() -> None:
    rows = {row["id"]: row for row in zoo(ENTRIES, (ROOT / "docs/speed.md").read_text())["rows"]}
    keys = {(column["task"], column["dataset"], column["metric"]): column["key"] for column in metrics()}
    for entry in ENTRIES:
        for result in entry.results:
            for metric, value in result["Metrics"].items():
                shown = {"value": value, "source": result["Source"]}
                if key := keys.get((entry.task, result["Dataset"], metric)):
                    assert shown in rows[entry.name]["results"][key]
                else:  # in the opened row
                    assert {"title": f"{result['Dataset']} {metric}", **shown} in rows[entry.name]["others"]
    assert len(rows) == len(ENTRIES)


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry.name)
def test_snippets_name_what_exists(entry: Entry) -> None:
    found = snippets(entry)
    assert found
    for snippet in found:
        if snippet["language"] == "bash":
            for line in snippet["code"].splitlines():
                program, command, *arguments = shlex.split(line)
                assert program == "backbones" and command in cli.COMMANDS
                if command in ("train", "test"):
                    find_config(arguments[0])
            continue
        ast.parse(snippet["code"])
        (name,) = re.findall(r'(?:create_model\(|\bmodel=)"(.*?)"', snippet["code"])
        assert timm.is_model(name.partition(".")[0])
        if "pretrained=True" in snippet["code"]:
            assert name in timm.list_pretrained(f"{entry.arch}.*")


@pytest.mark.parametrize("name", ["van-test_1xb32-20e_digits-64px", "litv2-test_1xb32-20e_digits-64px"])
def test_snippets_run(name: str) -> None:
    (entry,) = (entry for entry in ENTRIES if entry.name == name)
    for snippet in snippets(entry):
        if snippet["title"] in ("timm", "Feature maps"):
            scope: dict = {}
            exec(snippet["code"], scope)
            (scope.get("model") or scope["features"])(torch.randn(1, 3, 64, 64))


def test_weights_are_described() -> None:
    by_name = {entry.name: weights(entry) for entry in ENTRIES}
    file = ROOT / "backbones/weights/digits/test_van.safetensors"
    shipped = by_name["van-test_1xb32-20e_digits-64px"]
    assert (shipped["status"], shipped["sha256"], shipped["bytes"]) == ("shipped", sha256_of(file), file.stat().st_size)
    hashed = [found for found in by_name.values() if found["status"] == "direct" and "sha256" in found]
    assert hashed and all(found["sha256"] in found["url"] for found in hashed)
    assert {found["status"] for found in by_name.values()} == {"direct", "shipped", "by hand", "none"}
    assert all("https://" in found["note"] for found in by_name.values() if found["status"] == "by hand")


PAGE = """
**An oven** (big), wall time:

| model | inference | training step |
| --- | --- | --- |
| `van_b0` | 3.11 – 3.40 | 2.37 |
| `van_b2` | 0.85 | not measured |

| model | other |
| --- | --- |
| `van_b0` | 9 |
"""


def test_speeds_are_read() -> None:
    assert speeds(PAGE) == {
        "van_b0": [{"machine": "oven", "inference": [3.11, 3.4], "training": [2.37, 2.37]}],
        "van_b2": [{"machine": "oven", "inference": [0.85, 0.85], "training": None}],
    }
    entries = {entry.name: entry for entry in ENTRIES}
    assert row(entries["van-b0_8xb128_in1k"], speeds(PAGE))["speed"][0]["machine"] == "oven"
    # speed is of a classifier, not of a detector on it
    assert row(entries["van-b0_retinanet-fpn_8xb2-1x_coco"], speeds(PAGE))["speed"] == []
    assert set(speeds((ROOT / "docs/speed.md").read_text())) <= set(backbones.list_models())


@pytest.mark.parametrize(
    ("page", "message"),
    [("", "no table"), (PAGE.replace("0.85", "fast"), "no speed 'fast'"), (PAGE.replace("**", ""), "unnamed machine")],
)
def test_a_page_without_speeds_is_an_error(page: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        speeds(page)
