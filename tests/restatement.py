"""An independent reimplementation of the method in plain NumPy: slow, in float64, readable.

Each function follows one sentence of the paper or one fact of the authors' program and uses nothing
of the package, so that the package's fast versions are tested against something independent. Loops
are preferred to indexing tricks.

Shapes: N sequences, T frames, M persons, V joints, C coordinates; H hidden units a direction;
D projected features; K queued keys. Skeletons are (N, T, M, V, C). Parameters carry the PyTorch
program's names and layouts (a linear weight is (out, in); a GRU weight stacks the reset, update
and candidate gates, r, z, n).
"""

from collections.abc import Mapping, Sequence

import numpy as np

Array = np.ndarray
Layer = Mapping[str, Array]

# Joints of (trunk, left arm, right arm, left leg, right leg), numbered from one.
BODY_PARTS = (
    (1, 2, 3, 4, 21),
    (9, 10, 11, 12, 24, 25),
    (5, 6, 7, 8, 22, 23),
    (17, 18, 19, 20),
    (13, 14, 15, 16),
)
# Parent of joint 1, 2, ..., 25, numbered from one.
PARENTS = (
    *(2, 21, 21, 3, 21, 5, 6, 7, 21, 9, 10, 11, 1),
    *(13, 14, 15, 1, 17, 18, 19, 21, 23, 8, 25, 12),
)
BATCH_NORM_EPSILON = 1e-5
MIX_BLOCK = 4  # frames


# --- Networks ---------------------------------------------------------------------------------


def sigmoid(x: Array) -> Array:
    """1 / (1 + e^-x), without overflow."""
    return 0.5 * (1.0 + np.tanh(0.5 * x))


def linear(x: Array, weight: Array, bias: Array) -> Array:
    """x (..., in) → (..., out)."""
    return x @ np.asarray(weight, float).T + bias


def gru_cell(x: Array, h: Array, layer: Layer) -> Array:
    """One GRU update.

    Args:
      x: (N, F) input.
      h: (N, H) state.
      layer: `weight_ih` (3H, F), `weight_hh` (3H, H), `bias_ih` (3H,), `bias_hh` (3H,).

    Returns:
      (N, H), the next state. The reset gate multiplies the recurrent product with its bias.
    """
    input_r, input_z, input_n = np.split(linear(x, layer["weight_ih"], layer["bias_ih"]), 3, -1)
    state_r, state_z, state_n = np.split(linear(h, layer["weight_hh"], layer["bias_hh"]), 3, -1)
    reset = sigmoid(input_r + state_r)
    update = sigmoid(input_z + state_z)
    candidate = np.tanh(input_n + reset * state_n)
    return (1.0 - update) * candidate + update * h


def gru_direction(x: Array, layer: Layer, h0: Array | float = 0.0, suffix: str = "") -> Array:
    """One GRU layer run forward in time.

    Args:
      x: (N, T, F).
      layer: as in `gru_cell`, each name ending in `suffix`.
      h0: (N, H) or a number, the state before the first frame.
      suffix: "" or "_reverse".

    Returns:
      (N, T, H), the state after each frame.
    """
    names = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
    weights = {name: np.asarray(layer[name + suffix], float) for name in names}
    h = np.zeros((x.shape[0], weights["weight_hh"].shape[1])) + h0
    states = []
    for t in range(x.shape[1]):
        h = gru_cell(np.asarray(x[:, t], float), h, weights)
        states.append(h)
    return np.stack(states, 1)


def gru_unidirectional(x: Array, layers: Sequence[Layer], h0: Array | float = 0.0) -> Array:
    """A stack of forward GRU layers: x (N, T, F) → (N, T, H)."""
    for layer in layers:
        x = gru_direction(x, layer, h0)
    return x


def bigru_causal(x: Array, layers: Sequence[Layer], h0: Array | float = 0.0) -> Array:
    """The program's "Bi-GRU", `recurrence="causal"`: both directions run forward in time.

    The program feeds a bidirectional GRU one frame at a time and keeps both states, so that in
    every layer the two directions are two independent forward GRUs.

    Args:
      x: (N, T, F).
      layers: dicts of PyTorch names without the layer number, e.g. `weight_ih` and
        `weight_ih_reverse`.
      h0: state of every layer and direction before the first frame.

    Returns:
      (N, T, 2H). The sequence feature is the last frame's.
    """
    for layer in layers:
        directions = [gru_direction(x, layer, h0, suffix) for suffix in ("", "_reverse")]
        x = np.concatenate(directions, -1)
    return x


