"""What runs inside LitServe, in its own environment: `python -m peers.litserve_apps KIND PORT`.

`batched` gathers whole requests of one tier; `continuous` runs LitServe's continuous batching loop,
whose step is one UNet evaluation for all that are active. LitServe does not tell its workers that a
caller has gone, so requests say until when they are of use and are dropped after that.
"""

import os
import sys
import time

import litserve
from litserve.loops import ContinuousBatchingLoop, Output
from litserve.utils import LitAPIStatus
from starlette.responses import Response

from .engines import EngineChoice, PeerModel

BATCH_TIMEOUT_S = 0.002
ROW_LIMIT_VARIABLE = "PEERS_ROW_LIMIT"


def _model():
    choice = EngineChoice.from_environment()
    number = int(os.environ["LITSERVE_WORKER_ID"]) % len(choice.devices)
    model = PeerModel(choice, number)
    model.warm_up("unet", "vae_decoder")
    return model


def _start(model, request):
    contexts = model.contexts(request["prompt"], request["tier"])
    return model.start(contexts, request["seed"], request["tier"])


class Batched(litserve.LitAPI):
    """Whole requests of one tier, for as long as the last of a batch takes."""

    def setup(self, device):
        self.model = _model()

    def predict(self, requests):
        requests = requests if isinstance(requests, list) else [requests]
        now = time.time()
        rows = {
            place: _start(self.model, request)
            for place, request in enumerate(requests)
            if now < request["start_by"]
        }
        while going := [row for row in rows.values() if not row.finished]:
            self.model.step(going)
        pictures = self.model.decode([row.latents for row in rows.values()]) if rows else []
        done = dict(zip(rows, pictures, strict=True))
        answers = [done.get(place, b"") for place in range(len(requests))]
        return answers if self.max_batch_size > 1 else answers[0]

    def batch(self, inputs):
        return list(inputs)

    def unbatch(self, output):
        return list(output)

    def encode_response(self, output):
        # An error of one request would be every neighbour's, so a dropped one gets a status.
        status = 200 if output else 504
        return Response(output, status_code=status, media_type="image/png")


class Continuous(litserve.LitAPI):
    """One step for all that are active; finished ones are decoded together after the step."""

    def setup(self, device):
        self.model = _model()
        self.row_limit = int(os.environ[ROW_LIMIT_VARIABLE])
        self.active = {}

    def add_request(self, uid, request):
        self.active[uid] = (_start(self.model, request), request)

    def has_capacity(self):
        return sum(row.row_count for row, _ in self._members()) <= self.row_limit - 2

    def has_active_requests(self):
        return bool(self.active)

    def step(self, prev_outputs):
        now = time.time()
        late = [
            uid for uid, (row, request) in list(self.active.items()) if _is_late(now, row, request)
        ]
        for uid in late:
            del self.active[uid]
        # Requests are added by another thread while a step runs.
        members = dict(self.active)
        if members:
            self.model.step([row for row, _ in members.values()])
        finished = [uid for uid, (row, _) in members.items() if row.finished]
        pictures = self.model.decode([members[u][0].latents for u in finished]) if finished else []
        for uid in finished:
            del self.active[uid]
        outputs = [
            Output(uid, picture, LitAPIStatus.OK)
            for uid, picture in zip(finished, pictures, strict=True)
        ]
        outputs += [Output(uid, b"", LitAPIStatus.FINISH_STREAMING) for uid in (*finished, *late)]
        # The loop sleeps for 10 ms after a step that says nothing.
        return outputs or [Output(uid, b"", LitAPIStatus.OK) for uid in list(members)[:1]]

    def encode_response(self, output):
        return output

    def _members(self):
        return list(self.active.values())


def _is_late(now, row, request):
    limit = "end_by" if row.completed_step_count else "start_by"
    return now > request[limit]


def main(kind, port):
    """Serves until it is ended."""
    choice = EngineChoice.from_environment()
    rows = int(os.environ[ROW_LIMIT_VARIABLE])
    if kind == "continuous":
        apis = [
            Continuous(
                max_batch_size=rows, stream=True, loop=ContinuousBatchingLoop(), api_path="/picture"
            )
        ]
    else:
        apis = [
            Batched(max_batch_size=size, batch_timeout=BATCH_TIMEOUT_S, api_path=f"/{tier}")
            for tier, size in (("free", rows), ("pro", rows // 2))
        ]
    server = litserve.LitServer(
        apis,
        accelerator="cpu",
        workers_per_device=len(choice.devices),
        timeout=False,
        fast_queue=True,
        disable_openapi_url=True,
    )
    server.run(
        host="127.0.0.1",
        port=port,
        num_api_servers=1,
        log_level="warning",
        generate_client_file=False,
        access_log=False,
    )


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
