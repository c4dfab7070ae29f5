"""The date and the reasoning of a checkpoint's chat template are settled in the template itself."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plugins.model.chat.processor_and_images import train_tokenizer
from plugins.model.chat.settled_template import PROMPT_DATE, settle_template
from plugins.model.model_options_and_small_sizes import END_OF_TEXT, TURN_END, TURN_START, ChatFormat

TURN = "{% for message in messages %}{{ message.content }}{% endfor %}"
FORMATS = ("%Y-%m-%d", "%d %b %Y", "%B %d, %Y", "%A, %j", "%H:%M:%S")


@pytest.fixture(scope="module")
def rendered():
    tokenizer = train_tokenizer(["a text"], 300, ChatFormat((END_OF_TEXT, TURN_START, TURN_END), TURN))

    def render(template, **more):
        message = {"role": "user", "content": "hello"}
        return tokenizer.apply_chat_template([message], chat_template=template, tokenize=False, **more)

    return render


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("before", ["", "\n", " \n"])
def test_the_date_is_the_same_on_every_day(rendered, form, before):
    dated = f"{before}{{% if strftime_now is defined %}}{{{{ strftime_now('{form}') }}}}{{% endif %}}|{TURN}"
    assert rendered(settle_template(dated)) == f"{before}{PROMPT_DATE.strftime(form)}|hello"


def test_the_date_is_known_in_macros_and_loops(rendered):
    dated = "{% macro today() %}{{ strftime_now('%Y') }}{% endmacro %}{% for _ in [1] %}{{ today() }}{% endfor %}"
    assert rendered(settle_template(dated)) == str(PROMPT_DATE.year)


@pytest.mark.parametrize(
    "asks",
    [
        "enable_thinking is defined and enable_thinking is false",
        "not (enable_thinking | default(true))",
        "not (enable_thinking is not defined or enable_thinking)",
    ],
)
def test_a_hybrid_model_answers_without_reasoning(rendered, asks):
    hybrid = TURN + f"{{% if {asks} %}}<think></think>{{% else %}}<think>{{% endif %}}"
    assert rendered(hybrid) == "hello<think>"
    assert rendered(settle_template(hybrid)) == "hello<think></think>"


@given(st.text(), st.sampled_from(["", "enable_thinking", "strftime_now", "strftime_now enable_thinking"]), st.text())
def test_a_settled_template_stays_as_it_is(before, asks, after):
    settled = settle_template(before + asks + after)
    assert settle_template(settled) == settled
    assert settled.endswith(before + asks + after)
    assert (settled == before + asks + after) == (asks == "")