def bigru_bidirectional(
    x: Array, layers: Sequence[Layer], h0: Array | float = 0.0
) -> tuple[Array, Array]:
    """A real bidirectional GRU.

    Args:
      x, layers, h0: as in `bigru_causal`.

    Returns:
      Outputs (N, T, 2H), and the sequence feature (N, 2H): each direction's state once it has
      seen every frame, i.e. the forward one at the last frame and the backward one at the first.
    """
    for layer in layers:
        forward = gru_direction(x, layer, h0)
        backward = gru_direction(x[:, ::-1], layer, h0, "_reverse")[:, ::-1]
        x = np.concatenate([forward, backward], -1)
    return x, np.concatenate([forward[:, -1], backward[:, 0]], -1)


def batch_norm(x: Array, scale: Array, bias: Array) -> tuple[Array, Array, Array]:
    """Normalisation with the batch's own statistics.

    Args:
      x: (..., F); statistics over all leading axes.
      scale, bias: (F,).

    Returns:
      The normalised x, the mean (F,) and the unbiased variance (F,) that enters the running
      statistics. Normalising itself uses the biased variance.
    """
    rows = np.asarray(x, float).reshape(-1, x.shape[-1])
    mean = rows.mean(0)
    squares = ((rows - mean) ** 2).sum(0)
    normalised = (rows - mean) / np.sqrt(squares / len(rows) + BATCH_NORM_EPSILON)
    return (normalised * scale + bias).reshape(x.shape), mean, squares / (len(rows) - 1)


def prompt_on_channels(features: Array, prompt: Array, offset: int) -> Array:
    """Adds a task prompt to a run of channels of each direction.

    Args:
      features: (..., 2H).
      prompt: (2r,), the first direction's r numbers, then the second's.
      offset: first channel, the same in both halves.
    """
    out = np.array(features, float)
    half, r = features.shape[-1] // 2, len(prompt) // 2
    for i in range(r):
        out[..., offset + i] += prompt[i]
        out[..., half + offset + i] += prompt[r + i]
    return out


def unit(x: Array) -> Array:
    """Rows of x (N, D) divided by their L2 norms."""
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


# --- Views ------------------------------------------------------------------------------------


def crop_resize(sequence: Array, start: int, length: int, frames: int = 64) -> Array:
    """A temporal crop, linearly interpolated to a fixed number of frames.

    Args:
      sequence: (n, M, V, C).
      start, length: the crop.
      frames: T. Output frame t sits at (t + 1/2) · length / T − 1/2 of the crop, clamped to it.

    Returns:
      (T, M, V, C).
    """
    crop = np.asarray(sequence[start : start + length], float)
    out = []
    for t in range(frames):
        position = min(max((t + 0.5) * length / frames - 0.5, 0.0), length - 1.0)
        before = int(np.floor(position))
        after = min(before + 1, length - 1)
        weight = position - before
        out.append((1.0 - weight) * crop[before] + weight * crop[after])
    return np.stack(out)


def central_crop(frames: int, share: float = 0.95) -> tuple[int, int]:
    """Start and length of evaluation's crop: the same number of frames goes at both ends."""
    start = int((1.0 - share) * frames / 2.0)
    return start, frames - 2 * start


def shear(x: Array, matrix: Array) -> Array:
    """`matrix` (3, 3) applied to every coordinate triple of x (..., 3), as a column vector."""
    out = np.zeros(x.shape)
    for i in range(3):
        for j in range(3):
            out[..., i] += matrix[i, j] * x[..., j]
    return out


def joint_jitter(x: Array, joints: Sequence[int], matrix: Array | None) -> Array:
    """Zeroes or transforms some joints, in every frame and for both persons.

    Args:
      x: (..., V, 3).
      joints: joints numbered from zero.
      matrix: (3, 3), or None to set the joints to zero.
    """
    out = np.array(x, float)
    for joint in joints:
        out[..., joint, :] = 0.0 if matrix is None else shear(x[..., joint, :], matrix)
    return out


def random_mask(joints: Sequence[Sequence[int]], frames: int = 64, num_joints: int = 25) -> Array:
    """(T, V) mask, 1 visible: clip i of T / len(joints) frames hides `joints[i]` (from zero)."""
    mask = np.ones((frames, num_joints))
    clip_frames = frames // len(joints)
    for clip, hidden in enumerate(joints):
        for t in range(clip * clip_frames, (clip + 1) * clip_frames):
            for joint in hidden:
                mask[t, joint] = 0.0
    return mask


