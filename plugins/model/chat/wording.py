"""What a small size of a family writes around its texts: special tokens and a minimal chat template, of our own."""

from __future__ import annotations

from dataclasses import dataclass

END_OF_TEXT = "<|endoftext|>"
TURN_START = "<|im_start|>"
TURN_END = "<|im_end|>"


@dataclass(frozen=True)
class Wording:
    """A family's own, for its small sizes; a checkpoint brings its own along.

    Attributes:
        special_tokens: What ends a text, what ends an answer, and what else the template needs.
        template: The chat template, in Jinja.
    """

    special_tokens: tuple[str, ...]
    template: str


def chat_template(image: str) -> str:
    """Write turns in ChatML, the shape that most families' own templates have.

    Args:
        image: What the template writes where an image stands.
    """
    return (
        f"{TURN_START}system\nYou are a helpful assistant.{TURN_END}\n"
        f"{{% for message in messages %}}{TURN_START}{{{{ message.role }}}}\n"
        "{% for part in message.content %}"
        f"{{% if part.type == 'image' %}}{image}"
        "{% else %}{{ part.text }}{% endif %}"
        f"{{% endfor %}}{TURN_END}\n{{% endfor %}}"
        f"{{% if add_generation_prompt %}}{TURN_START}assistant\n{{% endif %}}"
    )
