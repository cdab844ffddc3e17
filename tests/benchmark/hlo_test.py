"""Kernels read from a program's text."""

import jax
import jax.numpy as jnp
import pytest

from pcm3_jax.benchmark import estimate
from pcm3_jax.benchmark.hlo import Kernel, kernels

# A loop of seven turns, of which each reads a frame of x, multiplies it and stores the product; the
# increment of the counter is in a command buffer.  As XLA prints programs for GPUs.
PROGRAM = """
HloModule jit_f, is_scheduled=true

%fused_slice (param_0: f32[7,16,32], param_1: s32[]) -> bf16[16,32] {
  %param_0 = f32[7,16,32]{2,1,0} parameter(0)
  %param_1 = s32[] parameter(1)
  %zero = s32[] constant(0)
  %slice = f32[1,16,32]{2,1,0} dynamic-slice(%param_0, %param_1, %zero, %zero), dynamic_slice_sizes={1,16,32}
  %bitcast.1 = f32[16,32]{1,0} bitcast(%slice)
  ROOT %convert = bf16[16,32]{1,0} convert(%bitcast.1)
}

%fused_store (param_0.1: f32[7,16,64], param_1.1: f32[16,64], param_2: s32[]) -> f32[7,16,64] {
  %param_0.1 = f32[7,16,64]{2,1,0} parameter(0)
  %param_1.1 = f32[16,64]{1,0} parameter(1)
  %param_2 = s32[] parameter(2)
  %zero.1 = s32[] constant(0)
  %tanh = f32[16,64]{1,0} tanh(%param_1.1)
  %frame = f32[1,16,64]{2,1,0} bitcast(%tanh)
  ROOT %store = f32[7,16,64]{2,1,0} dynamic-update-slice(%param_0.1, %frame, %param_2, %zero.1, %zero.1)
}

%add_one (param_0.2: s32[]) -> s32[] {
  %param_0.2 = s32[] parameter(0)
  %one = s32[] constant(1)
  ROOT %add = s32[] add(%param_0.2, %one)
}

%command_buffer (p: s32[]) -> s32[] {
  %p = s32[] parameter(0)
  ROOT %next = s32[] fusion(%p), kind=kLoop, calls=%add_one
}

%body (state: (s32[], f32[7,16,32], bf16[32,64], /*index=3*/f32[7,16,64])) -> (s32[], f32[7,16,32], bf16[32,64], f32[7,16,64]) {
  %state = (s32[], f32[7,16,32]{2,1,0}, bf16[32,64]{1,0}, /*index=3*/f32[7,16,64]{2,1,0}) parameter(0)
  %i = s32[] get-tuple-element(%state), index=0
  %x = f32[7,16,32]{2,1,0} get-tuple-element(%state), index=1
  %w = bf16[32,64]{1,0} get-tuple-element(%state), index=2
  %y = f32[7,16,64]{2,1,0} get-tuple-element(%state), index=3
  %read = bf16[16,32]{1,0} fusion(%x, %i), kind=kLoop, calls=%fused_slice, metadata={op_name="jit(f)/transpose(jvp(f))/encoder/while/body/slice"}
  %gemm = (f32[16,64]{1,0}, s8[1024]{0}) custom-call(%read, %w), custom_call_target="__cublas$gemm", metadata={op_name="jit(f)/transpose(jvp(f))/encoder/while/body/dot_general"}, backend_config={"gemm_backend_config":{"dot_dimension_numbers":{"lhs_contracting_dimensions":["1"],"rhs_contracting_dimensions":["0"],"lhs_batch_dimensions":[],"rhs_batch_dimensions":[]}}}
  %product = f32[16,64]{1,0} get-tuple-element(%gemm), index=0
  %write = f32[7,16,64]{2,1,0} fusion(%y, %product, %i), kind=kLoop, calls=%fused_store
  %count = s32[] call(%i), to_apply=%command_buffer
  ROOT %turned = (s32[], f32[7,16,32]{2,1,0}, bf16[32,64]{1,0}, /*index=3*/f32[7,16,64]{2,1,0}) tuple(%count, %x, %w, %write)
}

%condition (state.1: (s32[], f32[7,16,32], bf16[32,64], /*index=3*/f32[7,16,64])) -> pred[] {
  %state.1 = (s32[], f32[7,16,32]{2,1,0}, bf16[32,64]{1,0}, /*index=3*/f32[7,16,64]{2,1,0}) parameter(0)
  %i.1 = s32[] get-tuple-element(%state.1), index=0
  %seven = s32[] constant(7)
  ROOT %less = pred[] compare(%i.1, %seven), direction=LT
}

ENTRY %main (a: f32[7,16,32], b: bf16[32,64]) -> f32[7,16,64] {
  %a = f32[7,16,32]{2,1,0} parameter(0)
  %b = bf16[32,64]{1,0} parameter(1)
  %copy = bf16[32,64]{0,1} copy(%b), metadata={op_name="jit(f)/transpose"}
  %start = s32[] constant(0)
  %empty = f32[7,16,64]{2,1,0} constant({...})
  %all = (s32[], f32[7,16,32]{2,1,0}, bf16[32,64]{1,0}, /*index=3*/f32[7,16,64]{2,1,0}) tuple(%start, %a, %copy, %empty)
  %loop = (s32[], f32[7,16,32]{2,1,0}, bf16[32,64]{1,0}, /*index=3*/f32[7,16,64]{2,1,0}) while(%all), condition=%condition, body=%body, backend_config={"known_trip_count":{"n":"7"}}
  ROOT %result = f32[7,16,64]{2,1,0} get-tuple-element(%loop), index=3
}
"""  # noqa: E501


