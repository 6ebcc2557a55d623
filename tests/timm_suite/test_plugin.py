"""The plugin must hide models, not tests: whatever it lists, timm lists by the same rules."""

import pytest
import timm

import backbones
from tests.timm_suite import run, timm_suite_plugin

OURS = ["test_van", "van_b0", "test_litv2", "litv2_s"]


@pytest.mark.parametrize(
    "query",
    [
        {},
        {"filter": "vit_*", "exclude_filters": ["*large*"]},
        {"filter": ["test_*", "van_*"], "name_matches_cfg": True},
        {"exclude_filters": ["vit_*", "*_5b_*"], "include_tags": True},
    ],
)
def test_lists_as_timm_does(query, monkeypatch):
    monkeypatch.setattr(timm_suite_plugin, "PLAIN_TOKEN_MODELS", [])
    everything = timm_suite_plugin.make_list_models(timm.list_models())
    assert everything(**query) == timm.list_models(**query) != []


def test_lists_only_the_given_models():
    list_models = timm_suite_plugin.make_list_models(OURS)
    assert sorted(list_models()) == sorted(OURS)
    assert list_models(module=["vision_transformer"], filter="*van*") == ["test_van", "van_b0"]
    assert list_models(filter="resnet*") == []
    assert list_models(pretrained=True) == []


def test_plain_token_models_follow_the_rules_for_vision_transformers(monkeypatch):
    monkeypatch.setattr(timm_suite_plugin, "PLAIN_TOKEN_MODELS", ["litv2_*"])
    list_models = timm_suite_plugin.make_list_models(OURS)
    assert list_models(filter=["vit_*", "deit*"]) == ["litv2_s"]
    assert "litv2_s" not in list_models(exclude_filters=["vit_*"])
    assert "litv2_s" in list_models(exclude_filters=["*enormous*"])


def test_ci_takes_the_tiny_and_the_smallest_of_each_family():
    chosen = run.ci_models()
    assert set(OURS) <= set(chosen) <= set(backbones.list_models())
    assert len(chosen) == len(set(chosen))
    assert {"van_b1", "litv2_m"}.isdisjoint(chosen)
