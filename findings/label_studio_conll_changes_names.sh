#!/bin/sh
# label-studio-sdk 2.1.2: the CoNLL export changes some of the names that were marked in a tweet, and loses others.
#
# The export cuts texts with NLTK's Treebank tokenizer, which expects one sentence. A full stop stays on the last word of each
# sentence but the last one. A token that holds a part of a marked name gets its label as a whole. So the name "Obama", marked
# without the stop, is exported as "Obama." where a sentence follows, and "Clinton" as it was marked at the end of the text. Of
# two names in one token, such as "Lakers-Celtics", the second one is lost without a warning. Exact matching of names against
# the marked ones then fails, and depends on where in the text a name stands. Seen on 2026-12-02:
#
#     marked: Obama (PER) | Boston (LOC) | Lakers (ORG) | Celtics (ORG) | Clinton (PER)
#     exported: Obama. (PER) | Boston (LOC) | Lakers-Celtics (ORG) | Clinton (PER)
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet label-studio-sdk==2.1.2
cat > "$folder/export_names.py" <<'PYTHON'
import json
import sys
from pathlib import Path

from label_studio_sdk.converter import Converter

FOLDER = Path(sys.argv[1])
TEXT = "Thanks Obama. See you in Boston, Lakers-Celtics is tonight, says Clinton."
NAMES = {"Obama": "PER", "Boston": "LOC", "Lakers": "ORG", "Celtics": "ORG", "Clinton": "PER"}
VIEW = """<View>
  <Labels name="label" toName="text"><Label value="PER"/><Label value="LOC"/><Label value="ORG"/></Labels>
  <Text name="text" value="$text"/>
</View>"""


def region(name):
    start = TEXT.index(name)
    value = {"start": start, "end": start + len(name), "text": name, "labels": [NAMES[name]]}
    return {"id": name, "from_name": "label", "to_name": "text", "type": "labels", "value": value}


task = {"id": 1, "data": {"text": TEXT}, "annotations": [{"id": 1, "result": [region(name) for name in NAMES]}]}
(FOLDER / "tasks.json").write_text(json.dumps([task]))
converter = Converter(VIEW, project_dir=str(FOLDER))
converter.convert_to_conll2003(str(FOLDER / "tasks.json"), str(FOLDER / "exported"), is_dir=False)
rows = [line.split() for line in (FOLDER / "exported" / "result.conll").read_text().splitlines()[1:] if line]
found = [(token, tag.partition("-")[2]) for token, _, _, tag in rows if tag != "O"]
for title, names in (("marked", NAMES.items()), ("exported", found)):
    print(f"{title}: {' | '.join(f'{name} ({label})' for name, label in names)}")
PYTHON
"$folder/venv/bin/python" "$folder/export_names.py" "$folder" 2> "$folder/errors" | tee "$folder/seen"
cat > "$folder/expected" <<'TEXT'
marked: Obama (PER) | Boston (LOC) | Lakers (ORG) | Celtics (ORG) | Clinton (PER)
exported: Obama. (PER) | Boston (LOC) | Lakers-Celtics (ORG) | Clinton (PER)
TEXT
diff "$folder/expected" "$folder/seen"
