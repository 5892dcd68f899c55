"""mosec: workers are processes; with many connections each of them takes batches."""

import json

from mosec import Server, Worker

from common import Classifier, Settings

settings = Settings()


class Classify(Worker):
    def __init__(self):
        self.classifier = Classifier(settings.directory, settings.threads)

    def deserialize(self, data):
        return self.classifier.decode(data)

    def forward(self, data):
        if settings.batch == 1:
            return self.classifier.run([data])[0]
        return self.classifier.run(data)

    def serialize(self, data):
        return json.dumps(data).encode()


if __name__ == "__main__":
    server = Server()
    server.append_worker(
        Classify, num=settings.workers, max_batch_size=settings.batch, max_wait_time=1, route="/v1/classify"
    )
    server.run()
