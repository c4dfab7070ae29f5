#!/bin/sh
# Pillow 13.0.0: `Image.resize` gives other pixels than Pillow 12.3.0 for a third of all sizes.
#
# Pillow resizes in two passes, and rounds to bytes in between. Up to version 12.3.0, the first pass is always horizontal.
# Version 13.0.0 makes the vertical pass first where that is less work, which is only so for images that shrink in height,
# and nearly always for those that shrink more in height than in width. Each version equals the two passes made by hand in its order. Nothing in a call selects the order, so image
# processors that resize with Pillow, such as those of Qwen-VL in transformers, give a model other pixels than the model
# was trained with. For 400 grey images of noise, with random old and new sizes from 20 to 400 pixels and the bicubic
# filter, seen on 2026-12-01:
#
#     12.3.0: horizontal first 397, vertical first 0, either 3
#     13.0.0: horizontal first 274, vertical first 123, either 3
#     largest difference of a pixel: 23 of 255
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cat > "$folder/order.py" <<'PYTHON'
import random
from pathlib import Path

import PIL
from PIL import Image

FOLDER = Path(__file__).parent
draw = random.Random(0)
orders = {"horizontal first": 0, "vertical first": 0, "either": 0}
resized = b""
for _ in range(400):
    width, height, new_width, new_height = (draw.randint(20, 400) for _ in range(4))
    image = Image.frombytes("L", (width, height), draw.randbytes(width * height))
    once = image.resize((new_width, new_height), Image.Resampling.BICUBIC).tobytes()
    steps = {"horizontal first": (new_width, height), "vertical first": (width, new_height)}
    equal = [
        order
        for order, step in steps.items()
        if image.resize(step, Image.Resampling.BICUBIC).resize((new_width, new_height), Image.Resampling.BICUBIC).tobytes()
        == once
    ]
    assert equal, "neither order"
    orders["either" if len(equal) == 2 else equal[0]] += 1
    resized += once
print(f"{PIL.__version__}:", ", ".join(f"{order} {number}" for order, number in orders.items()))
(FOLDER / f"{PIL.__version__}.bytes").write_bytes(resized)
if len(versions := sorted(FOLDER.glob("*.bytes"))) == 2:
    before, after = (file.read_bytes() for file in versions)
    differences = [abs(a - b) for a, b in zip(before, after)]
    print(f"largest difference of a pixel: {max(differences)} of 255")
PYTHON
for version in 12.3.0 13.0.0; do
    python3 -m venv "$folder/$version"
    "$folder/$version/bin/pip" install --quiet "pillow==$version"
    "$folder/$version/bin/python" "$folder/order.py"
done | tee "$folder/seen"
cat > "$folder/expected" <<'TEXT'
12.3.0: horizontal first 397, vertical first 0, either 3
13.0.0: horizontal first 274, vertical first 123, either 3
largest difference of a pixel: 23 of 255
TEXT
diff "$folder/expected" "$folder/seen"
