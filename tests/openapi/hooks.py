"""Makes Schemathesis' requests valid where the document cannot say how: which bytes are an image, that all inputs of a
request must have the model's input type, and that options in query and body must agree.

Schemathesis generates everything else from the document. Intentionally invalid requests stay unchanged.
"""

import base64
import itertools
import pathlib

import schemathesis
from hypothesis import strategies as st

MODELS = pathlib.Path(__file__).parents[2] / "models"
IMAGES = [path.read_bytes() for path in sorted(MODELS.glob("digits/1/golden/*.png"))]
# Models in classifyd.toml.
IMAGE_MODEL, TEXT_MODEL = "digits", "sentiment"
MAX_INPUTS = 32
# Shorter timeouts would rightly get a 504.
MIN_TIMEOUT = 10_000
OPTIONS = ["model", "top_k", "timeout_ms", "priority"]


def as_it_is(_context, response):
    return response.content.decode("latin-1")


# The server detects the format from the content, so one format is enough for all types.
for media_type in ["png", "jpeg", "webp", "gif", "bmp"]:
    schemathesis.openapi.media_type(f"image/{media_type}", st.sampled_from(IMAGES))
    schemathesis.deserializer(f"image/{media_type}")(as_it_is)
schemathesis.openapi.format("binary", st.sampled_from(IMAGES))

images = itertools.cycle(IMAGES)


@schemathesis.hook
def before_call(_context, case, _kwargs):
    if case.operation.label != "POST /v1/classify" or not case.meta.generation.mode.is_positive:
        return
    query, body = case.query or {}, case.body
    media_type = case.media_type or ""
    if media_type.startswith("image/"):
        model = IMAGE_MODEL
    elif media_type == "text/plain":
        model = TEXT_MODEL
        case.body = text(body)
    elif media_type == "application/json":
        several = isinstance(body["inputs"], list)
        inputs = (body["inputs"] if several else [body["inputs"]])[:MAX_INPUTS]
        is_image = isinstance(inputs[0], dict) and "image" in inputs[0]
        model = IMAGE_MODEL if is_image else TEXT_MODEL
        inputs = [image_input() if is_image else text_input(one) for one in inputs]
        body["inputs"] = inputs if several else inputs[0]
    elif body.get("image") and not body.get("text"):
        # Unchanged, because Schemathesis treats a changed form with bytes as invalid.
        model = IMAGE_MODEL
    else:
        model = TEXT_MODEL
        body.pop("image", None)
        body["text"] = [text(one) for one in body.get("text") or ["a"]][:MAX_INPUTS]
    in_body = body if isinstance(body, dict) else {}
    for option in OPTIONS:
        if in_body.get(option) is not None:
            query.pop(option, None)
    if model == TEXT_MODEL or "image" not in in_body:
        correct(in_body, model)
    if in_body.get("model") is None:
        query["model"] = model
    correct(query, model)
    case.query = query


def correct(options, model):
    if options.get("model") is not None:
        options["model"] = model
    if options.get("timeout_ms") is not None:
        options["timeout_ms"] = max(int(options["timeout_ms"]), MIN_TIMEOUT)


def text(written):
    """A text with a token: blank texts and pure markup have none."""
    return f"film {written}"


def text_input(one):
    return {"text": text(one["text"])} if isinstance(one, dict) and "text" in one else text(one)


def image_input():
    return {"image": base64.b64encode(next(images)).decode()}
