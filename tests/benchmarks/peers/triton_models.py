"""What runs inside NVIDIA Triton's Python backend: each class is one model of the repository.

Triton decides which requests come together; each `execute` does for all of them what `PeerModel`
does for a batch. An instance's number is its device's.
"""

import triton_python_backend_utils as pb_utils

from .engines import EngineChoice, PeerModel


def _model(args):
    """The model on the device of this instance, whose name ends in its number."""
    number = int(args["model_instance_name"].rpartition("_")[2])
    return PeerModel(EngineChoice.from_environment(), number)


def _array(request, name):
    """The input of one request, without its batch dimension of one."""
    return pb_utils.get_input_tensor_by_name(request, name).as_numpy()[0]


def _text(request, name):
    return _array(request, name)[0].decode()


def _response(name, array):
    return pb_utils.InferenceResponse([pb_utils.Tensor(name, array[None])])


def _cancelled():
    error = pb_utils.TritonError("cancelled", pb_utils.TritonError.CANCELLED)
    return pb_utils.InferenceResponse(error=error)


class Text:
    """Prompt to the embeddings of every row; one text a call, and a cache, as in ours."""

    def initialize(self, args):
        self.model = _model(args)
        self.model.embed("")

    def execute(self, requests):
        import numpy as np

        return [
            _response(
                "CONTEXTS",
                np.stack(self.model.contexts(_text(one, "PROMPT"), _text(one, "TIER"))),
            )
            for one in requests
        ]


class Diffusion:
    """Embeddings to latents: the whole loop for the requests that come together."""

    def initialize(self, args):
        self.model = _model(args)
        self.model.warm_up("unet")

    def execute(self, requests):
        rows = [
            self.model.start(_array(r, "CONTEXTS"), int(_array(r, "SEED")[0]), _text(r, "TIER"))
            for r in requests
        ]
        while True:
            going = [
                row
                for row, request in zip(rows, requests, strict=True)
                if not (row.finished or request.is_cancelled())
            ]
            if not going:
                break
            self.model.step(going)
        return [_response("LATENTS", row.latents) if row.finished else _cancelled() for row in rows]


class IterativeDiffusion:
    """Embeddings to latents, one step each time: who has steps left is scheduled anew."""

    def initialize(self, args):
        self.model = _model(args)
        self.model.warm_up("unet")
        self.rows = {}

    def execute(self, requests):
        going = []
        for request in requests:
            key = request.correlation_id()
            if request.is_cancelled():
                self.rows.pop(key, None)
                continue
            if key not in self.rows:
                self.rows[key] = self.model.start(
                    _array(request, "CONTEXTS"),
                    int(_array(request, "SEED")[0]),
                    _text(request, "TIER"),
                )
            going.append(self.rows[key])
        if going:
            self.model.step(going)
        return [self._answer(request) for request in requests]

    def _answer(self, request):
        key = request.correlation_id()
        if key not in self.rows:
            return _cancelled()
        if self.rows[key].finished:
            return _response("LATENTS", self.rows.pop(key).latents)
        request.set_release_flags(pb_utils.TRITONSERVER_REQUEST_RELEASE_RESCHEDULE)
        return None


class Decode:
    """Latents to PNG files."""

    def initialize(self, args):
        self.model = _model(args)
        self.model.warm_up("vae_decoder")

    def execute(self, requests):
        import numpy as np

        pictures = self.model.decode([_array(request, "LATENTS") for request in requests])
        return [_response("PICTURE", np.array([picture], np.object_)) for picture in pictures]
