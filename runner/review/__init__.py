"""The page on which people check the summaries of a data set."""
