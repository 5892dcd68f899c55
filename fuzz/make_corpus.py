#!/usr/bin/env python3
"""Writes the first inputs of fuzz/corpus: the files of the tests, and a few that are made here. Others beside them stay."""

import base64
import struct
import zlib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CORPUS = ROOT / "fuzz/corpus"
MODELS = ROOT / "tests/fixtures/models"


def write(target: str, name: str, content: bytes | str) -> None:
    directory = CORPUS / target
    directory.mkdir(parents=True, exist_ok=True)
    (directory / name).write_bytes(content.encode() if isinstance(content, str) else content)


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png(width: int, height: int, depth: int, colour: int, pixels: bytes, *more: bytes, interlace: int = 0) -> bytes:
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, interlace))
    body = chunk(b"IDAT", zlib.compress(pixels, 9)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(more) + body


def gif(screen: tuple[int, int], frame: tuple[int, int]) -> bytes:
    head = b"GIF89a" + struct.pack("<HHBBB", *screen, 0x80, 0, 0) + b"\0\0\0\xff\xff\xff"
    return head + b"," + struct.pack("<HHHHB", 0, 0, *frame, 0) + b"\x02\x02\x44\x01\0;"


def bmp(width: int, height: int, bits: int, compression: int, pixels: bytes) -> bytes:
    palette = b"\0\0\0\0\xff\xff\xff\0" if bits == 1 else b""
    offset = 54 + len(palette)
    head = struct.pack("<2sIHHI", b"BM", offset + len(pixels), 0, 0, offset)
    info = struct.pack("<IiiHHIIiiII", 40, width, height, 1, bits, compression, len(pixels), 0, 0, 2, 0)
    return head + info + palette + pixels


def webp_of_one_colour(width: int, height: int) -> bytes:
    # Five prefix codes with one symbol each: the pixels take no bits at all.
    bits, at = 0, 0

    def put(value: int, count: int) -> None:
        nonlocal bits, at
        bits |= value << at
        at += count

    put(0x2F, 8)
    put(width - 1, 14)
    put(height - 1, 14)
    put(0, 4)  # no alpha, version 0
    put(0, 3)  # no transform, no colour cache, no meta codes
    for _ in range(5):
        put(0b001, 4)  # a simple code, one symbol, of one bit, 0
    data = bits.to_bytes((at + 7) // 8, "little")
    data += b"\0" * (len(data) % 2)
    return b"RIFF" + struct.pack("<I", 12 + len(data)) + b"WEBPVP8L" + struct.pack("<I", len(data)) + data


def images() -> None:
    for file in sorted((ROOT / "classifier/tests/fixtures/pillow").iterdir()):
        if file.stat().st_size <= 12_000 and "_1_" not in file.name and "_2_" not in file.name:
            write("image", file.name, file.read_bytes())
    write("image", "digit.png", (ROOT / "models/digits/1/golden/7_0.png").read_bytes())
    profile = chunk(b"iCCP", b"p\0\0" + zlib.compress(bytes(4 << 20), 9))
    text = chunk(b"zTXt", b"k\0\0" + zlib.compress(bytes(100_000), 9))
    gray = bytes(9 * 8)
    write("image", "profile.png", png(8, 8, 8, 0, gray, profile))
    write("image", "texts.png", png(8, 8, 8, 0, gray, *[text] * 4))
    write("image", "one_bit.png", png(512, 512, 1, 0, bytes(65 * 512)))
    write("image", "rgba16_interlaced.png", png(8, 8, 16, 6, bytes(600), interlace=1))
    write("image", "palette.png", png(8, 8, 8, 3, gray, chunk(b"PLTE", b"\1\2\3"), chunk(b"tRNS", b"\x80")))
    write("image", "too_wide.png", png(20_000, 1, 1, 0, bytes(2501)))
    write("image", "frame_beyond_screen.gif", gif((8, 8), (16_000, 8_000)))
    write("image", "one_pixel.gif", gif((1, 1), (1, 1)))
    write("image", "one_bit.bmp", bmp(8, 8, 1, 0, bytes(32)))
    write("image", "rgb.bmp", bmp(4, -4, 24, 0, bytes(48)))
    write("image", "run_length.bmp", bmp(8, 8, 8, 1, b"\x08\x00\x00\x00" * 8 + b"\x00\x01"))
    write("image", "one_colour.webp", webp_of_one_colour(256, 256))
    write("image", "one_colour_too_large.webp", webp_of_one_colour(16_383, 2_048))


def bodies() -> None:
    picture = base64.b64encode((ROOT / "models/digits/1/golden/7_0.png").read_bytes()).decode()
    for name, body in {
        "text": '{"inputs": "A wonderful film."}',
        "texts": '{"model": "sentiment", "inputs": ["a\\tb", {"text": "\\u00e9\\ud83d\\ude00"}], "top_k": 1}',
        "picture": '{"model": "digits", "inputs": [{"image": "%s"}], "top_k": 2}' % picture,
        "data_uri": '{"inputs": {"image": "data:image/png;base64,%s"}, "timeout_ms": 500}' % picture[:64],
        "options": '{"inputs": ["a"], "top_k": 4294967295, "timeout_ms": 1, "priority": "high", "model": null}',
        "unknown_key": '{"inputs": ["a"], "topk": [1, 2.5e3, true, {"a": null}]}',
        "twice": '{"inputs": "a", "inputs": "b"}',
        "deep": '{"inputs": %s}' % ("[" * 200),
        "many": '{"inputs": [%s]}' % ",".join(['"a"'] * 600),
        "long_name": '{"inputs": "a", "model": "%s"}' % ("\u200b" * 300),
    }.items():
        write("json", name, body)
    part = '--XX\r\nContent-Disposition: form-data; name="%s"%s\r\n\r\n%s\r\n'
    form = "multipart/form-data; boundary=XX\n%s\n%s--XX--\r\n"
    digit = part % ("image", '; filename="7.png"\r\nContent-Type: image/png', "\x89PNG")
    for name, body in {
        "picture": form % ("", digit + part % ("top_k", "", "2")),
        "texts": form % ("top_k=1", part % ("text", "", "a") + part % ("text", "", "b") + part % ("model", "", "m")),
        "options": form
        % ("priority=high", part % ("timeout_ms", "", " 5 ") + part % ("priority", "", "low") + part % ("text", "", "a")),
        "charset": form % ("", part % ("text", "\r\nContent-Type: text/plain; charset=utf-8", "a")),
        "encoded": form % ("model=a%20b&top_k=3", part % ("text", "; filename*=UTF-8''a%20b", "a")),
        "unknown": form % ("", part % ("nothing", "", "a")),
        "quoted": 'Multipart/Form-Data; charset=utf-8; boundary="a b"\n\n--a b\r\n\r\n\r\n--a b--\r\n',
        "text": "text/plain; charset=us-ascii\nmodel=sentiment&timeout_ms=100\nA wonderful film.",
        "json": 'application/json\ntop_k=3\n{"inputs": "a", "top_k": 3}',
        "raw": "image/png\n\n\x89PNG",
    }.items():
        write("multipart", name, body.encode("latin-1"))


def texts() -> None:
    for name, text in {
        "review": "I was moved to tears. <br /><br />The acting, though, isn't what it was in the '80s: 3/10!",
        "blank": " \t\n\u00a0\u3000",
        "accents": "\ufeffE\u0301te\u0301 na\u00efve \u1e9e \ufb03 \u0130stanbul \u01c5",
        "other_scripts": "\u5f88\u597d\u7684\u7535\u5f71 \u0641\u064a\u0644\u0645 \u0e20\u0e32\u0e1e\u0e22\u0e19\u0e15\u0e23\u0e4c \u043a\u0438\u043d\u043e",
        "emoji": "\U0001f600\U0001f468\u200d\U0001f469\u200d\U0001f467 \u2764\ufe0f \U0001f1e9\U0001f1ea",
        "marks": "a" + "\u0301" * 300,
        "long_word": "a" * 3000,
        "many_words": "apple banana pear " * 300,
        "tags": "<br" * 200 + "/>" * 100,
        "special": "[CLS] [PAD] [UNK] <s> </s> <pad> <unk>",
    }.items():
        write("text", name, text)


def directories() -> None:
    names = ["config.json", "preprocessor_config.json", "tokenizer.json", "tokenizer_config.json", "serving.toml"]
    golden = '{"tolerance": 0.001, "samples": [{"file": "golden.txt", "label": "%s", "scores": [%s]}]}'
    models = {path.parent.name: path for path in sorted(MODELS.glob("*/1"))}
    models |= {path.parent.name: path for path in sorted((ROOT / "models").glob("*/1"))}
    for name, path in models.items():
        if name in ("fails", "hang", "nan", "slow", "sentiment"):
            continue
        files = {file: (path / file).read_text() for file in names if (path / file).exists()}
        if name == "linear":
            files["golden.json"] = golden % ("a", "0.5, 0.25, 0.25")
        if name == "words":
            files["golden.json"] = golden % ("a", "0.5, 0.25, 0.25")
        write("directory", name, "".join(f"--- {file}\n{content}\n" for file, content in files.items()))


images()
bodies()
texts()
directories()
