"""The table of image tokens in the documentation is that of the command."""

import pytest

from bench.docs_table import read_between
from bench.image_tokens import DOCS, TABLE, table


@pytest.mark.slow
def test_the_table_of_image_tokens_stands_in_the_docs():
    assert read_between(DOCS, TABLE) == table()
