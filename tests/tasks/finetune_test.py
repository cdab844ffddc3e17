"""Finetuning on shares of the labels."""

import numpy as np
import pytest

from pcm3_jax.errors import UserError
from pcm3_jax.tasks import finetune
from pcm3_jax.tasks.finetune import Finetune
from pcm3_jax.train.workdir import claim_workdir
from tests.running import losses


def test_finetuning_draws_subsets_and_resumes(finished_run, brief_config, tmp_path):
    brief_config.encoder = str(finished_run[0])
    results = Finetune().run(brief_config, tmp_path)
    assert results["labelled"] == 32
    assert len(results["top1_draws"]) == 2
    assert results["top1"] == pytest.approx(np.mean(results["top1_draws"]))
    assert results["top1_std"] == pytest.approx(np.std(results["top1_draws"], ddof=1))
    # From the checkpoints, without a step.
    assert Finetune().run(brief_config, tmp_path) == results


def test_a_draw_that_is_not_finite_can_be_repeated(brief_config, tmp_path):
    brief_config.finetune.learning_rate = 1e38
    for workdir in (tmp_path, tmp_path / "failure"):
        claim_workdir(workdir, brief_config)
        with pytest.raises(UserError, match="is not finite") as caught:
            Finetune().run(brief_config, workdir)
        assert str(workdir / "failure") in str(caught.value)
    told = [folder / "failure" / "metrics.json" for folder in (tmp_path, tmp_path / "failure")]
    assert told[0].read_text() == told[1].read_text()


def test_occlusions_when_testing_do_not_depend_on_the_batches(brief_config, tmp_path):
    brief_config.occlusion.kind = "spatial"
    brief_config.finetune.draws = 1
    results = []
    for batch_size in (16, 5):
        brief_config.eval.batch_size = batch_size
        results.append(Finetune().run(brief_config, tmp_path))
    assert results[0] == results[1]


def test_all_draws_are_trained_by_one_program(brief_config, tmp_path, monkeypatch):
    def counted(*arguments):
        loss = made(*arguments)
        return lambda *inputs: (traced.append(1), loss(*inputs))[1]

    traced, made = [], finetune.classification_loss
    monkeypatch.setattr(finetune, "classification_loss", counted)
    brief_config.finetune.draws = 3
    assert len(Finetune().run(brief_config, tmp_path)["top1_draws"]) == 3
    assert len(traced) == 1


@pytest.mark.usefixtures("optimised")
def test_finetuning_on_everything_learns(brief_config, tmp_path):
    brief_config.finetune.update(
        fraction=1.0, draws=1, epochs=40, decay_epochs=(), name="adamw", learning_rate=1e-2
    )
    results = Finetune().run(brief_config, tmp_path)
    found = losses(tmp_path / "draw_0")
    assert found[:4].mean() > 2  # 18 classes at random: 2.9
    assert found[-4:].mean() < 0.5
    assert results["top1"] > 0.25  # one of 18 classes at random: 0.06
