"""The views that a pretraining step makes of a sequence (§3.1, §3.2)."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from pcm3_jax.augment.pipeline import Batch, Clips, draw_views
from pcm3_jax.data.recordings import Recordings
from pcm3_jax.report.masked import examples, joint_views
from pcm3_jax.report.runs import Run
from pcm3_jax.report.sequences import FRAME_RATE, Pool, packed, packed_flags


def views(run: Run, train: Recordings, pool: Pool) -> dict[str, Any] | None:
    """One draw of every view of a sequence and its partner; None for a run that draws none.

    All are shown as joints, before they become bones or motion.
    """
    if run.config.task != "pretrain":
        return None
    config = ConfigDict(run.config.views.to_dict() | {"stream": "joint"})
    chosen = (examples(train) * 2)[:2]
    drawn = jax.device_get(_draw(train, chosen, config, run.config.seed))
    originals = jax.device_get(joint_views(train, chosen, config))
    # Each view spreads a crop of its own length over its frames; one pace for all is clearer.
    seconds = max(int(train.length[chosen[0]]) / FRAME_RATE, 1.0)
    name = train.data_name
    query = drawn.query
    panels = [
        ("Sequence", "as evaluation sees it", originals[0]),
        ("Query view", "crop, then shear or jitter", query.intra[0]),
        ("Key view", "another draw of the same", drawn.key[0]),
        ("Target", "crop and shear", query.target[0]),
        ("Masked view", "the target, hidden in part", query.target[0]),
        ("Partner", "mixed in", originals[1]),
        ("Mixed view", f"λ = {float(drawn.mix_share):.2f} of the partner", query.inter[0]),
    ]
    hidden = packed_flags(query.visible[:, 0] == 0)
    return {
        "name": train.name[chosen[0]],
        "label": train.classes[train.label[chosen[0]]],
        "partner": train.classes[train.label[chosen[1]]],
        "panels": [
            {
                "title": title,
                "text": text,
                "sequence": pool.add(poses, name, seconds),
                "hidden": hidden if title == "Masked view" else None,
            }
            for title, text, poses in panels
        ],
    }


def _draw(train: Recordings, chosen: list[int], config: ConfigDict, seed: int):
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
