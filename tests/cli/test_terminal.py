"""What a person at a terminal sees of a running study."""

import errno
import fcntl
import os
import pty
import re
import struct
import termios
from pathlib import Path

import pytest

from .place import Place, study_words

pytestmark = pytest.mark.slow

ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


def read_all(end: int) -> str:
    """Everything that a terminal is sent until the last process closes it."""
    chunks: list[bytes] = []
    while True:
        try:
            chunk = os.read(end, 65536)
        except OSError as error:
            if error.errno != errno.EIO:  # how Linux reports the end
                raise
            chunk = b""
        if not chunk:
            return b"".join(chunks).decode()
        chunks.append(chunk)


def test_live_display(small: Place, prompts: Path) -> None:
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 120, 0, 0))
    words = [*study_words(small, "live", prompts=prompts), "--family", "random", "--seed", "7"]
    process = small.start(*words, "--evaluations", "6", stdin=theirs, stdout=theirs, stderr=theirs)
    os.close(theirs)
    raw = read_all(ours)
    os.close(ours)
    assert process.wait() == 0, raw[-2000:]
    assert "\x1b[" in raw
    text = ESCAPES.sub("", raw).replace("\r", "")
    assert "Traceback" not in text
    loading = text.index("loading the model")
    assert loading < text.index("study live   search") < text.index("study live   verification")
    assert re.search(r"\d:\d\d used, \d+% of the budget   front \d+   hypervolume 0\.\d+   failed 0", text)
    table = text[text.rindex(" schedule ") :].splitlines()
    assert max(map(len, table)) <= 120
    members = small.front("live")
    assert len(members) >= 2
    for member in members:
        (line,) = [line for line in table if line.lstrip().startswith(str(member["schedule_hash"])[:8])]
        assert str(member["label"]) in line  # on one line
    assert text.rstrip().endswith("balanced.schedule.json')")
