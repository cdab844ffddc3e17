"""What training takes besides its steps, with each feed: pytest -m slow -s on this file."""

import runpy
import time

import jax
import pytest

from pcm3_jax import pretraining
from tfds_builders import build

pytestmark = pytest.mark.slow

STEPS = 40


class Stopwatch:
    """Stands in for `loop.train` and times the steps within it, the first left out."""

    def __init__(self, train) -> None:
        self._train = train
        self.ends: list[float] = []
        self.inside: list[float] = []

    def __call__(self, state, step_function, *arguments):
        def timed(*inputs):
            start = time.perf_counter()
            result = jax.block_until_ready(step_function(*inputs))
            self.ends.append(time.perf_counter())
            self.inside.append(self.ends[-1] - start)
            return result

        return self._train(state, timed, *arguments)

    def rates(self, batch_size: int) -> tuple[float, float]:
        """Samples a second of the steps alone, and of training from step to step."""
        count = (len(self.ends) - 1) * batch_size
        return count / sum(self.inside[1:]), count / (self.ends[-1] - self.ends[0])


def test_training_reaches_the_rate_of_its_steps(tmp_path, monkeypatch):
    """With configs/demo.py, where steps are short and all else counts most."""
    build.build("synthetic_skeletons/n320x32", tmp_path / "data")
    shares = {}
    for feed in ("resident", "stream"):
        config = runpy.run_path("configs/demo.py")["get_config"]()
        config.data.update(name="synthetic_skeletons/n320x32", dir=str(tmp_path / "data"))
        config.data.feed = feed
        config.optimizer.epochs = STEPS // (320 // config.optimizer.batch_size)
        config.eval.every_epochs = 0
        config.log_every_steps = 5
        watch = Stopwatch(pretraining.train)
        monkeypatch.setattr(pretraining, "train", watch)
        (tmp_path / feed).mkdir()
        pretraining.pretrain(config, tmp_path / feed)
        monkeypatch.undo()
        steps, training = watch.rates(config.optimizer.batch_size)
        shares[feed] = training / steps
        print(f"\n{feed}: {training:.1f} samples/s, {100 * shares[feed]:.2f} % of the steps' rate")
    assert shares["resident"] >= 0.97
