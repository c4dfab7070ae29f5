#!/bin/sh
# label-studio-sdk 2.1.2: the COCO export of a turned rectangle is another box, unless its image is a square.
#
# Label Studio stores position and size of a rectangle in percent of the width and of the height of its image. The export to
# COCO turns the corners in these percents, and converts the result to pixels. On an image that is not a square, the units of
# the two axes differ, so that a rectangle of 400 x 100 pixels that is turned by 90 degrees becomes a square of 200 x 200.
# The conversion to YOLO's oriented boxes, in the same package, converts to pixels first and is right.
# An image of 2000 x 1000 pixels, and the smallest upright box around the rectangle as left, top, right, bottom in pixels, seen
# on 2026-12-02:
#
#     turned by 0 degrees: COCO 1000 500 1400 600, YOLO 1000 500 1400 600
#     turned by 30 degrees: COCO 900 500 1346 687, YOLO 950 500 1346 787
#     turned by 90 degrees: COCO 800 500 1000 700, YOLO 900 500 1000 900
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet label-studio-sdk==2.1.2
cat > "$folder/turned.py" <<'PYTHON'
import json
import sys
from pathlib import Path

from label_studio_sdk.converter import Converter
from label_studio_sdk.converter.utils import convert_annotation_to_yolo_obb

CONFIG = """
<View>
  <Image name="image" value="$image"/>
  <RectangleLabels name="label" toName="image"><Label value="PER"/></RectangleLabels>
</View>
"""
SIZE = {"original_width": 2000, "original_height": 1000}
ANGLES = (0, 30, 90)
folder = Path(sys.argv[1])


def task(angle):
    sides = {"x": 50, "y": 50, "width": 20, "height": 10, "rotation": angle}
    region = {"id": "region", "type": "rectanglelabels", "from_name": "label", "to_name": "image", **SIZE}
    annotation = {
        "id": angle,
        "completed_by": {"email": "annotator@example.org"},
        "result": [{**region, "value": {**sides, "rectanglelabels": ["PER"]}}],
    }
    return sides, {"id": angle, "data": {"image": f"{angle}.png"}, "annotations": [annotation]}


sides, tasks = zip(*map(task, ANGLES))
(folder / "tasks.json").write_text(json.dumps(tasks))
converter = Converter(CONFIG, project_dir=str(folder), download_resources=False)
converter.convert_to_coco(folder / "tasks.json", folder / "coco", is_dir=False)
boxes = [annotation["bbox"] for annotation in json.loads((folder / "coco" / "result.json").read_text())["annotations"]]
for angle, side, (left, top, width, height) in zip(ANGLES, sides, boxes):
    corners = convert_annotation_to_yolo_obb({**side, **SIZE}, normalize=False)
    yolo = (*map(min, zip(*corners)), *map(max, zip(*corners)))
    coco = (left, top, left + width, top + height)
    shown = (f"{name} {' '.join(f'{side:.0f}' for side in box)}" for name, box in (("COCO", coco), ("YOLO", yolo)))
    print(f"turned by {angle} degrees: {', '.join(shown)}")
PYTHON
"$folder/venv/bin/python" "$folder/turned.py" "$folder" | tee "$folder/seen"
cat > "$folder/expected" <<'TEXT'
turned by 0 degrees: COCO 1000 500 1400 600, YOLO 1000 500 1400 600
turned by 30 degrees: COCO 900 500 1346 687, YOLO 950 500 1346 787
turned by 90 degrees: COCO 800 500 1000 700, YOLO 900 500 1000 900
TEXT
diff "$folder/expected" "$folder/seen"