def test_kernels_of_a_loop():
    frame, product, weight = 16 * 32, 16 * 64, 32 * 64
    found = {kernel.name: kernel for kernel in kernels(PROGRAM)}
    layer = "jit(f)/transpose(jvp(f))/encoder/while/body/"
    assert found == {
        "copy": Kernel("copy", "jit(f)/transpose", 2 * 2 * weight, 0, "", 1, "", False),
        # Of x one frame is read, and the number of the frame.
        "read": Kernel("read", f"{layer}slice", (4 + 2) * frame + 4, 0, "", 7, "body", False),
        # Without cuBLAS's workspace.
        "gemm": Kernel(
            "gemm", f"{layer}dot_general", 2 * frame + 2 * weight + 4 * product,
            2 * 16 * 32 * 64, "bf16", 7, "body", False,
        ),
        # One frame of y is written, and nothing else of it is read.
        "write": Kernel("write", "", 2 * 4 * product + 4, 0, "", 7, "body", False),
        "next": Kernel("next", "", 8, 0, "", 7, "body", True),
    }  # fmt: skip


def test_products_of_a_program_that_xla_compiled():
    """Counts those in fusions and in loops; whichever device the program is for."""

    def f(x, w):
        return jax.lax.scan(lambda h, _: (jnp.tanh(h @ w), None), x, None, length=5)[0] + x @ w

    arguments = jnp.ones((8, 16)), jnp.ones((16, 16))
    text = jax.jit(f).lower(*arguments).compile().as_text()
    assert sum(k.runs * k.flops for k in kernels(text)) == 6 * 2 * 8 * 16 * 16


def test_the_estimate_is_the_longer_of_both_times_and_a_launch():
    device = estimate.Device(bandwidth=1e12, product_rates={"f32": 1e12, "bf16": 4e12})
    kernel = Kernel("k", "", 10**6, 0, "", 1, "", False)
    assert device.seconds(kernel) == pytest.approx(1e-6 + 2.5e-6)
    assert device.seconds(kernel._replace(command_buffer=True)) == pytest.approx(1e-6 + 1.5e-6)
    product = kernel._replace(flops=8e6, dtype="f32")
    assert device.seconds(product) == pytest.approx(8e-6 + 2.5e-6)
    assert device.seconds(product._replace(dtype="bf16")) == pytest.approx(2e-6 + 2.5e-6)


def test_totals_by_module():
    totals = estimate.by_module(kernels(PROGRAM), estimate.DEVICES["h100"])
    assert {name: total.kernels for name, total in totals.items()} == {
        "encoder, backward, scan": 14, "rest": 1, "rest, scan": 14, "all": 29,
    }  # fmt: skip
    whole = totals.pop("all")
    for what in ("bytes", "flops", "seconds"):
        assert sum(getattr(total, what) for total in totals.values()) == pytest.approx(
            getattr(whole, what)
        )
    assert estimate.table({"all": whole}).splitlines()[2].startswith("| all | 29 | 0.00 | 0 | 0.0")
