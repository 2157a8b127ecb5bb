"""The guided step as a plugin of TensorRT engines, after a UNet or alone."""

from typing import Any

from ..compiling.plugins import FLOATS, Plugin, PluginCall, PluginLaunch, blocks, known, product

# Elements of a program. TensorRT times each of them when it builds.
TACTICS = (512, 1024, 2048)
# Eight a thread: two 16-byte accesses of the fp32 tensors.
_WARP_ELEMENTS = 256
_ROWS, _FP32 = "INT32", "FP32"


def _describe(outputs: Any, latents: Any, past: Any, noise: Any, *_: Any) -> tuple[Any, Any]:  # noqa: ARG001
    # Of the noise's shape and type: pictures in fp32.
    return noise.like(), noise.like()


def _combine(call: PluginCall) -> list[tuple[tuple[str, ...], tuple[int, ...]]]:  # noqa: ARG001
    fp32 = (_FP32,) * 3
    return [((kind, *fp32, _ROWS, _FP32, _FP32, _FP32), TACTICS) for kind in FLOATS]


def _launch(call: PluginCall) -> PluginLaunch:
    from .kernel import guided_step_fwd_kernel

    latents, noise = call.inputs[1], call.inputs[3]
    pictures, *picture = noise.shape_expr
    size = product(picture)
    return PluginLaunch(
        kernel=guided_step_fwd_kernel,
        constants={
            "HISTORY": known(latents.shape_expr[0], "the length of guided_step's history"),
            # What a zero would multiply is not read: without noise its scale is zero.
            "HAS_NOISE": True,
            "BLOCK": call.tactic,
        },
        sizes=(pictures, size),
        grid=(pictures, blocks(size, call.tactic)),
        warp_count=call.tactic // _WARP_ELEMENTS,
        # The same bits as on a CPU: products are rounded before they are added.
        fuses_multiply_add=False,
    )


# `sangsang::GuidedStep`: the tensors of `guided_step`, noise always among them -> the next latents
# and the guided outputs, both `[pictures, ...]`, fp32.
PLUGIN = Plugin(
    name="GuidedStep",
    inputs=("outputs_of_rows", "latents", "past_outputs", "noise", "rows", "coefficients"),
    output_count=2,
    describe=_describe,
    launch=_launch,
    combine=_combine,
)
