"""The comparison of online labels with those of whole recordings."""

import re

from pcm3_jax import fit
from pcm3_jax.benchmark import online


def test_a_recogniser_is_as_good_online_as_on_whole_recordings(
    finished_run, data_dir, tmp_path, capsys
):
    run, _ = finished_run
    data = f"--data_dir={data_dir}"
    out = tmp_path / "mine.safetensors"
    fit.run(["synthetic_skeletons/n64x32:train", f"--model={run}", f"--out={out}", data])
    capsys.readouterr()
    online.run([str(out), "synthetic_skeletons/n64x32", "--window=10", data])
    classify, end, nothing, times = capsys.readouterr().out.splitlines()
    first, last = (float(re.search(r"([\d.]+) % of", line)[1]) for line in (classify, end))
    hidden = float(re.search(r"([\d.]+) %", nothing)[1])
    # What is shown is right as often, but for labels below the threshold.
    assert last + hidden >= first - 5 and last <= first + 5
    assert re.fullmatch(r"a frame takes [\d.]+ ms in the median, [\d.]+ ms in the .*", times)
