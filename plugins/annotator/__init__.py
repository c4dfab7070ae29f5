"""Annotators: plugins that write the summaries of a data set."""
