"""What the document cannot say about a request: which bytes are a picture, that all inputs of a request are of the kind that its
model takes, and that what stands in the query and in the body must be the same.

Schemathesis makes up everything else from the document, and cases that are meant to be wrong are left as they are.
"""

import base64
import itertools
import pathlib

import schemathesis
from hypothesis import strategies as st

MODELS = pathlib.Path(__file__).parents[2] / "models"
PICTURES = [path.read_bytes() for path in sorted(MODELS.glob("digits/1/golden/*.png"))]
# Of the models in classifyd.toml.
IMAGE_MODEL, TEXT_MODEL = "digits", "sentiment"
MAX_INPUTS = 32
# Shorter ones are answered with 504 as they should be.
MIN_TIMEOUT = 10_000
OPTIONS = ["model", "top_k", "timeout_ms", "priority"]


def as_it_is(_context, response):
    return response.content.decode("latin-1")


# The format of a picture is told by its content, so one kind does for all types.
for media_type in ["png", "jpeg", "webp", "gif", "bmp"]:
    schemathesis.openapi.media_type(f"image/{media_type}", st.sampled_from(PICTURES))
    schemathesis.deserializer(f"image/{media_type}")(as_it_is)
schemathesis.openapi.format("binary", st.sampled_from(PICTURES))

pictures = itertools.cycle(PICTURES)


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
        is_picture = isinstance(inputs[0], dict) and "image" in inputs[0]
        model = IMAGE_MODEL if is_picture else TEXT_MODEL
        inputs = [picture_input() if is_picture else text_input(one) for one in inputs]
        body["inputs"] = inputs if several else inputs[0]
    elif body.get("image") and not body.get("text"):
        # Left as it is: Schemathesis takes a form with bytes to be wrong when it was changed.
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
    """Blank texts, and markup alone, have no token."""
    return f"film {written}"


def text_input(one):
    return {"text": text(one["text"])} if isinstance(one, dict) and "text" in one else text(one)


def picture_input():
    return {"image": base64.b64encode(next(pictures)).decode()}
