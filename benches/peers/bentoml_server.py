"""BentoML: one process per core; the handler is a coroutine, or a thread if a run takes milliseconds."""

from typing import Annotated

import bentoml
import PIL.Image
from bentoml.validators import ContentType

from common import Classifier, Settings

settings = Settings()
Picture = Annotated[PIL.Image.Image, ContentType("image/*")]


@bentoml.service(
    workers=settings.workers,
    metrics={"enabled": False},
    logging={"access": {"enabled": False}},
    traffic={"timeout": 60},
)
class Service:
    def __init__(self):
        self.classifier = Classifier(settings.directory, settings.threads)

    if settings.heavy:

        @bentoml.api(route="/v1/classify")
        def classify(self, picture: Picture, /) -> dict:
            return self.classifier.run([self.classifier.preprocess(picture)])[0]

    else:

        @bentoml.api(route="/v1/classify")
        async def classify(self, picture: Picture, /) -> dict:
            return self.classifier.run([self.classifier.preprocess(picture)])[0]
