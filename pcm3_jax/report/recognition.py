"""What a trained model says about the recordings of a page: labels over time, and the nearest."""

from __future__ import annotations

from collections.abc import Sequence as Many
from itertools import pairwise
from typing import Any

import numpy as np

from pcm3_jax.data.normalization import SPINE
from pcm3_jax.errors import UserError
from pcm3_jax.inference.model import Model
from pcm3_jax.report import bodies
from pcm3_jax.report.entries import Entries, Entry
from pcm3_jax.report.sequences import FRAME_RATE, Pool

# Of each recording: neighbours, the frames of one, windows that are classified, and labels whose
# probabilities are shown.
_NEIGHBOURS, _NEIGHBOUR_FRAMES, _WINDOWS, _LABELS = 5, 40, 48, 6
# Frames of a window, for models without one of their own.
_WINDOW = 60


def add(found: list[dict[str, Any]], entries: Entries, model: Model, pool: Pool) -> list[str]:
    """Adds to the descriptions of a page's recordings what a model says about them.

    Args:
      found: `bodies.describe` of each of ``entries.shown``; gets "whole" and "labels" from a
        classifier, "labels" from a detector, and "neighbours".
      entries: the recordings.
      model: the model.
      pool: gets the neighbours' skeletons.

    Returns:
      Sentences about what is shown and what is not.

    Raises:
      UserError: a data set is normalised otherwise than the model's training data.
    """
    searched = [*entries.shown, *entries.others]
    for data in {entry.data for entry in searched if entry.data and not entry.raw}:
        model.check_normalized(data)
    notes = []
    if crowded := sum(entry.persons > model.persons for entry in entries.shown):
        notes.append(
            f"The model was trained on single persons: in {crowded} of these recordings only the "
            "one who moves most counts."
        )
    for one, entry in zip(found, entries.shown, strict=True):
        if "classifier" in model.heads:
            one |= _classified(entry, model)
        elif "detector" in model.heads:
            one |= _detected(entry, model)
    if not {"classifier", "detector"} & {*model.heads}:
        notes.append("The model has no classifier, and so gives no labels.")
    if len(searched) == 1:
        notes.append("There is no other recording to compare with: name several, or a data set.")
        return notes
    notes.append(f"Nearest recordings are searched among {entries.searched}.")
    features = _embed(searched, [slice(None)] * len(searched), model)
    nearest = model.search(features[: len(found)], features, _NEIGHBOURS + 1)
    sequences: dict[int, int] = {}
    for index, (one, others, cosines) in enumerate(zip(found, *nearest, strict=True)):
        for other, cosine in zip(others.tolist(), cosines.tolist(), strict=True):
            if other != index and len(one["neighbours"]) < _NEIGHBOURS:
                if other not in sequences:
                    sequences[other] = _add_sequence(searched[other], model, pool)
                entry = searched[other]
                one["neighbours"].append(
                    {
                        "title": entry.title,
                        "name": entry.name,
                        "label": entry.label,
                        "cosine": cosine,
                        "sequence": sequences[other],
                    }
                )
    return notes


def normalization(model: Model) -> bodies.Normalization:
    """The normalisation that is drawn: of the first encoder, if a model has several."""
    return next(iter(model.encoders.values())).normalization


def _add_sequence(entry: Entry, model: Model, pool: Pool) -> int:
    *_, view = bodies.views(entry, normalization(model))
    seconds = len(entry.sequence.poses) / FRAME_RATE
    return bodies.add(view, pool, seconds, _NEIGHBOUR_FRAMES)


def _embed(entries: Many[Entry], parts: Many[slice], model: Model) -> np.ndarray:
    """Features (N, F) of a part of each of N recordings."""
    features = np.zeros((len(entries), model.features), np.float32)
    for raw in (True, False):
        chosen = [i for i, entry in enumerate(entries) if entry.raw == raw]
        sequences = [entries[i].sequence for i in chosen]
        if chosen:
            features[chosen] = model.embed(
                [s.poses[parts[i]] for i, s in zip(chosen, sequences, strict=True)],
                [~s.visible[parts[i]] for i, s in zip(chosen, sequences, strict=True)],
                normalize=raw,
            )
    return features


