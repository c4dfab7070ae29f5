"""Who writes the summaries of a data set: a server, or nobody."""