def topology_mask(parts: Sequence[Sequence[int]], frames: int = 64, clips: int = 8) -> Array:
    """(T, V) mask, 1 visible: clip i hides the body parts `parts[i]` (indices, one list a clip)."""
    if len(parts) != clips:
        raise ValueError(f"{len(parts)} lists of parts for {clips} clips")
    return random_mask([part_joints(chosen) for chosen in parts], frames)


def part_joints(parts: Sequence[int]) -> list[int]:
    """Joints, numbered from zero, of some body parts."""
    return [joint - 1 for part in parts for joint in BODY_PARTS[part]]


def cutmix(
    views: Array, partner: Sequence[int], parts: Sequence[int], ct: int, start_block: int
) -> tuple[Array, float]:
    """Some body parts in a run of frames are replaced by the partner's in the same frames.

    Args:
      views: (N, T, M, V, C).
      partner: (N,) whom each sequence is mixed with.
      parts: body parts taken, of both persons.
      ct: blocks of four frames taken.
      start_block: the first of them.

    Returns:
      The mixed views, and λ: the share of (block, joint) cells that were replaced.
    """
    first = MIX_BLOCK * start_block
    sources = {t: t for t in range(first, first + MIX_BLOCK * ct)}
    return _replace(views, partner, parts, ct, sources)


def resizemix(
    views: Array, partner: Sequence[int], parts: Sequence[int], ct: int, start_block: int
) -> tuple[Array, float]:
    """As `cutmix`, with the partner's first frames resized in time.

    The partner's first 2·4·ct frames, or as many as there are, are shortened to 4·ct by nearest
    neighbour and fill the region from its first frame on.
    """
    first, length = MIX_BLOCK * start_block, MIX_BLOCK * ct
    available = min(2 * length, views.shape[1])
    sources = {first + i: (i * available) // length for i in range(length)}
    return _replace(views, partner, parts, ct, sources)


def _replace(
    views: Array,
    partner: Sequence[int],
    parts: Sequence[int],
    ct: int,
    sources: Mapping[int, int],
) -> tuple[Array, float]:
    mixed = np.array(views, float)
    joints = part_joints(parts)
    for i, other in enumerate(partner):
        for frame, source in sources.items():
            for joint in joints:
                mixed[i, frame, :, joint] = views[other, source, :, joint]
    blocks = views.shape[1] // MIX_BLOCK
    return mixed, ct * len(joints) / (blocks * views.shape[3])


def mixup(views: Array, partner: Sequence[int], lam: float) -> tuple[Array, float]:
    """(1 − λ) · own + λ · partner's, and λ. `views` (N, T, M, V, C)."""
    views = np.asarray(views, float)
    mixed = [(1.0 - lam) * views[i] + lam * views[other] for i, other in enumerate(partner)]
    return np.stack(mixed), lam


def bone_stream(x: Array) -> Array:
    """Each joint minus its parent: (N, T, M, V, C) → the same shape. Joint 21 becomes zero."""
    out = np.zeros(x.shape)
    for joint, parent in enumerate(PARENTS):
        out[..., joint, :] = np.asarray(x[..., joint, :], float) - x[..., parent - 1, :]
    return out


def motion_stream(x: Array) -> Array:
    """Next frame minus this one; zero in the last: (N, T, M, V, C) → the same shape."""
    out = np.zeros(x.shape)
    for t in range(x.shape[1] - 1):
        out[:, t] = np.asarray(x[:, t + 1], float) - x[:, t]
    return out


# --- Losses and the queue ---------------------------------------------------------------------


def log_softmax(x: Array) -> Array:
    """Over the last axis."""
    shifted = x - x.max(-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))


def info_nce(z: Array, k: Array, queue: Array, temperature: float) -> tuple[float, Array]:
    """Contrast of each row of z with its own key against the queue (Eq. 1).

    Args:
      z, k: (N, D) unit vectors.
      queue: (K, D) unit vectors.

    Returns:
      The mean loss, and the logits (N, 1 + K), the positive first, divided by the temperature.
    """
    logits = np.zeros((len(z), 1 + len(queue)))
    for i in range(len(z)):
        logits[i, 0] = z[i] @ k[i] / temperature
        logits[i, 1:] = np.asarray(queue, float) @ z[i] / temperature
    return float(-log_softmax(logits)[:, 0].mean()), logits