def _classified(entry: Entry, model: Model) -> dict[str, Any]:
    """ "whole", the labels of the recording, and "labels", those of windows around its frames."""
    frames = len(entry.sequence.poses)
    # No longer than the recording: at its ends the first and the last half of it are seen.
    size = min(model.window or _WINDOW, frames)
    centres = np.unique(np.linspace(0, frames - 1, _WINDOWS).round().astype(int))
    windows = [slice(max(c - size // 2, 0), c + (size + 1) // 2) for c in centres.tolist()]
    some = [(c, w) for c, w in zip(centres.tolist(), windows, strict=True) if _seen(entry, w)]
    parts = [slice(None), *(window for _, window in some)]
    shares = _probabilities(_embed([entry] * len(parts), parts, model), model)
    order = np.argsort(-shares[1:].max(0), kind="stable")[:_LABELS]
    longest = min(encoder.config.data.max_frames for encoder in model.encoders.values())
    at = [centre for centre, _ in some]
    return {
        "whole": {
            "of": f"the first {longest} frames" if frames > longest else "the whole recording",
            "labels": [[model.classes[i], float(shares[0, i])] for i in np.argsort(-shares[0])[:5]],
        },
        "labels": {
            "band": _band(at, shares[1:], frames, model),
            "at": at,
            "series": [
                {"label": model.classes[i], "values": shares[1:, i].round(4).tolist()}
                for i in order.tolist()
            ],
            "note": f"Each frame is labelled from the {size} frames around it"
            + (f"; below {100 * model.threshold:.0f} %, nothing." if model.threshold else "."),
        },
    }


def _seen(entry: Entry, part: slice) -> bool:
    """Whether a part of a recording can be encoded: somebody, with the joint for centring, is."""
    poses, visible = entry.sequence.poses[part], entry.sequence.visible[part]
    spine = visible[:, 0, SPINE].all() or poses[:, 0, SPINE].any()
    return bool(poses.any()) and (bool(spine) or not entry.raw)


def _probabilities(features: np.ndarray, model: Model) -> np.ndarray:
    """(N, classes) in the order of ``model.classes``."""
    column = {label: i for i, label in enumerate(model.classes)}
    shares = np.zeros((len(features), len(column)))
    for row, labels in zip(shares, model.labels(features, len(column)), strict=True):
        for label, share in labels:
            row[column[label]] = share
    return shares


def _band(at: list[int], shares: np.ndarray, frames: int, model: Model) -> list[dict[str, Any]]:
    """Stretches of frames with the same most probable label; None is one below the threshold."""
    found: list[dict[str, Any]] = []
    edges = [0, *((a + b) / 2 for a, b in pairwise(at)), frames - 1]
    for row, (start, stop) in zip(shares, pairwise(edges), strict=True):
        best, share = int(row.argmax()), float(row.max())
        label = model.classes[best] if share >= model.threshold else None
        if found and found[-1]["label"] == label:
            found[-1] |= {"stop": stop, "share": max(share, found[-1]["share"])}
        else:
            found.append({"start": start, "stop": stop, "label": label, "share": share})
    return found


def _detected(entry: Entry, model: Model) -> dict[str, Any]:
    """ "labels", the actions that a detector finds in a recording."""
    poses, visible = entry.sequence
    try:
        (found,) = model.detect([poses], [~visible], normalize=entry.raw)
        note = f"{len(found)} actions found." if found else "No action found."
    except UserError as error:
        found, note = [], str(error).replace("Sequence 0", "The recording", 1)
    band = [
        {"start": one.start, "stop": one.stop, "label": one.label, "share": one.score}
        for one in found
    ]
    labels = dict.fromkeys(one.label for one in found)
    series = [{"label": label, "values": []} for label in labels]
    return {"labels": {"band": band, "at": [], "series": series, "note": note}}
