#!/bin/sh
# nervaluate 1.2.1: the strict score of an exact prediction depends on what is listed before it.
#
# Each prediction takes one gold entity: the equal one or, if none is equal, the first that it overlaps, which then counts as
# "incorrect" and is no longer free. So a prediction that overlaps an entity in part takes it away from a later prediction that
# is equal to it, and the later one is "spurious". With the same two predictions in the other order, strict F1 is 0.667 and
# not 0. Generated answers list entities in any order, and may contain a name and a part of it; tagged tokens cannot.
# Seen on 2026-12-02:
#
#     a part, then the whole: strict 0.000, exact 0.000, partial 0.333, ent_type 0.667
#     the whole, then a part: strict 0.667, exact 0.667, partial 0.667, ent_type 0.667
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet nervaluate==1.2.1
cat > "$folder/order.py" <<'PYTHON'
from nervaluate import Evaluator

WHOLE = {"label": "PER", "start": 0, "end": 2}
PART = {"label": "PER", "start": 0, "end": 1}
for name, predicted in {"a part, then the whole": [PART, WHOLE], "the whole, then a part": [WHOLE, PART]}.items():
    scores = Evaluator([[WHOLE]], [predicted], tags=["PER"], loader="dict").evaluate()["overall"]
    shown = (f"{strategy} {scores[strategy].f1:.3f}" for strategy in ("strict", "exact", "partial", "ent_type"))
    print(f"{name}: {', '.join(shown)}")
PYTHON
"$folder/venv/bin/python" "$folder/order.py" | tee "$folder/seen"
cat > "$folder/expected" <<'TEXT'
a part, then the whole: strict 0.000, exact 0.000, partial 0.333, ent_type 0.667
the whole, then a part: strict 0.667, exact 0.667, partial 0.667, ent_type 0.667
TEXT
diff "$folder/expected" "$folder/seen"
