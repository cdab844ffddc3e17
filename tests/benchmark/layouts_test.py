"""What a classifier keeps on other layouts, on small data and with a small model."""

import re

import numpy as np
import pytest

from pcm3_jax.benchmark import layouts
from pcm3_jax.data.joint_layouts import KINECT_V2_JOINTS, LAYOUTS
from tests.data.body import person


@pytest.mark.parametrize("name", LAYOUTS)
def test_recordings_of_other_layouts_lack_their_joints(name):
    body = person()
    body[3:5, :, 7] = 0  # a hand that the sensor lost
    layout = LAYOUTS[name]
    found = layouts.as_recorded(body, layout)
    missing = np.isnan(found).any(axis=-1)
    assert set(np.flatnonzero(missing[0, 0])) == set(layout.missing)
    assert set(np.flatnonzero(missing[3, 0])) == {*layout.missing, 7}
    at = KINECT_V2_JOINTS.index
    for joint, target in enumerate(KINECT_V2_JOINTS):
        sources = layout.sources[target]
        if len(sources) == 1 or sources and target in ("head", "hand_right"):
            np.testing.assert_array_equal(found[0, 0, joint], body[0, 0, joint])
    if name in ("coco_17", "mediapipe_33"):
        middle = (body[:, :, at("hip_left")] + body[:, :, at("hip_right")]) / 2
        np.testing.assert_allclose(found[:, :, at("spine_base")], middle, atol=1e-6)


def test_the_table_has_a_row_for_each_layout(monkeypatch, data_dir, finished_run, capsys):
    run, _ = finished_run
    monkeypatch.setattr(layouts, "IRDS", "synthetic_skeletons/n64x32")
    monkeypatch.setattr(layouts, "LAYOUTS", {n: LAYOUTS[n] for n in ("kinect_v2_25", "coco_17")})
    layouts.run([str(run), f"--data_dir={data_dir}"])
    head, _, *rows = capsys.readouterr().out.splitlines()
    assert head == f"| layout | joints kept | {run}, fitted to 25 joints | {run}, to the layout |"
    whole, coco = rows
    assert re.fullmatch(r"\| `kinect_v2_25` \| 25 \| (\d+\.\d) \| \1 \|", whole)
    assert re.fullmatch(r"\| `coco_17` \| 16( \| \d+\.\d){2} \|", coco)
