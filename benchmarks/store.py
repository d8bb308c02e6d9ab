"""Where benchmark results go, and what every one of them says about its run."""

import datetime
import json
import os
import re
import shlex
import sys
from pathlib import Path
from typing import Any

from treadle.core import hardware

RESULTS = Path(__file__).parent / "results"


def write(theme: str, content: dict[str, Any]) -> Path:
    """Write `content` as results/<theme>_<hardware>_<yyyymm>.json, with command and machine."""
    machine = hardware.describe()
    today = datetime.date.today()
    slug = re.sub(r"[^a-z0-9]+", "-", f"{hardware.cpu_model()} {hardware.usable_cores()}c".lower())
    path = RESULTS / f"{theme}_{slug.strip('-')}_{today:%Y%m}.json"
    about = {
        "theme": theme,
        "date": str(today),
        "command": shlex.join(["python", *sys.argv]),
        "hardware": machine,
        "threads": os.environ.get("OMP_NUM_THREADS", "unset"),
    }
    RESULTS.mkdir(exist_ok=True)
    beside = path.with_suffix(".partial")
    beside.write_text(json.dumps({**about, **content}, indent=1) + "\n")
    os.replace(beside, path)
    return path