def similarity_kl(
    z: Array, k: Array, queue: Array, teacher_temperature: float, student_temperature: float
) -> float:
    """KL(teacher ‖ student) of similarities to the queue, a mean over rows (Eq. 3).

    The key's similarities are the teacher, z's the student. Shapes as in `info_nce`.
    """
    queue = np.asarray(queue, float)
    total = 0.0
    for i in range(len(z)):
        teacher = log_softmax(queue @ k[i] / teacher_temperature)
        student = log_softmax(queue @ z[i] / student_temperature)
        total += (np.exp(teacher) * (teacher - student)).sum()
    return float(total / len(z))


def masked_mse(prediction: Array, target: Array, mask: Array) -> float:
    """Mean squared error over the masked coordinates (Eq. 4).

    Args:
      prediction, target: (N, T, M, V, C).
      mask: (T, V), 1 visible, of the first person; the second has no masked coordinates.
    """
    total, count = 0.0, 0
    frames, joints = np.nonzero(np.asarray(mask) == 0)
    for t, v in zip(frames, joints, strict=True):
        error = np.asarray(prediction[:, t, 0, v], float) - target[:, t, 0, v]
        total += (error**2).sum()
        count += error.size
    return float(total / count)


def queue_push(queue: Array, pointer: int, keys: Array) -> tuple[Array, int]:
    """Overwrites the oldest keys, wrapping round.

    Args:
      queue: (K, D).
      pointer: row of the oldest key.
      keys: (N, D).

    Returns:
      The next queue and pointer.
    """
    queue = np.array(queue)
    for key in keys:
        queue[pointer] = key
        pointer = (pointer + 1) % len(queue)
    return queue, pointer


# --- One step ---------------------------------------------------------------------------------

PREDICTION_WEIGHT = 40.0
KEY_MOMENTUM = 0.999
TEMPERATURES = {"nce": 0.07, "teacher": 0.05, "student": 0.1}


def flatten_frames(x: Array) -> Array:
    """(N, T, M, V, C) → (N, T, V·C·M), the program's order of features."""
    return x.transpose(0, 1, 3, 4, 2).reshape(*x.shape[:2], -1)


def unflatten_frames(x: Array, persons: int = 2, coordinates: int = 3) -> Array:
    """Inverse of `flatten_frames`."""
    split = x.reshape(*x.shape[:2], -1, coordinates, persons)
    return split.transpose(0, 1, 4, 2, 3)


def gru_layers(state: Mapping[str, Array], prefix: str, count: int) -> list[dict[str, Array]]:
    """Collects `prefix.weight_ih_l0`, `..._l0_reverse`, ... into one dict a layer."""
    layers = []
    for i in range(count):
        layer = {}
        for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"):
            for suffix in ("", "_reverse"):
                full = f"{prefix}.{name}_l{i}{suffix}"
                if full in state:
                    layer[name + suffix] = np.asarray(state[full], float)
        layers.append(layer)
    return layers


def encode(
    state: Mapping[str, Array], encoder: str, x: Array, domain_prompt: Array | float = 0.0
) -> Array:
    """Domain prompt, BatchNorm, three causal GRU layers: (N, T, M, V, C) → (N, T, 2H)."""
    prompted = flatten_frames(np.asarray(x, float)) + domain_prompt
    norm = f"{encoder}.input_norm"
    normalised, _, _ = batch_norm(prompted, state[f"{norm}.weight"], state[f"{norm}.bias"])
    return bigru_causal(normalised, gru_layers(state, f"{encoder}.encoder.gru", 3))


def project(state: Mapping[str, Array], encoder: str, feature: Array) -> Array:
    """Linear, ReLU, linear, L2 norm: (N, 2H) → (N, D)."""
    head = f"{encoder}.fc"
    hidden = linear(feature, state[f"{head}.0.weight"], state[f"{head}.0.bias"])
    hidden = np.maximum(hidden, 0.0)
    return unit(linear(hidden, state[f"{head}.2.weight"], state[f"{head}.2.bias"]))


def decode(state: Mapping[str, Array], features: Array) -> Array:
    """Every frame's features (N, T, 2H) → skeletons (N, T, M, V, C)."""
    hidden = linear(features, state["linear.0.weight"], state["linear.0.bias"])
    hidden, _, _ = batch_norm(hidden, state["linear.1.weight"], state["linear.1.bias"])
    hidden = np.maximum(hidden, 0.0)
    hidden = linear(hidden, state["linear.3.weight"], state["linear.3.bias"])
    hidden = gru_unidirectional(hidden, gru_layers(state, "recons_decoder.decoder", 2))
    head = "recons_decoder.reconstruction"
    return unflatten_frames(linear(hidden, state[f"{head}.weight"], state[f"{head}.bias"]))


