#!/bin/sh
# transformers 5.23.0: for InternVL, a crop of 40 x 30 pixels costs 13 times as many tokens as one of 30 x 30, and almost twice
# as many as the photograph of 1000 x 667 from which it was cut.
#
# The image processor enlarges an image to the grid of tiles whose ratio of sides is nearest to that of the image, and does not
# look at the size: 4:3 has one grid of at most 12 tiles, 4 x 3, and 3:2 has 3 x 2. With a small copy of the whole image, that
# is 13 and 7 tiles of 256 tokens. A square needs no second tile. So what a segment costs depends on its ratio alone, and
# segments of a few pixels can fill the context. With the settings of InternVL3's files, seen on 2026-12-02:
#
#     30 x 30: 256 tokens
#     40 x 30: 3328 tokens
#     60 x 30: 768 tokens
#     1000 x 667: 1792 tokens
#     4000 x 3000: 3328 tokens
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 transformers==5.23.0 pillow
cat > "$folder/tiles.py" <<'PYTHON'
from PIL import Image
from transformers.models.got_ocr2.image_processing_pil_got_ocr2 import GotOcr2ImageProcessorPil

TOKENS_PER_TILE = 256
settings = {"crop_to_patches": True, "min_patches": 1, "max_patches": 12}
processor = GotOcr2ImageProcessorPil(size={"height": 448, "width": 448}, **settings)
for size in ((30, 30), (40, 30), (60, 30), (1000, 667), (4000, 3000)):
    tiles = processor(images=[Image.new("RGB", size)], return_tensors="pt")["num_patches"]
    print(f"{size[0]} x {size[1]}: {int(tiles[0]) * TOKENS_PER_TILE} tokens")
PYTHON
"$folder/venv/bin/python" "$folder/tiles.py" | tee "$folder/seen"
cat > "$folder/expected" <<'TEXT'
30 x 30: 256 tokens
40 x 30: 3328 tokens
60 x 30: 768 tokens
1000 x 667: 1792 tokens
4000 x 3000: 3328 tokens
TEXT
diff "$folder/expected" "$folder/seen"
