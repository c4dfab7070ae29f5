"""Settles what a checkpoint's chat template leaves open: the date of a prompt, and whether the model reasons first.

The settings are written into the template itself. So a saved model contains them, and transformers, vLLM and other
programs that render its template write the same prompts as the training.
"""

from __future__ import annotations

from datetime import date

PROMPT_DATE = date(2024, 7, 26)
"""The date in every prompt whose template asks for today's. With today's date, a training would differ from day to day,
and a trained model would get other prompts than in its training. It is the date that the templates of Llama 3.2 write
where no clock is available."""

_DATE_CODES = "YymBbdjAaHMS"
"""The codes of `strftime` for parts of a date. Published templates use the first, third, fourth, fifth and sixth."""


def settle_template(template: str) -> str:
    """Write the date and the absence of reasoning at the beginning of a template that asks for them.

    Answers here contain no reasoning. Templates of hybrid models, such as Qwen3.5, otherwise begin an answer with
    `<think>`, and the target would be trained as reasoning.

    Args:
        template: A chat template, in Jinja.

    Returns:
        The template; unchanged if it asks for neither, or is settled already.
    """
    lines = ""
    if "enable_thinking" in template:
        lines += "{% set enable_thinking = false %}\n"
    if "strftime_now" in template:
        codes = "".join(f' | replace("%{code}", "{PROMPT_DATE.strftime(f"%{code}")}")' for code in _DATE_CODES)
        lines += f"{{% macro strftime_now(format) %}}{{{{ format{codes} }}}}{{% endmacro %}}\n"
    # A newline after a block is dropped when a chat template is rendered.
    return template if template.startswith(lines) else lines + template
