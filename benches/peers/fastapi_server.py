"""FastAPI + uvicorn: one process per core, inference in the handler, or on a thread if it takes milliseconds."""

import uvicorn
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse
from starlette.concurrency import run_in_threadpool

from common import Classifier, Settings

settings = Settings()
app = FastAPI()
classifier = Classifier(settings.directory, settings.threads)


@app.post("/v1/classify")
async def classify(request: Request):
    body = await request.body()
    if settings.heavy:
        return JSONResponse(await run_in_threadpool(classifier.classify, body))
    return JSONResponse(classifier.classify(body))


if __name__ == "__main__":
    uvicorn.run(
        "fastapi_server:app",
        host="127.0.0.1",
        port=settings.port,
        workers=settings.workers,
        loop="uvloop",
        http="httptools",
        access_log=False,
        log_level="warning",
    )
