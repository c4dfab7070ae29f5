"""Makes `export.json` and `coco.json` in this folder with label-studio-sdk, whose packages are too large for the tests.

    python tests/plugins/source/label_studio_export/make_export.py

Needs label-studio-sdk 2.1 in any environment. The tasks are invented: an emoji before a span, a turned rectangle, and a
rectangle without a relation.
"""

import json
import tempfile
from pathlib import Path

from label_studio_sdk.converter import Converter
from label_studio_sdk.label_interface import LabelInterface
from PIL import Image

CONFIG = """<View>
  <Image name="image" value="$image"/>
  <RectangleLabels name="box" toName="image"><Label value="person"/><Label value="location"/></RectangleLabels>
  <Text name="text" value="$text"/>
  <Labels name="span" toName="text"><Label value="person"/><Label value="location"/></Labels>
  <Relations><Relation value="shows"/></Relations>
</View>"""
SIZE = (200, 100)
ROWS = (
    ("Ada in Rome", [("person", "Ada", (5, 10, 20, 40), 0), ("location", "Rome", (50, 0, 25, 50), 0)]),
    ("\U0001f600 so happy, Bo!", [("person", "Bo", (40, 20, 20, 20), 30)]),
    ("Cy alone", [("person", "Cy", None, 0)]),
)


def make_regions(number, text, label, word, percent, rotation):
    """Return the span of an entity, its rectangle and the relation between them, as the label interface makes them."""
    start = len(text[: text.index(word)].encode("utf-16-le")) // 2
    value = {"start": start, "end": start + len(word), "text": word, "labels": [label]}
    span = {"id": f"s{number}", "type": "labels", "from_name": "span", "to_name": "text", "value": value}
    if percent is None:
        return [span]
    sides = dict(zip(("x", "y", "width", "height"), percent, strict=True))
    rectangle = {
        "id": f"r{number}",
        "type": "rectanglelabels",
        "from_name": "box",
        "to_name": "image",
        "original_width": SIZE[0],
        "original_height": SIZE[1],
        "image_rotation": 0,
        "value": {**sides, "rotation": rotation, "rectanglelabels": [label]},
    }
    relation = {"type": "relation", "from_id": span["id"], "to_id": rectangle["id"], "direction": "right", "labels": []}
    return [span, rectangle, relation]


def main():
    """Validate the tasks, and convert them."""
    interface, here = LabelInterface(CONFIG), Path(__file__).parent
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        tasks = []
        for number, (text, entities) in enumerate(ROWS, start=1):
            Image.new("RGB", SIZE, (40 * number, 0, 0)).save(folder / f"0a1b2c3d-{number}.jpg")
            result = [region for index, row in enumerate(entities) for region in make_regions(index, text, *row)]
            annotation = {"id": 100 + number, "completed_by": 1, "result": result, "was_cancelled": False}
            data = {"image": f"/data/upload/1/0a1b2c3d-{number}.jpg", "text": text}
            assert interface.validate_annotation({"result": [each for each in result if each["type"] != "relation"]})
            tasks.append({"id": number, "data": data, "annotations": [annotation], "predictions": []})
        (folder / "tasks.json").write_text(json.dumps(tasks))
        converter = Converter(CONFIG, project_dir=None, upload_dir=str(folder), download_resources=False)
        converter.convert_to_json(str(folder / "tasks.json"), str(folder / "json"), is_dir=False)
        converter.convert_to_coco(str(folder / "tasks.json"), str(folder / "coco"), is_dir=False)
        exported = json.loads((folder / "json" / "result.json").read_text())
        (here / "export.json").write_text(json.dumps(exported, indent=1) + "\n")
        coco = json.loads((folder / "coco" / "result.json").read_text())
        del coco["info"]  # It has the date.
        (here / "coco.json").write_text(json.dumps(coco, indent=1) + "\n")


if __name__ == "__main__":
    main()
