"""Task "finetune" (Table 2): encoder and classifier trained on a share of the labels."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np

from pcm3_jax.augment.pipeline import occluded_view
from pcm3_jax.data.batch import Clips
from pcm3_jax.data.feed import Samples
from pcm3_jax.data.recordings import Recordings
from pcm3_jax.methods.state import build_encoder
from pcm3_jax.models.heads import Classifier
from pcm3_jax.runtime.parallel import AXIS
from pcm3_jax.settings import TINY, Config, Training, section, setting
from pcm3_jax.tasks.common import encoder_variables, top_k_accuracy
from pcm3_jax.tasks.supervised import (
    POSES,
    SupervisedTask,
    Trainer,
    classification_loss,
    initial_variables,
    predictor,
    save_model,
    whole_sequences,
)
from pcm3_jax.tasks.task import Cost, Metric, Results


@section
class FinetuneSettings(Training):
    """Semi-supervised evaluation."""

    epochs: int = 80
    batch_size: int = 64
    learning_rate: float = 0.01
    decay_epochs: tuple[int, ...] = (50, 70)
    fraction: float = setting(0.01, "labelled share of the training split", low=TINY, high=1)
    draws: int = setting(5, "number of random subsets; one training each", low=1)


class Finetune(SupervisedTask):
    """Accuracy after training encoder and classifier on a share of the labels."""

    name = "finetune"
    settings = {"finetune": FinetuneSettings}
    metrics = (
        Metric("top1", "finetuned", "%", compared=True),
        Metric("top1_std", "± of draws", "%", better=""),
        Metric("labelled", "labelled sequences", better=""),
    )
    occludes = True

    def run(self, config: Config, workdir: Path) -> Results:
        """Trains and tests every draw, and keeps the model of the first."""
        devices, settings = self.devices(config), config.of(FinetuneSettings)
        train_split, test_split = self.read(config, devices)
        count = max(1, round(settings.fraction * len(train_split)))
        model = Classifier(build_encoder(config, AXIS), len(train_split.classes))
        views = functools.partial(occluded_view, config=config.views, occlusion=config.occlusion)
        loss = classification_loss(model, functools.partial(views, central=False))
        whole = whole_sequences(test_split, np.arange(len(test_split)))

        def scores(
            variables: Any, frames: jax.Array, clips: Clips, position: jax.Array
        ) -> jax.Array:
            # Without occlusion this view is deterministic.
            poses = views(jax.random.key(config.seed), frames, clips, position, central=True)
            return model.apply(variables, poses, train=False)  # type: ignore[return-value]

        predict = predictor(scores, test_split, whole, config.eval.batch_size, devices)

        def evaluate(variables: dict[str, Any]) -> dict[str, float]:
            return {"top1": top_k_accuracy(predict(variables), test_split.label, 1)}

        def fixed(samples: Samples) -> Callable[[int], Samples]:
            return lambda epoch: samples

        trainer = Trainer(loss, train_split, count, settings, config, devices)
        encoder = encoder_variables(config)
        accuracies = []
        for draw in range(settings.draws):
            rng = np.random.default_rng((config.seed, draw))
            chosen = np.sort(rng.permutation(len(train_split))[:count])
            samples = whole_sequences(train_split, chosen)
            start = initial_variables(model, encoder, config.seed, POSES, draw=draw)
            trained, metrics = trainer.fit(start, fixed(samples), evaluate, workdir, f"draw_{draw}")
            accuracies.append(metrics["top1"])
            if draw == 0:  # and not the draw that is best on the test split
                first = trained
        save_model(workdir, config, first, "classifier", train_split)
        return {
            "top1": float(np.mean(accuracies)),
            "top1_std": float(np.std(accuracies, ddof=1)) if len(accuracies) > 1 else 0.0,
            "top1_draws": accuracies,
            "labelled": count,
        }

    def cost(self, config: Config, train_split: Recordings, test_split: Recordings) -> Cost:
        settings = config.of(FinetuneSettings)
        trained = 3 * settings.epochs * settings.fraction * len(train_split)
        return Cost(settings.draws * (trained + len(test_split)), settings)
