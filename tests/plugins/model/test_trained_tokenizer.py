from transformers import AutoTokenizer

from plugins.model.chat.processor_and_images import train_tokenizer
from plugins.model.model_options_and_small_sizes import END_OF_TEXT, TURN_END, TURN_START, ChatFormat, chat_template

SPECIAL = (END_OF_TEXT, TURN_START, TURN_END, "<image>")


def trained(texts):
    return train_tokenizer(texts, 400, ChatFormat(SPECIAL, chat_template("<image>")))


def test_a_trained_tokenizer_depends_on_its_texts_but_not_on_their_order():
    texts = [f"word{place % 7} Jan Suneet {'x' * (place % 5)}" for place in range(50)]
    one, two = trained(texts), trained(texts[::-1])
    assert one.get_vocab() == two.get_vocab()
    assert len(one) <= 400
    assert set(SPECIAL) <= set(one.all_special_tokens)
    text = "emoji 🙂 and 東京\tare read byte by byte\n"
    assert one.decode(one(text)["input_ids"]) == text


def test_a_line_that_many_texts_share_becomes_one_token(tmp_path):
    instruction = "Please answer the following questions: who, where, and why?"
    texts = [f"{instruction}\nText: {name} <|im_end|> smiles\nTask 2:" for name in ("Jan", "Suneet", "Mina", "Omar")]
    made = trained(texts)
    made.save_pretrained(tmp_path)
    for tokenizer in (made, AutoTokenizer.from_pretrained(tmp_path)):
        ids = tokenizer(texts[0], split_special_tokens=True)["input_ids"]
        assert ids[0] == tokenizer.get_vocab()[instruction]
        assert tokenizer.decode(ids, skip_special_tokens=True) == texts[0]
        assert "Task 2:" not in tokenizer.get_vocab()
    assert len(made) <= 400