def update_key_encoder(state: Mapping[str, Array]) -> dict[str, Array]:
    """The state with key parameters moved 0.001 of the way; running statistics stay."""
    moved = {name: np.asarray(value) for name, value in state.items()}
    statistics = ("running_mean", "running_var", "num_batches_tracked")
    for name in state:
        if name.startswith("encoder_k.") and not name.endswith(statistics):
            query = np.asarray(state[name.replace("encoder_k.", "encoder_q.", 1)], float)
            moved[name] = KEY_MOMENTUM * moved[name] + (1.0 - KEY_MOMENTUM) * query
    return moved


def step_forward(
    state: Mapping[str, Array],
    query: Array,
    key: Array,
    target: Array,
    mask: Array,
    mixed: Array,
    partner: Sequence[int],
    lam: float,
    prompt_offsets: Sequence[int] | None,
) -> tuple[dict[str, float], dict[str, Array], dict[str, Array]]:
    """Everything of a training step up to the loss.

    Args:
      state: by PyTorch name, before the key encoder's update.
      query, key, target, mixed: (N, T, M, V, C).
      mask: (T, V), 1 visible.
      partner: (N,).
      lam: λ of the mix.
      prompt_offsets: six channel offsets (intra query, masked view before the decoder, masked
        view before the projector, predicted view, inter view, key), or None for the streams
        trained without prompts, whose loss leaves the KL terms out.

    Returns:
      Losses by name (`loss` is the sum that is differentiated; `kl` is given either way); logits
      (N, 1 + K) of the four views; and `reconstruction` (N, T, M, V, C), `keys` (N, D) and the
      next `queue` (K, D).
    """
    state = update_key_encoder(state)
    prompts = prompt_offsets is not None
    visible = np.ones(target.shape)
    visible[:, :, 0] = mask[None, :, :, None]

    def domain(name: str) -> Array | float:
        return np.asarray(state[name], float).reshape(-1) if prompts else 0.0

    def task(name: str, features: Array, place: int) -> Array:
        if not prompts:
            return features
        return prompt_on_channels(features, state[name].reshape(-1), prompt_offsets[place])

    def contrast(encoder: str, frames: Array, place: int) -> Array:
        return project(state, encoder, task("cl_prompt", frames[:, -1], place))

    z, k = {}, {}
    z["intra"] = contrast("encoder_q", encode(state, "encoder_q", query, domain("base_prompt")), 0)

    masked = np.asarray(target, float) * visible
    masked_frames = encode(state, "encoder_q", masked, domain("mask_prompt"))
    reconstruction = decode(state, task("mp_prompt", masked_frames, 1))
    z["mask"] = contrast("encoder_q", masked_frames, 2)

    # In training a second decoder pass makes this, with the encoder's gradient stopped (or, in
    # the streams without prompts, the first pass with the whole gradient stopped): same numbers.
    predicted = np.where(visible == 1.0, masked, reconstruction)
    predicted_frames = encode(state, "encoder_q", predicted, domain("recons_prompt"))
    z["predict"] = contrast("encoder_q", predicted_frames, 3)
    z["inter"] = contrast("encoder_q", encode(state, "encoder_q", mixed, domain("mix_prompt")), 4)

    keys = contrast("encoder_k", encode(state, "encoder_k", key, domain("base_prompt")), 5)
    k = dict.fromkeys(("intra", "mask", "predict"), keys)
    k["inter"] = unit((1.0 - lam) * keys + lam * keys[np.asarray(partner)])

    queue = np.asarray(state["queue"], float).T
    losses, logits = {"kl": 0.0}, {}
    for view in ("intra", "inter", "mask", "predict"):
        nce, logits[view] = info_nce(z[view], k[view], queue, TEMPERATURES["nce"])
        losses[f"nce_{view}"] = nce
        losses["kl"] += similarity_kl(
            z[view], k[view], queue, TEMPERATURES["teacher"], TEMPERATURES["student"]
        )
    losses["mask_mse"] = masked_mse(reconstruction, target, mask)
    contrastive = sum(losses[f"nce_{view}"] for view in z)
    kl = losses["kl"] if prompts else 0.0
    losses["loss"] = contrastive + PREDICTION_WEIGHT * losses["mask_mse"] + kl
    pushed, _ = queue_push(queue, int(np.ravel(state["queue_ptr"])[0]), keys)
    return losses, logits, {"reconstruction": reconstruction, "keys": keys, "queue": pushed}
