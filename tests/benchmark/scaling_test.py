"""What the compiled step exchanges between devices, and the projection made from that."""

import json
import math
import subprocess
import sys

import pytest

from pcm3_jax.benchmark.scaling import exchange_seconds
from pcm3_jax.config import default_config
from pcm3_jax.methods.method import Collective
from pcm3_jax.methods.pcm3 import PCM3Method

collectives = PCM3Method().collectives
DEVICES = 4
# Prints the collectives of compiled steps as JSON: (kind, bytes) of each, for each mapping.
PROGRAM = """
import functools, json, math, re, sys
import jax
from pcm3_jax.train import cost
from pcm3_jax.config import default_config
from pcm3_jax.methods.optimizer import build_optimizer
from pcm3_jax.runtime.parallel import AXIS, Devices
from pcm3_jax.methods.state import build_model, create_state
from pcm3_jax.methods.pcm3 import pretrain_step

OPERATION = r"= (.*?) (all-reduce|all-gather|reduce-scatter|all-to-all|collective-permute)\\("

def exchanged(config):
    devices = Devices(config.mapping)
    batch_size = config.optimizer.batch_size
    model, optimizer = build_model(config, AXIS), build_optimizer(config.optimizer, 1)
    state = devices.replicate(create_state(model, optimizer, config))
    step = functools.partial(pretrain_step, model=model, optimizer=optimizer, config=config)
    step = devices.map(step, frames_sharded=False)
    program = step.lower(state, *next(cost.noise_batches(config, devices, batch_size)))
    found = []
    for result, kind in re.findall(OPERATION, program.compile().as_text()):
        shapes = re.findall(r"f32\\[([\\d,]*)\\]", result)
        sizes = [math.prod(map(int, shape.split(","))) if shape else 1 for shape in shapes]
        scattered = jax.device_count() if kind == "reduce-scatter" else 1
        found.append((kind, 4 * scattered * sum(sizes)))
    return found

base = json.loads(sys.argv[1])
answers = []
for changes in json.loads(sys.argv[2]):
    config = default_config()
    config.update_from_flattened_dict(base | changes)
    answers.append(exchanged(config))
print(json.dumps(answers))
"""
SMALL = {
    "views.frames": 8,
    "views.min_crop_frames": 8,
    "views.mask_clip_frames": 4,
    "views.mix_blocks": [1, 2],
    "model.hidden": 6,
    "model.layers": 1,
    "model.projection": 5,
    "model.decoder_hidden": 7,
    "model.decoder_layers": 1,
    "model.prompt_width": 2,
    "method.queue_size": 32,
    "optimizer.batch_size": 8,
}
CASES = [
    {},
    {
        "mapping": "shard_map",
        "method.prompt_placement": "after_norm",
        "method.contrast_guides_decoder": False,
    },
]


def small(changes):
    config = default_config()
    values = SMALL | changes
    config.update_from_flattened_dict(
        {key: tuple(v) if isinstance(v, list) else v for key, v in values.items()}
    )
    return config


def test_a_step_exchanges_gradients_moments_and_keys_and_nothing_else(program):
    """One fused all-reduce; counts and bytes of all others, in the compiled program."""
    run = subprocess.run(
        [sys.executable, "-c", PROGRAM, json.dumps(SMALL), json.dumps(CASES)],
        env=program.environment(DEVICES),
        capture_output=True,
        text=True,
        timeout=600,
        check=True,
    )
    for changes, found in zip(CASES, json.loads(run.stdout.splitlines()[-1]), strict=True):
        stated = collectives(small(changes), SMALL["optimizer.batch_size"], DEVICES)
        found = [Collective(*pair) for pair in found]
        reduced = [c.bytes for c in found if c.kind == "all-reduce"]
        gradient = [c.bytes for c in stated if c.kind == "all-reduce"]
        assert len(reduced) == 1, changes
        # The metrics, at most eight numbers, travel with the gradient.
        assert gradient[0] < reduced[0] <= gradient[0] + 8 * 4, changes
        others = [sorted(c for c in list_ if c.kind != "all-reduce") for list_ in (found, stated)]
        assert others[0] == others[1], changes


def test_the_published_network_sends_its_parameters():
    exchanges = collectives(default_config(), 128, 8)
    assert exchanges[-1].kind == "all-reduce"
    # 54 million, of which the encoder has 45 and the projector 4; and the keys of a batch of 128.
    assert exchanges[-1].bytes == pytest.approx(4 * 54.0e6, rel=1e-3)
    assert Collective("all-gather", 128 * 128 * 4) in exchanges


def test_exchanges_take_the_time_of_a_ring_and_a_tree():
    exchanges = [Collective("all-reduce", 800), Collective("all-gather", 80)]
    assert exchange_seconds(exchanges, 1, 1.0, 1.0) == 0
    # Each device passes on 7/8 of everything, twice where it is summed first.
    assert exchange_seconds(exchanges, 8, 10.0, 0.0) == pytest.approx(140 + 7)
    assert exchange_seconds(exchanges, 8, math.inf, 2.0) == pytest.approx(2 * 6 + 6)


def test_exchanges_take_longer_among_more_devices_and_on_slower_links():
    config = default_config()
    fast, slow = (
        [
            exchange_seconds(collectives(config, 128 * n, n), n, bandwidth, 1e-5)
            for n in (8, 64, 256)
        ]
        for bandwidth in (50e9, 1e9)
    )
    for seconds in (fast, slow):
        assert seconds == sorted(seconds)
    # The gradient takes most of it: 216 MB, almost twice.
    assert slow[-1] == pytest.approx(0.432, rel=0.1)
    assert fast[-1] == pytest.approx(0.432 / 50, rel=0.2)
