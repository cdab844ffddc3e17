"""Training's overhead beside its steps, with each feed; run with pytest -m slow -s."""

import runpy
import time

import jax
import pytest

from pcm3_jax.tasks import pretrain
from tfds_builders import build

pytestmark = pytest.mark.slow


class Stopwatch:
    """Wraps `loop.train` and times its steps, except the first."""

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
        """Samples per second of the steps alone, and of training as a whole."""
        count = (len(self.ends) - 1) * batch_size
        return count / sum(self.inside[1:]), count / (self.ends[-1] - self.ends[0])


def test_training_loses_at_most_three_percent_of_the_step_rate(tmp_path, monkeypatch):
    """Two epochs of configs/demo.py, whose steps are short, so that the overhead is largest.

    A checkpoint is saved after 93 of the 186 steps, and every fifth step is logged, ten times as
    often as by default.
    """
    build.build("synthetic_skeletons", tmp_path / "data")
    shares = {}
    for feed in ("resident", "disk"):
        config = runpy.run_path("configs/demo.py")["get_config"]()
        config.data.dir = str(tmp_path / "data")
        config.data.feed = feed
        config.optimizer.epochs, config.optimizer.decay_epochs = 2, ()
        config.log_every_steps = 5
        watch = Stopwatch(pretrain.train)
        monkeypatch.setattr(pretrain, "train", watch)
        (tmp_path / feed).mkdir()
        pretrain.Pretrain().run(config, tmp_path / feed)
        monkeypatch.undo()
        steps, training = watch.rates(config.optimizer.batch_size)
        shares[feed] = training / steps
        print(f"\n{feed}: {training:.1f} samples/s, {100 * shares[feed]:.2f} % of the steps' rate")
    assert shares["resident"] >= 0.97
