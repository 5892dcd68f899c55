"""LitServe: the HTTP process hands requests to inference processes, which take batches with many connections."""

from typing import Annotated

import litserve
from fastapi import Depends, Request

from common import Classifier, Settings

settings = Settings()


async def raw_body(request: Request) -> bytes:
    return await request.body()


class Classify(litserve.LitAPI):
    def setup(self, device):
        self.classifier = Classifier(settings.directory, settings.threads)

    def decode_request(self, request: Annotated[bytes, Depends(raw_body)]):
        return self.classifier.decode(request)

    def batch(self, inputs):
        return inputs

    def predict(self, x):
        return self.classifier.run(x if settings.batch > 1 else [x])

    def unbatch(self, output):
        return output

    def encode_response(self, output):
        return output if settings.batch > 1 else output[0]


if __name__ == "__main__":
    api = Classify(max_batch_size=settings.batch, batch_timeout=0.001, api_path="/v1/classify")
    # If a run takes microseconds, one inference process keeps up with the HTTP process.
    workers = settings.workers if settings.heavy else 1
    server = litserve.LitServer(
        api, accelerator="cpu", workers_per_device=workers, timeout=False, fast_queue=True
    )
    server.run(
        host="127.0.0.1", port=settings.port, num_api_servers=1, log_level="warning", generate_client_file=False
    )
