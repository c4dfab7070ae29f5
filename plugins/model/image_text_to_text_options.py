"""Options of the model `image_text_to_text`."""

from __future__ import annotations

from plugins.model.chat.options import ChatModelOptions
from plugins.model.chat.wording import END_OF_TEXT, TURN_END, TURN_START, Wording

UTTERANCE_END, AROUND, IMAGE = "<end_of_utterance>", "<fake_token_around_image>", "<image>"

SPLIT = 2
"""Rows and columns of tiles of an image in a small size, at most."""


class ImageTextToTextOptions(ChatModelOptions):
    """Any checkpoint that transformers loads as an image-text-to-text model; of a small size, Idefics3."""

    wording = Wording(
        (
            *(END_OF_TEXT, TURN_START, TURN_END, UTTERANCE_END, AROUND, IMAGE, "<global-img>"),
            *(f"<row_{row}_col_{column}>" for row in range(1, SPLIT + 1) for column in range(1, SPLIT + 1)),
        ),
        f"{{% for message in messages %}}{TURN_START}{{{{ message.role }}}}: "
        "{% for part in message.content %}"
        f"{{% if part.type == 'image' %}}{IMAGE}{{% else %}}{{{{ part.text }}}}{{% endif %}}"
        f"{{% endfor %}}{UTTERANCE_END}\n{{% endfor %}}"
        f"{{% if add_generation_prompt %}}{TURN_START}assistant: {{% endif %}}",
    )
