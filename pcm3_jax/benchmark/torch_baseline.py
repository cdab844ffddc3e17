"""Two PyTorch implementations of the pretraining step, the baselines of `pcm3_jax.benchmark`.

"frame_by_frame" works as the authors' program does: it calls recurrent networks once per frame and
encodes each view on its own, in float32.  "tuned" is the same step, optimised for PyTorch: it calls
cuDNN's recurrent layers on whole sequences, batches the views, uses a fused optimizer, and with
``config.model.dtype="bfloat16"`` runs matmuls under autocast.  Autocast uses float16 in cuDNN's
recurrent layers, which is as fast as bfloat16.  `torch.compile` is not used, because it does not
compile recurrent layers.

Tensors have the names of the authors' program, which `pcm3_jax.convert` reads, and sequences
are time-major.  This is the only module that needs PyTorch: ``pip install "pcm3_jax[torch]"``.
"""

from __future__ import annotations

import functools
import operator
import os
import re
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import jax
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pcm3_jax.augment.pipeline import Views
from pcm3_jax.data.skeleton import COORDINATES, FEATURES, flatten_frames
from pcm3_jax.inference import torch_layout
from pcm3_jax.methods.state import TrainState
from pcm3_jax.models.pcm3 import PromptOffsets
from pcm3_jax.settings import POSITIVES, Config, require

# The baselines always compute the whole published step; with a part of it switched off, they would
# do more work than ours.
_AS_PUBLISHED = (
    "model.recurrence", "method.positives", "method.masked_prediction", "method.kl_weight",
    "method.contrast_guides_decoder", "method.domain_prompts", "method.task_prompts",
    "method.prompt_placement", "optimizer.name", "optimizer.nesterov",
)  # fmt: skip
_DIRECTIONS = ("", "_reverse")
KINDS = ("frame_by_frame", "tuned")


def set_up(precision: str) -> torch.device:
    """Sets PyTorch up to compute on JAX's device, with all available CPU cores.

    Args:
      precision: ``config.model.precision``.

    Raises:
      UserError: PyTorch cannot use JAX's device.
    """
    backend = jax.default_backend()
    require(
        backend == "cpu" or (backend == "gpu" and torch.cuda.is_available()),
        "config.benchmark.torch_baseline compares on one device, but PyTorch cannot use JAX's, a "
        f"{backend}; install PyTorch for it or set JAX_PLATFORMS=cpu.",
    )
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    tf32 = precision == "tensorfloat32"
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = tf32
    return torch.device("cuda" if backend == "gpu" else "cpu")


class BaselineViews(NamedTuple):
    """`Views` and `PromptOffsets` in a baseline's form; flat frames are (T, N, 150)."""

    intra: Tensor
    key: Tensor
    target: Tensor
    inter: Tensor
    visible: Tensor  # (T, 1, 150), 0 where the target is masked.
    partner: Tensor  # (N,)
    mix_share: float
    offsets: dict[str, int]


