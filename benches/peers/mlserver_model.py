"""MLServer: a custom runtime with a custom handler, because its own protocol carries images only inside JSON."""

import asyncio

from mlserver import MLModel
from mlserver.handlers import custom_handler
from starlette.requests import Request
from starlette.responses import JSONResponse

from common import Classifier, Settings

settings = Settings()


class Model(MLModel):
    async def load(self) -> bool:
        self.classifier = Classifier(settings.directory, settings.threads)
        return True

    @custom_handler(rest_path="/v1/classify")
    async def classify(self, request: Request) -> JSONResponse:
        body = await request.body()
        if settings.heavy:
            return JSONResponse(await asyncio.to_thread(self.classifier.classify, body))
        return JSONResponse(self.classifier.classify(body))
