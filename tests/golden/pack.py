"""Packs the original golden vectors into the small files beside this script.

    python tests/golden/pack.py FOLDER

`FOLDER` holds `pretrain_step_{cutmix,resizemix,mixup,noprompt}.npz`, `data/crop_resize.npz`,
`data/streams.npz`, `data/detection.npz` and `data/ntu_preprocess.npz`, as the PyTorch program's
recorder wrote them: arrays (N, C, T, V, M), names as in this folder's README; `data/*.skeleton` are
the files that the last was computed from.
`../golden_vectors.py` reads the result.
"""

import argparse
import ast
import io
import json
import lzma
import pathlib
import tarfile
from typing import Any

import numpy as np

HERE = pathlib.Path(__file__).parent
VIEW_GRID = 2.0**-21  # rounding of at most 2.4e-7 in views whose standard deviation is 0.32
RESULT_BITS = 23  # gradients and final state: rounding of at most 2**-24 of the largest entry
SAMPLE_SIZE = 1500
# Probabilities of the background and of the classes that win a segment, and of all others.
WINNERS_GRID, OTHERS_GRID = 2.0**-22, 2.0**-10
CROP_JOINTS = (0, 3, 11, 15, 19, 24)
STEPS = 3

Arrays = dict[str, np.ndarray]


