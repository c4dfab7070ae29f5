#!/bin/sh
# supervision 0.27.0: names in the answers of PaliGemma end at the first character that is no letter, digit, underscore,
# hyphen or white space.
#
# `Detections.from_vlm` reads "<loc…><loc…><loc…><loc…> NAME" and keeps of NAME what comes before such a character, without a
# warning: "AT&T" becomes "AT", and "U.S. flag" becomes "U". Its readers for Qwen3-VL and DeepSeek-VL2 keep whole names. If the
# names are given as `classes`, the boxes with a shortened name are dropped. So entities of the same image count as missed with
# one model family only. Seen on 2026-12-02, for five entities with a box each:
#
#     PALIGEMMA: 5 boxes: AT | St | Jean-Luc | U | LeBron James; 1 with classes
#     QWEN_3_VL: 5 boxes: AT&T | St. John's church | Jean-Luc | U.S. flag | LeBron James (NBA); 5 with classes
#     DEEPSEEK_VL_2: 5 boxes: AT&T | St. John's church | Jean-Luc | U.S. flag | LeBron James (NBA); 5 with classes
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet supervision==0.27.0 opencv-python-headless==4.12.0.88
cat > "$folder/read_names.py" <<'PYTHON'
import json

from supervision import VLM, Detections

names = ["AT&T", "St. John's church", "Jean-Luc", "U.S. flag", "LeBron James (NBA)"]
answers = {
    VLM.PALIGEMMA: " ; ".join(f"<loc0100><loc0200><loc0300><loc0400> {name}" for name in names),
    VLM.QWEN_3_VL: json.dumps([{"bbox_2d": [200, 100, 400, 300], "label": name} for name in names]),
    VLM.DEEPSEEK_VL_2: "".join(f"<|ref|>{name}<|/ref|><|det|>[[200, 100, 400, 300]]<|/det|>" for name in names),
}
for family, answer in answers.items():
    found = Detections.from_vlm(family, result=answer, resolution_wh=(640, 480))
    known = Detections.from_vlm(family, result=answer, resolution_wh=(640, 480), classes=names)
    print(f"{family.name}: {len(found)} boxes: {' | '.join(found['class_name'])}; {len(known)} with classes")
PYTHON
"$folder/venv/bin/python" "$folder/read_names.py" 2> "$folder/errors" | tee "$folder/seen"
cat > "$folder/expected" <<'TEXT'
PALIGEMMA: 5 boxes: AT | St | Jean-Luc | U | LeBron James; 1 with classes
QWEN_3_VL: 5 boxes: AT&T | St. John's church | Jean-Luc | U.S. flag | LeBron James (NBA); 5 with classes
DEEPSEEK_VL_2: 5 boxes: AT&T | St. John's church | Jean-Luc | U.S. flag | LeBron James (NBA); 5 with classes
TEXT
diff "$folder/expected" "$folder/seen"