class SteppedGRU(nn.GRU):
    """A GRU called once per frame, so that with two directions both run forward in time."""

    def forward(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        """(T, N, F) to states (T, N, D * H), concatenated frame by frame, as the authors do."""
        outputs, state = super().forward(inputs[:1])
        for frame in inputs[1:].split(1):
            output, state = super().forward(frame, state)
            outputs = torch.cat([outputs, output])
        return outputs, state


class CausalGRU(nn.ModuleDict):
    """`SteppedGRU` with two directions, computed by one call per layer and direction."""

    def __init__(self, inputs: int, hidden: int, layers: int) -> None:
        super().__init__()
        self.layers = layers
        for layer in range(layers):
            for direction in _DIRECTIONS:
                self[f"l{layer}{direction}"] = nn.GRU(2 * hidden if layer else inputs, hidden)

    def forward(self, x: Tensor) -> tuple[Tensor, None]:
        """(T, N, F) to states (T, N, 2H)."""
        for layer in range(self.layers):
            x = torch.cat([self[f"l{layer}{name}"](x)[0] for name in _DIRECTIONS], dim=-1)
        return x, None


class Baseline(nn.Module):
    """Network, key encoder, queue and optimizer; `step` trains on given views."""

    def __init__(self, kind: str, config: Config, device: torch.device) -> None:
        """A baseline of a kind, one of `KINDS`.

        Raises:
          UserError: a setting changes the published step.
        """
        super().__init__()
        for key in _AS_PUBLISHED:
            published, value = (operator.attrgetter(key)(c) for c in (Config(), config))
            require(
                value == published,
                f"config.{key} is {value!r}, but config.benchmark.torch_baseline needs the "
                f"published {published!r}.",
            )
        self.tuned, self.config, model = kind == "tuned", config, config.model
        lower = self.tuned and model.dtype == "bfloat16"
        self.product_type = torch.bfloat16 if lower else torch.float32
        size, width = model.decoder_hidden, 2 * model.prompt_width
        self.encoder_q, self.encoder_k = self._encoder(), self._encoder().requires_grad_(False)
        reduce, mix = nn.Linear(2 * model.hidden, size), nn.Linear(size, size)
        self.linear = nn.Sequential(reduce, nn.BatchNorm1d(size), nn.ReLU(), mix)
        decoder = (nn.GRU if self.tuned else SteppedGRU)(size, size, model.decoder_layers)
        self.recons_decoder = nn.ModuleDict(
            {"decoder": decoder, "reconstruction": nn.Linear(size, FEATURES)}
        )
        for name in ("base", "mask", "recons", "mix"):
            self.register_parameter(f"{name}_prompt", nn.Parameter(torch.zeros(FEATURES)))
        self.cl_prompt, self.mp_prompt = (nn.Parameter(torch.zeros(width)) for _ in "xx")
        self.register_buffer("queue", torch.zeros(model.projection, config.method.queue_size))
        self.register_buffer("queue_ptr", torch.zeros(1, dtype=torch.int64))
        self.to(device)
        self.optimizer = torch.optim.SGD(
            (p for p in self.parameters() if p.requires_grad),
            lr=config.optimizer.learning_rate,
            momentum=config.optimizer.momentum,
            weight_decay=config.optimizer.weight_decay,
            fused=self.tuned,
        )

    def tensors(self) -> dict[str, np.ndarray]:
        """Copies of the state by PyTorch name, for `torch_layout.state_from_torch`."""
        own = self.state_dict().items()
        return {_program_name(name): tensor.cpu().numpy().copy() for name, tensor in own}

    def load(self, tensors: Mapping[str, np.ndarray]) -> None:
        """Loads arrays by PyTorch name."""
        self.load_state_dict(
            {
                name: torch.tensor(tensors[_program_name(name)]).reshape(own.shape)
                for name, own in self.state_dict().items()
            }
        )

    def load_state(self, state: TrainState) -> None:
        """Loads our state, by the inverse of `torch_layout.state_from_torch`."""
        tensors = self.tensors()
        ends = np.cumsum([tensor.size for tensor in tensors.values()])
        numbers = np.split(np.arange(ends[-1], dtype=np.int32), ends[:-1])
        shaped = zip(tensors.items(), numbers, strict=True)
        places = torch_layout.state_from_torch(
            {k: n.reshape(v.shape) for (k, v), n in shaped}, state
        )
        values = np.zeros(ends[-1], np.float32)
        named = (s.replace(step=None, finite=None, opt_state=None) for s in (places, state))
        jax.tree.map(values.__setitem__, *named)
        self.load(dict(zip(tensors, np.split(values, ends[:-1]), strict=True)))

    def prepare(self, views: Views, offsets: PromptOffsets) -> BaselineViews:
        """Puts our views and offsets on the baseline's device."""
        put = functools.partial(torch.tensor, device=self.queue.device)
        query = views.query
        cells = np.asarray(query.visible)[None, ..., None].repeat(COORDINATES, -1)
        poses = (query.intra, views.key, query.target, query.inter, cells)
        frames = (np.swapaxes(flatten_frames(jax.numpy.asarray(x)), 0, 1) for x in poses)
        intra, key, target, inter, visible = (put(np.asarray(x)) for x in frames)
        return BaselineViews(
            intra,
            key,
            target,
            inter,
            visible,
            partner=put(np.asarray(views.partner)).long(),
            mix_share=float(views.mix_share),
            offsets={name: int(getattr(offsets, name)) for name in PromptOffsets.names()},
        )

    def step(self, views: BaselineViews) -> dict[str, float]:
        """One optimizer step (Eq. 7) with MoCo's bookkeeping; returns the losses."""
        if self.queue.is_cuda:
            torch.cuda.reset_peak_memory_stats()
        method, share = self.config.method, views.mix_share
        with torch.no_grad():
            sides = [list(side.parameters()) for side in (self.encoder_k, self.encoder_q)]
            torch._foreach_lerp_(*sides, 1 - method.key_momentum)
            with self._products():
                features = self._encode(self.encoder_k, views.key + self.base_prompt)
                (keys,) = self._project(self.encoder_k, {"key": features[0]}, views.offsets)
            mixed = F.normalize((1 - share) * keys + share * keys[views.partner])
        with self._products():
            embeddings, reconstruction = self._query(views)
        teachers = (keys, keys, keys, mixed)
        contrasts = [self._contrast(*pair) for pair in zip(embeddings, teachers, strict=True)]
        nces, kls = zip(*contrasts, strict=True)
        masked = 1 - views.visible
        error = ((reconstruction - views.target).square() * masked).sum()
        mse, kl = error / (masked.sum() * len(keys)), sum(kls)
        loss = sum(nces) + method.kl_weight * kl + method.mask_weight * mse

        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        self._push(keys)
        names = (*(f"nce_{name}" for name in POSITIVES), "kl", "mask_mse", "loss")
        return dict(zip(names, torch.stack([*nces, kl, mse, loss]).tolist(), strict=True))

    @property
    def memory(self) -> int | None:
        """Bytes that the last step needed at most, on a GPU; None on a CPU."""
        return torch.cuda.max_memory_allocated() if self.queue.is_cuda else None

    @torch.no_grad()
    def embed(self, frames: Tensor) -> Tensor:
        """Features (N, 2H) of frames (T, N, 150), by running statistics: the last states."""
        encoder = self.encoder_q
        norm = encoder["input_norm"]
        mean, variance = norm.running_mean, norm.running_var
        normalised = F.batch_norm(
            frames.flatten(0, 1), mean, variance, norm.weight, norm.bias, eps=norm.eps
        )
        with self._products():
            return encoder["encoder"]["gru"](normalised.view_as(frames))[0][-1].float()

    def multiply(self, size: int, count: int) -> None:
        """Multiplies (size, size) matrices ``count`` times, for `benchmark.product_rate`."""
        power = factor = _factor(size, self.product_type, self.queue.device)
        for _ in range(count):
            power = factor @ power
        if power.is_cuda:
            torch.cuda.synchronize()

    def _each(self, function: Callable[[Tensor], Tensor], inputs: Sequence[Tensor]) -> list[Tensor]:
        """Applies a row-wise function to several (…, N, F); "tuned" does so in one call."""
        if self.tuned:
            return function(torch.cat(inputs, dim=-2)).chunk(len(inputs), dim=-2)
        return [function(x) for x in inputs]

    def _products(self) -> torch.autocast:
        lower = self.product_type == torch.bfloat16
        return torch.autocast(self.queue.device.type, torch.bfloat16, enabled=lower)

    def _encoder(self) -> nn.ModuleDict:
        model = self.config.model
        sizes, width = (FEATURES, model.hidden, model.layers), 2 * model.hidden
        gru = CausalGRU(*sizes) if self.tuned else SteppedGRU(*sizes, bidirectional=True)
        inner, outer = nn.Linear(width, width), nn.Linear(width, model.projection)
        parts = {"encoder": nn.ModuleDict({"gru": gru}), "input_norm": nn.BatchNorm1d(FEATURES)}
        return nn.ModuleDict(parts | {"fc": nn.Sequential(inner, nn.ReLU(), outer)})

    def _query(self, views: BaselineViews) -> tuple[list[Tensor], Tensor]:
        """The positives' embeddings (N, D) and the reconstruction (T, N, 150)."""
        encoder, seen = self.encoder_q, views.target * views.visible
        intra, mask = self._encode(encoder, views.intra + self.base_prompt, seen + self.mask_prompt)
        prompt = self._on_channels(self.mp_prompt, views.offsets["decoder"])
        # Gradients of the predicted view reach the decoder, but not the masked view's encoder pass.
        reconstruction, predicted = self._decode(mask + prompt, mask.detach() + prompt)
        completed = seen + predicted * (1 - views.visible)
        predict, inter = self._encode(
            encoder, completed + self.recons_prompt, views.inter + self.mix_prompt
        )
        features = dict(zip(POSITIVES, (intra, mask, predict, inter), strict=True))
        return self._project(encoder, features, views.offsets), reconstruction

    def _encode(self, encoder: nn.ModuleDict, *views: Tensor) -> list[Tensor]:
        """Features (T, N, 2H) of views (T, N, 150)."""
        gru, normalised = encoder["encoder"]["gru"], _normalise(encoder["input_norm"], views)
        return self._each(lambda x: gru(x)[0], normalised)

    def _decode(self, *features: Tensor) -> list[Tensor]:
        """Frames (T, N, 150) from features (T, N, 2H)."""
        reduce, norm, relu, mix = self.linear
        gru, reconstruct = self.recons_decoder.values()
        reduced = _normalise(norm, self._each(reduce, features))
        frames = self._each(lambda x: reconstruct(gru(mix(relu(x)))[0]), reduced)
        return [x.float() for x in frames]

    def _project(
        self, encoder: nn.ModuleDict, features: dict[str, Tensor], offsets: dict[str, int]
    ) -> list[Tensor]:
        """Unit vectors (N, D) from the last frame's feature and the contrast prompt."""
        prompted = [
            x[-1] + self._on_channels(self.cl_prompt, offsets[name]) for name, x in features.items()
        ]
        return [F.normalize(z.float()) for z in self._each(encoder["fc"], prompted)]

    def _on_channels(self, prompt: Tensor, offset: int) -> Tensor:
        """A task prompt (2r,) on r channels from the offset of each direction: (2H,)."""
        halves = prompt.reshape(2, -1)
        return F.pad(halves, (offset, self.config.model.hidden - offset - halves.shape[1])).ravel()

    def _contrast(self, z: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
        """InfoNCE and similarity KL (Eq. 1 to 3) of embeddings and their keys (N, D)."""
        method = self.config.method
        similarity = z @ self.queue
        logits = torch.cat([(z * teacher).sum(1, keepdim=True), similarity], 1) / method.temperature
        nce = F.cross_entropy(logits, torch.zeros(len(z), dtype=torch.int64, device=z.device))
        target = F.softmax(teacher @ self.queue / method.teacher_temperature, dim=1)
        student = F.log_softmax(similarity / method.student_temperature, dim=1)
        return nce, F.kl_div(student, target, reduction="batchmean")

    def _push(self, keys: Tensor) -> None:
        size = self.queue.shape[1]
        slots = (self.queue_ptr + torch.arange(len(keys), device=keys.device)) % size
        # If there are more keys than slots, the last ones are kept.
        self.queue[:, slots[-size:]] = keys[-size:].T
        self.queue_ptr.add_(len(keys)).remainder_(size)


@functools.cache
def _factor(size: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    return (torch.randn(size, size) / size**0.5).to(device, dtype)


def _normalise(norm: nn.BatchNorm1d, inputs: Sequence[Tensor]) -> list[Tensor]:
    """Normalises each (T, N, F) by its batch statistics; updates the running ones in order."""
    return [norm(x.float().flatten(0, 1)).view_as(x) for x in inputs]


def _program_name(name: str) -> str:
    """The authors' name of a tensor; they have one GRU module where `CausalGRU` has several."""
    return re.sub(r"\.(l\d+(?:_reverse)?)\.(\w+)_l0$", r".\2_\1", name)