def main() -> None:
    """Writes every packed file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=pathlib.Path, help="the original vectors")
    folder = parser.parse_args().folder
    runs = {
        name: dict(np.load(folder / f"pretrain_step_{name}.npz"))
        for name in ("cutmix", "resizemix", "mixup", "noprompt")
    }
    require_shared_inputs(runs)
    for kind, name in (("prompt", "cutmix"), ("noprompt", "noprompt")):
        write_archive(f"inputs_{kind}.xz", {}, *pretrain_inputs(runs[name]))
    for name, run in runs.items():
        write_archive(f"run_{name}.xz", *pretrain_results(run))
    write_archive("crops.xz", *crops(folder / "data"))
    streams = np.load(folder / "data" / "streams.npz")
    write_archive("streams.xz", {}, {n: to_layout(streams[n]) for n in streams.files}, {})
    write_skeletons("ntu_skeletons.tar.xz", sorted((folder / "data").glob("*.skeleton")))
    write_archive("detection.xz", *detection(folder / "data"))


def to_layout(array: np.ndarray) -> np.ndarray:
    """(..., C, T, V, M) → (..., T, M, V, C)."""
    return np.moveaxis(array, (-3, -1, -2, -4), (-4, -3, -2, -1))


def require_shared_inputs(runs: dict[str, Arrays]) -> None:
    """Checks that the three runs with prompts start alike and see the same views and masks."""
    shared = [f"step{s}/{x}" for s in range(STEPS) for x in ("view_query", "view_key")]
    shared += [f"step{s}/{x}" for s in range(STEPS) for x in ("view_target", "mask")]
    shared += [name for name in runs["cutmix"] if name.startswith("init/")]
    for other in ("resizemix", "mixup"):
        for name in shared:
            if not np.array_equal(runs["cutmix"][name], runs[other][name]):
                raise ValueError(f"{name} differs between the cutmix and {other} vectors")


def pretrain_inputs(run: Arrays) -> tuple[Arrays, dict[str, float]]:
    """Initial state, views and masks of a run, and the rounding grid of the views."""
    arrays = {name: a for name, a in run.items() if name.startswith("init/")}
    grids = {}
    for s in range(STEPS):
        for view in ("query", "key", "target"):
            arrays[f"step{s}/{view}"] = to_layout(run[f"step{s}/view_{view}"])
            grids[f"step{s}/{view}"] = VIEW_GRID
        mask = run[f"step{s}/mask"]  # (N, T, M, V, C)
        first = mask[0, :, 0, :, 0]
        if (mask[:, :, 0] != first[None, :, :, None]).any() or (mask[:, :, 1:] != 1).any():
            raise ValueError(f"step{s}/mask is not one (T, V) mask of the first person")
        arrays[f"step{s}/mask"] = np.packbits(first.astype(bool), axis=1)
    return arrays, grids


def pretrain_results(run: Arrays) -> tuple[dict[str, Any], Arrays, dict[str, float]]:
    """Draws; losses, logits, samples, gradients and final state; rounding grids."""
    draws, arrays, grids = [], {}, {}
    for s in range(STEPS):
        step = f"step{s}"
        size = run[f"{step}/view_mixed"].size
        positions = np.random.default_rng(s).choice(size, SAMPLE_SIZE, replace=False)
        arrays[f"{step}/positions"] = np.sort(positions).astype(np.uint16)
        for ours, theirs in (("mixed", "view_mixed"), ("reconstruction", "reconstruction")):
            flat = to_layout(run[f"{step}/{theirs}"]).reshape(-1)
            arrays[f"{step}/{ours}"] = flat[arrays[f"{step}/positions"]]
        for ours, theirs in (("partner", "mix_partner"), ("lam", "mix_lambda")):
            arrays[f"{step}/{ours}"] = run[f"{step}/{theirs}"]
        has_prompts = f"{step}/prompt_offsets" in run
        if has_prompts:
            arrays[f"{step}/prompt_offsets"] = run[f"{step}/prompt_offsets"]
        for name, array in run.items():
            if name.startswith((f"{step}/loss/", f"{step}/logits/")):
                arrays[name] = array
        draws.append(mix_draws(str(run[f"{step}/draws"]), has_prompts))
    for name, array in run.items():
        for theirs, ours in (("step0/grad/", "gradients/"), ("step2/after/", "after/")):
            if name.startswith(theirs):
                key = ours + name.removeprefix(theirs)
                arrays[key] = array
                if array.dtype == np.float32 and ours + "queue" != key:
                    exponent = np.ceil(np.log2(np.abs(array).max()))
                    grids[key] = float(2.0 ** (exponent - RESULT_BITS))
    return {"steps": draws}, arrays, grids


def mix_draws(text: str, has_prompts: bool) -> dict[str, Any]:
    """What a recorded list of draws says about the mix.

    Each entry is a function name, its arguments, and its result last. With prompts, the offset of
    the query's contrast prompt is drawn before the mix.
    """
    results = [draw[-1] for draw in ast.literal_eval(text)][1 if has_prompts else 0 :]
    parts, ct, start_block, choice = results[1:5]
    method = "cutmix" if choice > 0.5 else "resizemix" if choice > 0.25 else "mixup"
    return {
        "method": method,
        "parts": parts,
        "ct": ct,
        "start_block": start_block,
        "method_draw": choice,
    }


def crops(folder: pathlib.Path) -> tuple[dict[str, Any], Arrays, dict[str, float]]:
    """Crop-resize cases and their source sequences, at a few joints."""
    golden = np.load(folder / "crop_resize.npz")
    source = np.load(folder / "ntu_preprocess.npz")
    joints = list(CROP_JOINTS)
    arrays: Arrays = {}
    train, evaluation = [], []
    for k in range(int(golden["count"])):
        index, start, length = (int(golden[f"{k}/{x}"]) for x in ("index", "start", "length"))
        train.append((index, start, length))
        arrays[f"train/{k}"] = to_layout(golden[f"{k}/view"])[:, :, joints]
        frames = int(golden[f"{k}/num_frame"])
        arrays[f"sequence/{index}"] = to_layout(source["normalized"][index])[:frames, :, joints]
    for name in golden.files:
        if name.startswith("eval/"):
            index = int(name.removeprefix("eval/"))
            evaluation.append(index)
            arrays[f"evaluation/{index}"] = to_layout(golden[name])[:, :, joints]
    return {"train": train, "evaluation": evaluation}, arrays, {}


def detection(folder: pathlib.Path) -> tuple[dict[str, Any], Arrays, dict[str, float]]:
    """Frame probabilities, true intervals, segments and mAPs of untrimmed videos."""
    golden = np.load(folder / "detection.npz")
    arrays: Arrays = {}
    grids = {}
    for v in range(int(golden["videos"])):
        arrays[f"{v}/labels"] = golden[f"{v}/labels"].astype(np.int16)
        arrays[f"{v}/segments"] = golden[f"{v}/segments"]
        probabilities = golden[f"{v}/frame_prob"]
        winners = np.unique([0, *golden[f"{v}/segments"][:, 0].astype(int)])
        arrays[f"{v}/winners"] = winners.astype(np.uint8)
        # A class after the other: along time, neighbours are alike.
        arrays[f"{v}/winners_prob"] = probabilities[:, winners].T
        arrays[f"{v}/others_prob"] = np.delete(probabilities, winners, axis=1).T
        grids |= {f"{v}/winners_prob": WINNERS_GRID, f"{v}/others_prob": OTHERS_GRID}
    means = {name: float(golden[name]) for name in golden.files if name.startswith("map_")}
    return {"videos": int(golden["videos"]), "means": means}, arrays, grids


def write_skeletons(name: str, files: list[pathlib.Path]) -> None:
    """Writes the `.skeleton` files with a constant for each joint's pixels and orientation."""
    with tarfile.open(HERE / name, "w:xz", preset=9 | lzma.PRESET_EXTREME) as archive:
        for file in files:
            lines = [line.split(b" ") for line in file.read_bytes().split(b"\n")]
            for words in lines:
                if len(words) == 12:
                    words[3:11] = [b"0.5"] * 8
            content = b"\n".join(b" ".join(words) for words in lines)
            member = tarfile.TarInfo(file.name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    print(f"{name}: {len(files)} files, packed {(HERE / name).stat().st_size:,}")


def write_archive(name: str, meta: Any, arrays: Arrays, grids: dict[str, float]) -> None:
    """Writes one file; `golden_vectors.read_archive` describes the form."""
    entries, body = [], []
    for key, array in arrays.items():
        if key in grids:
            steps = np.round(array.astype(np.float64) / grids[key]).astype(np.int64)
            array = np.where(steps < 0, -2 * steps - 1, 2 * steps).astype(np.uint32)
        items = np.ascontiguousarray(array).reshape(-1)
        body.append(items.view(np.uint8).reshape(items.size, -1).T.tobytes())
        entries.append(
            {
                "name": key,
                "dtype": array.dtype.str,
                "shape": array.shape,
                "grid": grids.get(key),
            }
        )
    header = json.dumps({"meta": meta, "arrays": entries}, separators=(",", ":")).encode()
    stream = len(header).to_bytes(4, "little") + header + b"".join(body)
    filters = [{"id": lzma.FILTER_LZMA2, "preset": 9 | lzma.PRESET_EXTREME, "lc": 0, "pb": 0}]
    packed = lzma.compress(stream, filters=filters)
    (HERE / name).write_bytes(packed)
    print(f"{name}: {len(stream):,} bytes, packed {len(packed):,}")


if __name__ == "__main__":
    main()
