#!/bin/sh
# accelerate 1.15.0 with torch 2.13.0: a timeout of exactly 600 seconds is ignored for the backend gloo.
#
# `InitProcessGroupKwargs` passes on only the values that differ from those of an object without arguments. The timeout
# of such an object is that of its default backend, nccl: 600 seconds. So a timeout of 600 seconds counts as not given
# although another backend was chosen, and gloo waits for its own default, 1,800 seconds. With 599 or 601 seconds, the
# group has the timeout that was asked for. Seen on 2026-12-01:
#
#     asked 599 s, group waits 599 s
#     asked 600 s, group waits 1800 s
#     asked 601 s, group waits 601 s
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 accelerate==1.15.0 numpy
cat > "$folder/timeout.py" <<'PYTHON'
import os
import sys
from datetime import timedelta

import torch
from accelerate import Accelerator, InitProcessGroupKwargs

asked = int(sys.argv[1])
os.environ.update(RANK="0", WORLD_SIZE="1", LOCAL_RANK="0", MASTER_ADDR="127.0.0.1", MASTER_PORT=sys.argv[2])
os.environ["ACCELERATE_USE_CPU"] = "true"
handler = InitProcessGroupKwargs(backend="gloo", timeout=timedelta(seconds=asked))
Accelerator(cpu=True, kwargs_handlers=[handler])
group = torch.distributed.group.WORLD._get_backend(torch.device("cpu"))
print(f"asked {asked} s, group waits {group.options._timeout.total_seconds():.0f} s")
PYTHON
for seconds in 599 600 601; do
    "$folder/venv/bin/python" "$folder/timeout.py" "$seconds" "$((29000 + seconds))"
done | tee "$folder/seen"
cat > "$folder/expected" <<'TEXT'
asked 599 s, group waits 599 s
asked 600 s, group waits 1800 s
asked 601 s, group waits 601 s
TEXT
diff "$folder/expected" "$folder/seen"
