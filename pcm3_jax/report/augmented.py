"""The views that a pretraining step makes of a sequence (§3.1, §3.2)."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import numpy as np

from pcm3_jax.augment.pipeline import Views, draw_views
from pcm3_jax.data.batch import Batch, Clips
from pcm3_jax.data.recordings import Recordings
from pcm3_jax.methods import method_of
from pcm3_jax.report.masked import examples, joint_views
from pcm3_jax.report.runs import Run
from pcm3_jax.report.sequences import FRAME_RATE, Pool, encoded, packed, up_axis
from pcm3_jax.settings import Views as ViewSettings


def views(run: Run, train: Recordings, pool: Pool) -> dict[str, Any] | None:
    """One draw of every view of a sequence and its partner; None for a run without them.

    All are joint coordinates, before conversion to bones or motion.
    """
    if not run.task.pretrains or not method_of(run.config).decodes:
        return None
    config = dataclasses.replace(run.config.views, stream="joint")
    chosen = (examples(train) * 2)[:2]
    drawn = jax.device_get(_draw(train, chosen, config, run.config.seed))
    originals = jax.device_get(joint_views(train, chosen, config))
    # All views are played at the same duration, although their crops differ in length.
    seconds = max(int(train.length[chosen[0]]) / FRAME_RATE, 1.0)
    up = up_axis(train.data_name)
    query = drawn.query
    hidden = encoded(query.visible[:, 0] == 0, "u1")
    panels = [
        ("Sequence", "as evaluation sees it", originals[0], None),
        ("Query view", "crop, then shear or jitter", query.intra[0], None),
        ("Key view", "another draw of the same augmentations", drawn.key[0], None),
        ("Target", "crop and shear", query.target[0], None),
        ("Masked view", "the target with joints hidden", query.target[0], hidden),
        ("Partner", "mixed in", originals[1], None),
        ("Mixed view", f"λ = {float(drawn.mix_share):.2f} of the partner", query.inter[0], None),
    ]
    return {
        "name": train.name[chosen[0]],
        "label": train.classes[train.label[chosen[0]]],
        "partner": train.classes[train.label[chosen[1]]],
        "panels": [
            {"title": t, "text": text, "sequence": pool.add(p, up, seconds), "hidden": h}
            for t, text, p, h in panels
        ],
    }


def _draw(train: Recordings, chosen: list[int], config: ViewSettings, seed: int) -> Views:
    frames, clips = packed(train, chosen)
    order = np.array([0, 1], np.int32)
    batch = Batch(
        clips=clips,
        partner_clips=Clips(clips.start[::-1].copy(), clips.length[::-1].copy()),
        position=order,
        partner=order[::-1].copy(),
    )
    draw = jax.jit(lambda key, frames: draw_views(key, frames, batch, config))
    return draw(jax.random.key(seed), frames)
