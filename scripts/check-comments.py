#!/usr/bin/env python3
"""Fails if a line of a Rust comment is longer than 100 columns. rustfmt wraps code, not comments.

Tables, links and code inside of a comment may be longer.
"""

import re
import subprocess
import sys

COLUMNS = 100
COMMENT = re.compile(r"\s*//[/!]?(?: (?P<text>.*))?$")


def long_lines(path: str) -> list[int]:
    """Numbers of the comment lines in a file that are too long."""
    found = []
    in_code = False
    with open(path, encoding="utf-8") as file:
        for number, line in enumerate(file, start=1):
            line = line.rstrip("\n")
            comment = COMMENT.match(line)
            if not comment:
                in_code = False
                continue
            text = (comment["text"] or "").strip()
            if text.startswith("```"):
                in_code = not in_code
            is_free = in_code or text.startswith("|") or re.match(r"\[[^]]+\]: ", text) or " " not in text
            if len(line) > COLUMNS and not is_free:
                found.append(number)
    return found


def main() -> int:
    listed = subprocess.run(["git", "ls-files", "-z", "*.rs"], check=True, capture_output=True, text=True)
    files = [path for path in listed.stdout.split("\0") if path and not path.endswith("proto.rs")]
    places = [f"{path}:{number}" for path in files for number in long_lines(path)]
    for place in places:
        print(f"{place}: the comment is longer than {COLUMNS} columns")
    return 1 if places else 0


if __name__ == "__main__":
    sys.exit(main())
