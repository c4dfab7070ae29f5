"""The three steps of a trial, each written against the protocols alone, each leaving an artifact and a record."""
