"""The tables as data: their settings, the published figures, and the small scale."""

import pytest

from pcm3_jax import registry
from pcm3_jax.config import default_config
from pcm3_jax.tables import paper, runner
from pcm3_jax.tables.scale import SMALL, scaled
from tests.tables.making import RUNS, recipe


def test_the_ablations_set_what_they_are_named_after(fakes, data, tmp_path):
    methods = {}
    for number in (7, 8, 9, 10):
        base = scaled(recipe(number, data__dir=data))
        plan = runner.Plan(base, tmp_path, registry.TASKS)
        table = paper.TABLES[number]
        for row in table.rows:
            for column in table.columns(paper.benchmarks(table, (), "small")):
                (pretrained,) = plan.evaluation(row, column, column.terms[0], 0).needs
                methods[number, row.name] = pretrained.config.method
                methods[number, column.heading] = pretrained.config.views
    assert methods[7, "masked prediction"].positives == ()
    assert not methods[7, "contrast"].masked_prediction
    assert methods[7, "multi-task"] == methods[8, "intra+inter"]
    assert methods[8, "intra+mask+inter+KL"].positives == ("intra", "mask", "inter")
    assert methods[8, "intra+mask+inter+KL"].kl_weight == 1.0
    assert methods[9, "no prompts"] == methods[8, "intra+mask+predict+inter+KL"]
    assert methods[9, "both prompts"].prompt_placement == "before_norm"
    assert methods[9, "both prompts after norm"] == methods[7, "PCM³"]
    assert not methods[9, "domain prompts"].task_prompts
    assert methods[10, "random, synthetic (%)"].mask_strategy == "random"
    assert methods[10, "random, synthetic (%)"].mask_ratio == 0.8


def test_the_published_loss_by_occlusion_is_not_that_of_other_data():
    headings = [
        [column.heading for column in paper.TABLES[4].columns(paper.Benchmarks(actions=actions))]
        for actions in (paper.NTU60, paper.NTU60[:1])
    ]
    assert headings[0][2] == "spatial occlusion, Δ"
    assert headings[1][1] == "spatial occlusion, Δ, NTU 60 xsub"


def test_data_built_from_arrays_have_columns_of_their_own():
    data = "ntu_rgbd/ntu60_xsub@pyskl"
    assert paper.label(data) == "NTU 60 xsub @pyskl"
    assert paper.label(f"{data}>{data}") == "NTU 60 xsub @pyskl"
    assert paper.label(f"{data}>pku_mmd/part2_xsub") == "PKU-MMD II xsub from NTU 60 xsub @pyskl"
    assert paper.label("own_skeletons/coco_17@mine") == "own_skeletons/coco_17@mine"


@pytest.mark.parametrize("number", RUNS)
def test_published_figures_have_a_column_and_mostly_a_row(number):
    table = paper.TABLES[number]
    headings = [column.heading for column in table.columns(table.benchmarks)]
    assert len(set(headings)) == len(headings)
    figures = paper.published(number)
    assert all(set(row) <= set(headings) for row in figures.values())
    names = [row.name for row in table.rows]
    assert len(set(names)) == len(names)
    assert set(names) & set(figures)


def test_chosen_settings_override_the_small_ones():
    config = recipe(3, tables__scale="small", model__hidden=48, linear__epochs=7)
    small = scaled(config)
    assert (small.model.hidden, small.linear.epochs) == (48, 7)
    assert small.model.decoder_hidden == SMALL["model.decoder_hidden"]
    assert config.model.decoder_hidden == 512
    paper = default_config().flat()
    assert all(paper[key] != value for key, value in SMALL.items())
